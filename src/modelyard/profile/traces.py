"""Trace files: what their layouts are, how one is told from its first lines, and reading one into a `Recording`.

| layout | a file of |
|---|---|
| `timestamps` | one instant per line, or in a column of a CSV: seconds, or ISO 8601 |
| `counts` | requests per interval, one interval per line or row |
| `azure-2019` | Azure Functions 2019: a row per function, a column per minute of a day |
| `azure-2021` | Azure Functions 2021: a row per invocation: app, func, end_timestamp, duration |
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Final, TextIO

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.domain.workload import TraceLayout
from modelyard.profile.recording import Recording

_TIMES: Final = ("timestamp", "time", "ts", "arrival", "arrival_time", "start_timestamp", "start_time", "datetime")
_COUNTS: Final = ("count", "counts", "requests", "invocations", "tweets", "rate")
_PEEK: Final = 200
_EPOCH_UNITS: Final = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
"""Instants above 1e11 s lie beyond the year 5000: they are the milli-, micro- or nanoseconds of an epoch clock."""
_MINUTE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A file of arrivals (plain or .gz) and how to read it; what is None is found out.

    `column`: name, or number from 1, of that of the instants or counts. `interval_s`: of a count (default 60).
    `function`: beginning of the name of the functions to take from an Azure file.
    """

    path: Path
    layout: TraceLayout | None = None
    column: str | None = None
    interval_s: float | None = None
    function: str | None = None

    def read(self) -> tuple[Recording, TraceLayout]:
        """The arrivals, and the layout they were read as. Raises NotFound; InvalidInput with the number of the line."""
        with self._opened() as file:
            head = list(islice(_rows(file), _PEEK))
        if not head:
            raise self._wrong(1, "there is nothing but empty lines and comments", hint="give a file of arrivals")
        layout = self.layout or _detected([row for _, row in head], self.column)
        reader: Callable[[TextIO], Recording] = {
            TraceLayout.TIMESTAMPS: self._timestamps,
            TraceLayout.COUNTS: self._counts,
            TraceLayout.AZURE_2019: self._azure_2019,
            TraceLayout.AZURE_2021: self._azure_2021,
        }[layout]
        try:
            with self._opened() as file:
                return reader(file), layout
        except InvalidInput as error:
            hint = error.hint or f"it was read as {layout}; --trace-layout says otherwise"
            raise InvalidInput(error.what, why=error.why, hint=hint) from error

    @contextmanager
    def _opened(self) -> Iterator[TextIO]:
        opened = gzip.open if self.path.suffix == ".gz" else open
        try:
            with opened(self.path, "rt", encoding="utf-8-sig") as file:
                yield file
        except FileNotFoundError as error:
            raise NotFound(
                f"there is no trace file {self.path}", hint="give its path, or the digest of one replayed before"
            ) from error
        except (OSError, UnicodeDecodeError, EOFError, csv.Error) as error:
            raise InvalidInput(f"{self.path} cannot be read as text", why=str(error)) from error

    def _wrong(self, line: int, text: str, hint: str = "") -> InvalidInput:
        return InvalidInput(f"{self.path}, line {line}: {text}", hint=hint)

    def _column(self, file: TextIO, names: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Line number and text of each cell of the wanted column, the header left out."""
        rows = _rows(file)
        line, first = next(rows)
        index, header = _column_of(first, self.column, names)
        if index is None:
            named = self.column or " or ".join(names)
            raise self._wrong(line, f"there is no column {named}", hint="name it, or give its number: --trace-column")
        if not header:
            yield line, first[index]
        for number, row in rows:
            if len(row) <= index:
                raise self._wrong(number, f"no cell {index + 1} in a row of {len(row)}")
            yield number, row[index]

    def _timestamps(self, file: TextIO) -> Recording:
        values = np.array([self._instant(line, cell) for line, cell in self._column(file, _TIMES)])
        return _instants(values)

    def _instant(self, line: int, cell: str) -> float:
        try:
            value = float(cell)
        except ValueError:
            try:
                moment = datetime.fromisoformat(cell)
            except ValueError:
                raise self._wrong(line, f"'{cell[:40]}' is no instant") from None
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        if not isfinite(value):
            raise self._wrong(line, f"'{cell[:40]}' is no instant")
        return value

    def _counts(self, file: TextIO) -> Recording:
        values = [self._count(line, cell) for line, cell in self._column(file, _COUNTS)]
        return Recording(np.array(values), self.interval_s or _MINUTE_S)

    def _count(self, line: int, cell: str) -> float:
        try:
            value = float(cell)
        except ValueError:
            value = -1.0
        if not (value >= 0 and value.is_integer()):
            raise self._wrong(line, f"'{cell[:40]}' is no number of requests")
        return value

    def _row_counts(self, line: int, cells: Sequence[str]) -> NDArray[np.float64]:
        """The counts of a row of many; one by one only where one of them is wrong, to name it."""
        with suppress(ValueError):
            values = np.array(cells, np.float64)
            if (values >= 0).all() and (values == np.floor(values)).all() and np.isfinite(values).all():
                return values
        return np.array([self._count(line, cell) for cell in cells])

    def _azure_2019(self, file: TextIO) -> Recording:
        rows = _rows(file)
        line, header = next(rows)
        if not _is_azure_2019(header):
            raise self._wrong(line, "the header is not HashOwner,HashApp,HashFunction,Trigger,1,2,...")
        first = header.index("1")
        total = np.zeros(len(header) - first)
        for number, row in rows:
            if not self._wanted(row[first - 2] if len(row) >= first else ""):
                continue
            if len(row) != len(header):
                raise self._wrong(number, f"{len(row)} cells under a header of {len(header)}")
            total += self._row_counts(number, row[first:])
        self._found(total.any())
        return Recording(total, self.interval_s or _MINUTE_S)

    def _azure_2021(self, file: TextIO) -> Recording:
        rows = _rows(file)
        line, header = next(rows)
        if not _is_azure_2021(header):
            raise self._wrong(line, "the header is not app,func,end_timestamp,duration")
        starts = []
        for number, row in rows:
            if len(row) != len(header):
                raise self._wrong(number, f"{len(row)} cells under a header of {len(header)}")
            cells = dict(zip(header, row, strict=True))
            if self._wanted(cells["func"]):
                starts.append(self._instant(number, cells["end_timestamp"]) - self._instant(number, cells["duration"]))
        self._found(bool(starts))
        return _instants(np.array(starts))

    def _wanted(self, function: str) -> bool:
        return self.function is None or function.startswith(self.function)

    def _found(self, any_request: object) -> None:
        if not any_request:
            of = f" of a function '{self.function}'" if self.function else ""
            raise InvalidInput(f"{self.path} holds no request{of}", hint="check --trace-function")


def _instants(values: NDArray[np.float64]) -> Recording:
    largest = float(np.abs(values).max(initial=0.0))
    unit = next((unit for above, unit in _EPOCH_UNITS if largest > above), 1.0)
    ordered = np.sort(values)  # logs are written when requests end, or by several processes
    return Recording((ordered - ordered[:1]) / unit)


def _rows(file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that is neither empty nor a comment (#)."""
    reader = csv.reader(file)
    for row in reader:
        cells = [cell.strip() for cell in row]
        if any(cells) and not cells[0].startswith("#"):
            yield reader.line_num, cells


def _column_of(first: Sequence[str], wanted: str | None, names: Sequence[str]) -> tuple[int | None, bool]:
    """The index of the wanted column, and whether `first` is a header; the only or last column where none is named."""
    lower = [cell.lower() for cell in first]
    if wanted is not None:
        if wanted.isdecimal():
            index = int(wanted) - 1
            return (index, not _is_value(first[index])) if 0 <= index < len(first) else (None, False)
        return (first.index(wanted), True) if wanted in first else (None, False)
    named = next((name for name in names if name in lower), None)
    if named is not None:
        return lower.index(named), True
    if len(first) == 1:
        return 0, not _is_value(first[0])
    return None, False


def _detected(rows: Sequence[Sequence[str]], column: str | None) -> TraceLayout:
    """The layout of a file from its first rows: by its header, else by whether its values only ever grow."""
    first = rows[0]
    if _is_azure_2019(first):
        return TraceLayout.AZURE_2019
    if _is_azure_2021(first):
        return TraceLayout.AZURE_2021
    lower = {cell.lower() for cell in first}
    if column is None and lower & set(_COUNTS):
        return TraceLayout.COUNTS
    if column is None and lower & set(_TIMES):
        return TraceLayout.TIMESTAMPS
    index, header = _column_of(first, column, ())
    cells = [row[index] for row in rows[header:] if index is not None and len(row) > index]
    grows = sorted(cells, key=_order) == cells and len(set(cells)) > 1
    whole = bool(cells) and all(cell.isdecimal() for cell in cells)
    return TraceLayout.COUNTS if whole and not grows else TraceLayout.TIMESTAMPS


def _order(cell: str) -> float:
    return float(cell) if _is_number(cell) else 0.0


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_value(cell: str) -> bool:
    return _is_number(cell) or cell[:4].isdecimal()


def _is_azure_2019(header: Sequence[str]) -> bool:
    return {"HashFunction", "Trigger", "1"} <= set(header)


def _is_azure_2021(header: Sequence[str]) -> bool:
    return {"func", "end_timestamp", "duration"} <= set(header)
