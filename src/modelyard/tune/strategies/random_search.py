"""Points drawn uniformly, without repetition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from modelyard.domain.study import Point, Trial
from modelyard.tune.ports import Kind, Proposal, Search, Stop
from modelyard.tune.strategies.untried import Untried


@dataclass(frozen=True, slots=True)
class RandomOptions:
    """There are none."""


class RandomSearch:
    """The same points in the same order for the same seed, however long the search takes."""

    def __init__(self, search: Search, options: RandomOptions) -> None:  # noqa: ARG002 - as every strategy
        self._search = search

    def propose(self, trials: Sequence[Trial], pending: Sequence[Point] = ()) -> Proposal | Stop:
        untried = Untried(self._search.space, trials, pending)
        # The same stream at every proposal: what was drawn before is passed over, so nothing has to be remembered.
        point = untried.draw(np.random.default_rng(self._search.seed))
        return Stop("every point of the space was tried") if point is None else Proposal(point, "drawn at random")


RANDOM: Final = Kind("random", RandomOptions, RandomSearch)
