"""Searches replayed on stored measurements: how far from the best a strategy is after so many measurements."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.tune.data import Cell, Exhaustive
from modelyard.domain.measurement import Interval
from modelyard.domain.study import Point, Prediction, Result, Trial, TrialState
from modelyard.tune.ports import Search, Stop
from modelyard.tune.space import Space
from modelyard.tune.strategies.registry import Strategies

WITHIN = 0.03
"""Regret that counts as found: the aim of the bench."""


@dataclass(frozen=True, slots=True)
class Run:
    """One replayed search: the true regret of the point that would be chosen after each measurement, as a share.

    `stopped` after so many measurements; infinite regret while nothing feasible was found.
    """

    strategy: str
    seed: int
    regrets: tuple[float, ...]
    stopped: int

    @property
    def found_after(self) -> int | None:
        """Measurements until the chosen point stayed within `WITHIN` of the best; None where it never did."""
        late = [k for k, regret in enumerate(self.regrets, 1) if regret > WITHIN]
        after = (late[-1] if late else 0) + 1
        return after if after <= len(self.regrets) else None


class Replay:
    """Answers proposals from one machine's stored cells, with fresh noise of the size that was measured."""

    def __init__(self, data: Exhaustive) -> None:
        self.data = data
        self.space = Space.parse(data.space)
        self._cells = {cell.point: cell for cell in data.cells}
        feasible = [c.truth.losses[0] for c in data.cells if c.truth is not None and c.truth.feasible]
        if not feasible:
            raise ValueError(f"nothing in the data of {data.model} is feasible")
        self.best = min(feasible)

    def run(self, strategy: str, seed: int, budget: int) -> Run:
        """One search of up to `budget` measurements; what the strategy does not use of it changes nothing."""
        search = Search(self.space, self.data.aim, self.data.default, budget, seed, self._predict)
        made = Strategies.discover().make(strategy, search)
        rng = np.random.default_rng([seed, zlib.crc32(strategy.encode())])
        trials: list[Trial] = []
        regrets: list[float] = []
        while len(trials) < budget:
            proposal = made.propose(trials)
            if isinstance(proposal, Stop):
                break
            trials.append(self._trial(len(trials) + 1, proposal.point, rng))
            regrets.append(self._regret(trials))
        stopped = len(trials)
        return Run(strategy, seed, tuple(regrets + regrets[-1:] * (budget - stopped)), stopped)

    def regret_of(self, point: Point) -> float:
        """How much worse a point is than the best, as a share; infinite where it is not feasible."""
        truth = self._cells[point].truth if point in self._cells else None
        if truth is None or not truth.feasible:
            return math.inf
        return math.expm1(max(0.0, truth.losses[0] - self.best))

    def _predict(self, point: Point) -> Prediction | None:
        return self._cells[point].prediction

    def _trial(self, number: int, point: Point, rng: np.random.Generator) -> Trial:
        cell = self._cells[point]
        noise = float(rng.standard_normal())
        result = _noisy(cell, noise) if cell.truth is not None else None
        return Trial(number, point, cell.state if result else TrialState.FAILED, "", result, cell.prediction)

    def _regret(self, trials: Sequence[Trial]) -> float:
        """True loss of the point that looks best so far, over the best there is."""
        seen = [t for t in trials if t.result is not None and t.result.feasible]
        if not seen:
            return math.inf
        chosen = min(seen, key=lambda t: t.result.losses[0] if t.result else math.inf)
        return self.regret_of(chosen.point)


def _noisy(cell: Cell, noise: float) -> Result:
    """The cell's truth, disturbed by what one search measurement of it is uncertain by."""
    truth, searched = cell.truth, cell.result
    assert truth is not None
    errors = searched.errors if searched is not None else truth.errors
    losses = tuple(loss + noise * error for loss, error in zip(truth.losses, errors, strict=True))
    factor = math.exp(noise * errors[0])
    p99 = truth.p99_ms and Interval(truth.p99_ms.value * factor, truth.p99_ms.low, truth.p99_ms.high)
    return replace(truth, losses=losses, errors=errors, p99_ms=p99, blocks=())
