"""Every point of the space, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from modelyard.domain.errors import InvalidInput
from modelyard.domain.study import Point, Trial
from modelyard.tune.ports import Kind, Proposal, Search, Stop


@dataclass(frozen=True, slots=True)
class GridOptions:
    """`levels`: values at which a knob without steps is tried, both ends included."""

    levels: int = 5

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise InvalidInput("a grid needs at least one level")


class Grid:
    """The points in the order of the space's knobs: the last knob changes first."""

    def __init__(self, search: Search, options: GridOptions) -> None:
        self._search, self._options = search, options

    def propose(self, trials: Sequence[Trial], pending: Sequence[Point] = ()) -> Proposal | Stop:
        known = {*(trial.point for trial in trials), *pending}
        for number, point in enumerate(self._search.space.walk(self._options.levels), 1):
            if point not in known:
                return Proposal(point, f"point {number} of the grid")
        return Stop("every point of the grid was tried")


GRID: Final = Kind("grid", GridOptions, Grid)
