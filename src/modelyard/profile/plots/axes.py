"""What the plots share: axes with grid and ticks, a legend, marks for kinds of points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from modelyard.profile.plots import svg
from modelyard.profile.plots.scales import Scale
from modelyard.profile.plots.svg import CHARACTER, LINE, WIDTH

_SWATCH: Final = 22.0
_GAP: Final = 14.0
# Five points, the inner corners at 0.38 of the outer ones, as a pentagram has them.
_STAR: Final = (
    (0, -1.7), (0.38, -0.52), (1.62, -0.53), (0.61, 0.2), (1, 1.38),
    (0, 0.65), (-1, 1.38), (-0.61, 0.2), (-1.62, -0.53), (-0.38, -0.52),
)  # fmt: skip
_OUTLINES: Final[Mapping[str, tuple[tuple[float, float], ...]]] = {
    "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "triangle": ((0, -1.3), (1.2, 0.9), (-1.2, 0.9)),
    "cross": ((-1, -1), (1, 1), (0, 0), (1, -1), (-1, 1), (0, 0)),
    "star": _STAR,
}


@dataclass(frozen=True, slots=True)
class Axes:
    """A plot's area and its two scales; turns values into places."""

    x: Scale
    y: Scale
    left: float
    top: float
    width: float
    height: float

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def right(self) -> float:
        return self.left + self.width

    def at_x(self, value: float) -> float:
        return self.left + self.width * self.x.share(value)

    def at_y(self, value: float) -> float:
        return self.bottom - self.height * self.y.share(value)

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.at_x(x), self.at_y(y)

    def draw(self, x_title: str, y_title: str) -> str:
        """Grid, ticks and titles (empty: none); that of y is above its axis, to be read without turning the head."""
        rules = [svg.line(self.at_x(v), self.top, self.at_x(v), self.bottom, "rule") for v, _ in self.x.ticks]
        rules += [svg.line(self.left, self.at_y(v), self.right, self.at_y(v), "rule") for v, _ in self.y.ticks]
        words = [svg.text(self.at_x(v), self.bottom + 16, name, "middle") for v, name in _apart(self)]
        words += [svg.text(self.left - 6, self.at_y(v) + 4, name, "end") for v, name in self.y.ticks]
        if x_title:
            words.append(svg.text(self.right, self.bottom + 16 + LINE, x_title, "end"))
        if y_title:
            words.append(svg.text(2, self.top - 10, y_title))
        return "".join([*rules, *words])


def below(height_of_head: float, x: Scale, y: Scale, *, height: float = 220.0) -> Axes:
    """Axes over the whole width, under a head (legend) of some height."""
    widest = max((len(name) for _, name in y.ticks), default=1)
    left = CHARACTER * widest + 12
    return Axes(x, y, left, height_of_head + LINE + 10, WIDTH - left - 14, height)


def total_height(axes: Axes) -> float:
    """Of a plot that ends with these axes."""
    return axes.bottom + 16 + LINE + 8


def _apart(axes: Axes) -> list[tuple[float, str]]:
    """The ticks of x that have room for their names: from the left, each clear of the last."""
    kept: list[tuple[float, str]] = []
    end = float("-inf")
    for value, name in axes.x.ticks:
        half = CHARACTER * len(name) / 2
        at = axes.at_x(value)
        if at - half >= end + 4 and at + half <= WIDTH:
            kept.append((value, name))
            end = at + half
    return kept


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a legend: a swatch (`line`, `bar`, `dash` or a mark's name) in the colour of a class, and words."""

    words: str
    swatch: str
    class_: str


def legend(entries: Sequence[Entry]) -> tuple[str, float]:
    """Entries from left to right, on as many lines as they need; with the height. Long words lose their middle."""
    most = int((WIDTH - _SWATCH - 8) / CHARACTER)
    parts, x, y = [], 0.0, 0.0
    for entry in entries:
        words = svg.shortened(entry.words, most)
        width = _SWATCH + 6 + CHARACTER * len(words)
        if x and x + width > WIDTH:
            x, y = 0.0, y + LINE
        parts.append(_swatch(entry, x, y + LINE / 2))
        parts.append(svg.group(svg.text(x + _SWATCH + 4, y + LINE / 2 + 4, words), hover=entry.words))
        x += width + _GAP
    return "".join(parts), (y + LINE + 4 if entries else 0.0)


def _swatch(entry: Entry, x: float, y: float) -> str:
    if entry.swatch in ("line", "dash", "limit"):
        return svg.line(x + 1, y, x + _SWATCH - 2, y, f"{entry.swatch} {entry.class_}")
    if entry.swatch == "bar":
        return svg.rect(x + 5, y - 6, 12, 12, f"bar {entry.class_}")
    return mark(entry.swatch, x + _SWATCH / 2, y, entry.class_)


def mark(kind: str, x: float, y: float, class_: str, size: float = 5.0, hover: str = "") -> str:
    """A point: `solid`, `hollow`, `diamond` (hollow), `triangle`, `cross` or `star`."""
    style = {"solid": "mark solid", "star": "mark solid"}.get(kind, "mark" if kind == "cross" else "mark hollow")
    inside = (svg.title(hover),) if hover else ()
    if kind in ("solid", "hollow"):
        return svg.tag("circle", *inside, cx=x, cy=y, r=size, class_=f"{style} {class_}")
    path = "L".join(f"{x + dx * size:.1f} {y + dy * size:.1f}" for dx, dy in _OUTLINES[kind])
    return svg.tag("path", *inside, d=f"M{path}Z", class_=f"{style} {class_}")
