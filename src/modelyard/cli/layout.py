"""The few shapes everything is shown in: tables, facts, notes, and numbers written one way."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from modelyard.domain.figures import figure
from modelyard.domain.measurement import FEWEST_BLOCKS, Interval

GOOD: Final = "green"
BAD: Final = "red"
DOUBTFUL: Final = "yellow"
FAINT: Final = "dim"
_UNBOUNDED: Final = 10_000
_NARROW: Final = 9
"""Characters of a remark in a column of numbers."""
STYLES: Final = {
    "proven": GOOD,
    "source": GOOD,
    "ready": GOOD,
    "ok": GOOD,
    "valid": GOOD,
    "rejected": BAD,
    "failed": BAD,
    "invalid": BAD,
    "missing": BAD,
    "provisional": DOUBTFUL,
    "degraded": DOUBTFUL,
    "optional": DOUBTFUL,
    "unproven": DOUBTFUL,
}
"""Colours only repeat what the word says: without colour nothing is lost."""


def word(text: object) -> Text:
    """A status word in its colour."""
    return Text(str(text), style=STYLES.get(str(text).split(",")[0], ""))


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[RenderableType]],
    *,
    right: str = "",
    empty: str,
    spare: Sequence[str] = (),
) -> RenderableType:
    """A table without frames. No rows: the line `empty`.

    Columns whose position in `right` is `>` are right-aligned, and like those with `=` never wrapped. Where there is
    too little room, columns named in `spare` are left out, the first ones first, and told.
    """
    found = [tuple(row) for row in rows]
    return _Fitting(tuple(columns), found, right, tuple(spare)) if found else Text(empty, style=FAINT)


@dataclass(frozen=True)
class _Fitting:
    """A table of as many of its columns as there is room for."""

    columns: tuple[str, ...]
    rows: list[tuple[RenderableType, ...]]
    right: str
    spare: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left_out: tuple[str, ...] = ()
        shown = self._table(left_out)
        for count in range(1, len(self.spare) + 1):
            if Measurement.get(console, options.update(max_width=_UNBOUNDED), shown).minimum <= options.max_width:
                break
            left_out = self.spare[:count]
            shown = self._table(left_out)
        yield shown
        if left_out:
            names = ", ".join(name.replace("\n", ", ") for name in left_out)
            yield Text(f"left out for want of room: {names}", style=FAINT)

    def _table(self, left_out: Sequence[str]) -> Table:
        shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        kept = [i for i, column in enumerate(self.columns) if column not in left_out]
        for i in kept:
            how = self.right[i : i + 1]
            shown.add_column(
                self.columns[i], justify="right" if how == ">" else "left", no_wrap=how in (">", "="), overflow="fold"
            )
        for row in self.rows:
            shown.add_row(*(row[i] for i in kept))
        return shown


def facts(rows: Iterable[tuple[str, RenderableType]]) -> RenderableType:
    """Names and values, one per line; empty values are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value != "" and value is not None:
            grid.add_row(name, value)
    return grid


def section(title: str, *body: RenderableType) -> RenderableType:
    """A titled part, indented."""
    return Group("", Text(title, style="bold cyan"), Padding(Group(*body), (0, 0, 0, 2)))


def number(value: float | None) -> str:
    """As `figure`; `-` where there is none."""
    return "-" if value is None or math.isnan(value) else figure(value)


def interval(value: Interval | None, blocks: int = FEWEST_BLOCKS) -> str:
    """A value over its bounds, which are from so many blocks: narrow enough for a table."""
    if value is None:
        return "-"
    if why := value.unusable(blocks):
        return "\n".join([number(value.value), *textwrap.wrap(why, _NARROW)])
    if value.low is None or value.high is None:
        return number(value.value)
    return f"{number(value.value)}\n{number(value.low)}–{number(value.high)}"


def size(count: int | None) -> str:
    """Bytes in binary units."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def money(value: float) -> str:
    """Two significant digits: a cost carries no more."""
    return f"{value:.2g}" if 1e-6 <= value < 10 else number(value)


def seconds(value: float) -> str:
    """A duration as people say it."""
    return f"{value:.1f} s" if value < 100 else f"{int(value // 60)} min {value % 60:.0f} s"


def when(timestamp: str) -> str:
    """An ISO timestamp to the minute."""
    return timestamp[:16].replace("T", " ")
