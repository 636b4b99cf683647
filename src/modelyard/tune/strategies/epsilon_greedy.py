"""Mostly the neighbours of the best point; now and then, anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from modelyard.domain.errors import InvalidInput
from modelyard.domain.study import Point, Trial
from modelyard.tune import evidence
from modelyard.tune.ports import Kind, Proposal, Search, Stop
from modelyard.tune.strategies.untried import Untried


@dataclass(frozen=True, slots=True)
class EpsilonGreedyOptions:
    """`epsilon`: the share of proposals drawn anywhere; it is multiplied by `decay` after every trial."""

    epsilon: float = 0.3
    decay: float = 0.97

    def __post_init__(self) -> None:
        if not (0 <= self.epsilon <= 1 and 0 < self.decay <= 1):
            raise InvalidInput("epsilon is from 0 to 1, and decay above 0 and at most 1")


class EpsilonGreedy:
    """Begins with the default configuration; exploits the best feasible point whose neighbours were not all tried."""

    def __init__(self, search: Search, options: EpsilonGreedyOptions) -> None:
        self._search, self._options = search, options

    def propose(self, trials: Sequence[Trial], pending: Sequence[Point] = ()) -> Proposal | Stop:
        untried = Untried(self._search.space, trials, pending)
        if self._search.default in untried:
            return Proposal(self._search.default, "the default configuration")
        turn = len(trials) + len(pending)
        rng = np.random.default_rng([self._search.seed, turn])
        if rng.random() >= self._options.epsilon * self._options.decay**turn:
            found = self._neighbour(trials, untried, rng)
            if found is not None:
                return found
        point = untried.draw(rng)
        return Stop("every point of the space was tried") if point is None else Proposal(point, "drawn at random")

    def _neighbour(self, trials: Sequence[Trial], untried: Untried, rng: np.random.Generator) -> Proposal | None:
        """A point next to the best one that has any left; None without a feasible trial."""
        known = evidence.weigh(trials, self._search.aim)
        loss, _ = known.scalar(evidence.weights(len(self._search.aim.objectives), rng))
        for i in np.argsort(np.where(known.feasible, loss, np.inf), kind="stable")[: int(known.feasible.sum())]:
            left = untried.among(self._search.space.neighbours(known.points[i]))
            if left:
                return Proposal(left[int(rng.integers(len(left)))], f"next to trial {trials[i].number}")
        return None


EPSILON_GREEDY: Final = Kind("epsilon-greedy", EpsilonGreedyOptions, EpsilonGreedy)
