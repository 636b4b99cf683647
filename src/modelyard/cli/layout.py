"""The few shapes everything is shown in: tables, facts, notes, and numbers written one way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from modelyard.domain.measurement import Interval

GOOD: Final = "green"
BAD: Final = "red"
DOUBTFUL: Final = "yellow"
FAINT: Final = "dim"
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
    columns: Sequence[str], rows: Iterable[Sequence[RenderableType]], *, right: str = "", empty: str
) -> RenderableType:
    """A table without frames; columns whose position in `right` is `>` are right-aligned. No rows: the line `empty`."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for i, column in enumerate(columns):
        to_right = right[i : i + 1] == ">"
        shown.add_column(column, justify="right" if to_right else "left", no_wrap=to_right, overflow="fold")
    for row in rows:
        shown.add_row(*row)
    return shown if shown.row_count else Text(empty, style=FAINT)


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
    """Three significant digits, no exponent between a thousandth and a million; `-` where there is none."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def interval(value: Interval | None) -> str:
    """A value over its bounds: narrow enough for a table."""
    if value is None:
        return "-"
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
