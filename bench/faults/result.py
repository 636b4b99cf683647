"""What a row found, and the table of docs/benchmarks.md that keeps it."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True)
class Result:
    """One row's figure in words, as the table has it, and whether the criterion is met."""

    figure: str
    passed: bool

    @property
    def verdict(self) -> str:
        """The figure with its verdict."""
        return f"{self.figure}: {'passed' if self.passed else 'MISSED'}"


@dataclass(frozen=True)
class Options:
    """How much of a row to run. `rate`: requests/s instead of the row's own; `limit_s` ends a row of many faults."""

    times: int = 50
    seconds: float = 3.0
    limit_s: float = 75.0
    rate: float | None = None

    @classmethod
    def of(cls, given: argparse.Namespace) -> Options:
        """From the command line."""
        return cls(given.times, given.seconds, given.limit, given.rate)

    def until(self) -> float:
        """When a row that begins now takes no more faults, by `time.perf_counter`."""
        return time.perf_counter() + self.limit_s


Row: TypeAlias = Callable[[Path, Options], Result]
"""A row of the fault table: a folder of its own to write to, and options."""

_BLOCK = re.compile(r"(?<=<!-- fault table -->\n).*?(?=<!-- end of the fault table -->)", re.DOTALL)
_FIGURE = 2
"""The column of `| row | criterion | figure | how |` that changes."""


def write(file: Path, found: dict[str, Result]) -> None:
    """Put figures into the table of a page; rows that did not run keep theirs. Raises ValueError without a table."""
    text = file.read_text()
    block = _BLOCK.search(text)
    if block is None:
        raise ValueError(f"{file} has no fault table between its two marks")
    lines = [_line(line, found) for line in block.group().splitlines(keepends=True)]
    file.write_text(text[: block.start()] + "".join(lines) + text[block.end() :])


def _line(line: str, found: dict[str, Result]) -> str:
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    result = found.get(cells[0].partition(" ")[0])
    if result is None or len(cells) <= _FIGURE:
        return line
    cells[_FIGURE] = result.verdict.replace("|", "/")
    return f"| {' | '.join(cells)} |\n"
