"""Horizontal bars in rows: one row per load, under the name of its configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from modelyard.profile.plots import svg
from modelyard.profile.plots.figure import Shown, by_configuration, in_order_of_load, load
from modelyard.profile.plots.svg import CHARACTER, LINE, WIDTH

MOST_ROWS: Final = 24
"""Rows of one plot; the table has them all."""
_ROW: Final = 22.0


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement and the top of its bar; `name` is the load, with the row of the table."""

    shown: Shown
    name: str
    top: float


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows one below the other with their names written; bars start at `left`."""

    rows: tuple[Row, ...]
    names: str
    left: float
    bottom: float

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


BAR: Final = 15.0
"""Height of a bar within its row."""


def rows(shown: Sequence[Shown], top: float) -> Rows:
    """Rows from `top` down, those of one configuration together, each by load."""
    groups = by_configuration(shown)
    names = {s.number: f"{s.number} · {load(s.measurement.workload)}" for s in shown}
    left = CHARACTER * max(len(name) for name in names.values()) + 8
    found, texts, y = [], [], top
    for label, group in groups.items():
        texts.append(svg.text(0, y + 13, svg.shortened(label, int(WIDTH / CHARACTER)), class_="strong"))
        y += LINE + 2
        for s in in_order_of_load(group):
            found.append(Row(s, names[s.number], y))
            texts.append(svg.text(0, y + 12, names[s.number], class_="wrong" if s.doubtful else None))
            y += _ROW
        y += 6
    return Rows(tuple(found), "".join(texts), left, y)
