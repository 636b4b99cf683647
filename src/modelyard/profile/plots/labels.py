"""Where the labels of a scatter plot stand so that each can be read: none on another, none on a point."""

from __future__ import annotations

from collections.abc import Sequence

from modelyard.profile.plots import svg

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

_DIRECTIONS = ((1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
"""Above right first, as readers expect; then round the point."""


def spread(points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], marker: float) -> list[Box]:
    """A box of the label's size for each point, as near to it as there is room; all in one unit of length.

    Greedy: labels are placed in turn on growing rings around their points. `marker` is the radius of a point.
    """
    taken: list[Box] = [(x - marker, y - marker, x + marker, y + marker) for x, y in points]
    placed: list[Box] = []
    for point, size in zip(points, sizes, strict=True):
        box = _first_free(point, size, marker, taken)
        taken.append(box)
        placed.append(box)
    return placed


def beside(places: Sequence[tuple[float, float]], texts: Sequence[str]) -> list[str]:
    """A text beside each place of a plot, with a line to it where there was room only farther away."""
    sizes = [(svg.CHARACTER * len(words) + 2, svg.LINE - 4) for words in texts]
    boxes = spread([(x, -y) for x, y in places], sizes, 6.0)
    found = []
    for words, (x, y), (left, low, right, high) in zip(texts, places, boxes, strict=True):
        middle, centre = (left + right) / 2, -(low + high) / 2
        if abs(middle - x) > 22 or abs(centre - y) > 22:
            found.append(svg.line(x, y, middle, centre, "rule"))
        found.append(svg.text(middle, centre + 4, words, "middle"))
    return found


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes share an area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _first_free(point: tuple[float, float], size: tuple[float, float], marker: float, taken: Sequence[Box]) -> Box:
    """Ends: on a ring beyond all that is taken every place is free."""
    (x, y), (width, height) = point, size
    ring = 0
    while True:
        reach = marker + ring * height / 2
        for right, up in _DIRECTIONS:
            # The label's centre lies half its own size beyond the ring.
            cx, cy = x + right * (reach + width / 2), y + up * (reach + height / 2)
            box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
            if not any(overlap(box, other) for other in taken):
                return box
        ring += 1
