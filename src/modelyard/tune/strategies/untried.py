"""The points of a space that were neither tried nor are being tried."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from modelyard.domain.study import Point, Trial
from modelyard.tune.space import Space

_DRAWS: Final = 1000
"""More than this many tried points in a row: what cannot be listed counts as exhausted."""


class Untried:
    """What is left of a space. Depends on its arguments only."""

    def __init__(self, space: Space, trials: Sequence[Trial], pending: Sequence[Point]) -> None:
        self._space = space
        self._known = {*(trial.point for trial in trials), *pending}

    def __contains__(self, point: Point) -> bool:
        return point not in self._known and self._space.check(point) is None

    def among(self, points: Iterable[Point]) -> list[Point]:
        """Those of some points of the space that are left, in their order."""
        return [point for point in points if point not in self._known]

    def draw(self, rng: np.random.Generator) -> Point | None:
        """The first point of a random order of the space that is left; None where none is."""
        if self._space.size is not None:
            points = self._space.points()
            order = rng.permutation(len(points))
            return next((points[i] for i in order if points[i] not in self._known), None)
        for _ in range(_DRAWS + len(self._known)):
            point = self._space.sample(rng)
            if point not in self._known:
                return point
        return None
