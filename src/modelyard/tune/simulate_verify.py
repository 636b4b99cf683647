"""The default strategy: simulate everything, measure only what the simulation cannot exclude.

The simulator's prediction of a point is the prior mean of a Gaussian process; what is learned from each measurement is
the simulator's *error* there, which near configurations share. So one measurement corrects the predictions of its whole
neighbourhood, and the search ends when no other point is expected to be better than the best by more than the
tolerance. (Kennedy and O'Hagan, 2000, Biometrika 87(1), for the discrepancy of a cheap code; Jones et al., 1998, J. of
Global Optimization 13, for expected improvement.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput
from modelyard.domain.study import Point, Prediction, Trial
from modelyard.tune.ports import Kind, Proposal, Search, Stop
from modelyard.tune.ranking import known_error

Vector = NDArray[np.float64]

_LENGTH: Final = 0.7
"""Distance in the encoded space at which the simulator's errors are little related: knobs run from 0 to 1 each, two
different choices (another artifact, say) are sqrt(2) apart and share an eighth of their error."""
_PRIOR_TRIALS: Final = 4.0
"""How many measurements the assumed size of the simulator's error weighs against what is seen of it."""
_LEAST_NOISE: Final = 1e-3
_FAR_WORSE: Final = 5.0
"""On the log scale: 150 times."""


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of `simulate-verify`.

    `tolerance`: stop when the expected improvement of every other point is below this share. `error`, `p99_error`: the
    simulator's error assumed before anything is measured, as a standard deviation on the log scale, of the objective
    and of p99. `margin`: how far below the SLO a p99 must be expected, as a share, for its interval to hold the SLO.
    `candidates`: points looked at where the space cannot be enumerated or has more.
    """

    tolerance: float = 0.01
    error: float = 0.15
    p99_error: float = 0.25
    margin: float = 0.1
    candidates: int = 2000

    def __post_init__(self) -> None:
        if not (min(self.tolerance, self.error, self.p99_error) > 0 and 0 <= self.margin < 1 and self.candidates >= 1):
            raise InvalidInput(
                "simulate-verify needs tolerance, error and p99_error above 0, margin from 0 to below 1, candidates "
                "of at least 1"
            )


class SimulateVerify:
    """See the module. Needs `search.predict`; a point without a prediction is never proposed."""

    def __init__(self, search: Search, options: Options) -> None:
        """Raises InvalidInput where nothing can be predicted."""
        if search.predict is None:
            raise InvalidInput(
                "simulate-verify has nothing to simulate with: no artifact has a batch-latency curve",
                hint="use --strategy bayesian",
            )
        self._search, self._options = search, options
        candidates = _candidates(search, options.candidates)
        if search.prepare is not None:
            search.prepare(candidates)
        found = [(p, search.predict(p)) for p in candidates]
        self._points: list[Point] = [p for p, prediction in found if prediction is not None]
        self._predicted: list[Prediction] = [prediction for _, prediction in found if prediction is not None]
        if not self._points:
            raise InvalidInput("none of the space's points can be simulated", hint="use --strategy bayesian")
        self._places = {p: k for k, p in enumerate(self._points)}
        self._encoded = np.array([search.space.encode(p) for p in self._points])
        # Half of the error's variance is one factor for all points, half is local.
        self._shape = 0.5 + 0.5 * _kernel(self._encoded, self._encoded)
        losses = np.array([p.losses for p in self._predicted])
        self._known_loss = np.isfinite(losses).all(axis=1)
        self._losses = _finite(losses)
        self._log_p99 = np.log(np.maximum([p.p99_ms for p in self._predicted], 1e-9))

    def propose(self, trials: Sequence[Trial], pending: Sequence[Point] = ()) -> Proposal | Stop:
        """The point of the largest expected improvement; Stop where that is below the tolerance everywhere."""
        taken = {t.point for t in trials} | set(pending)
        free = np.array([p not in taken for p in self._points])
        if not free.any():
            return Stop("every point that can be simulated was measured")
        known = [(self._places[t.point], t) for t in trials if t.result is not None and t.point in self._places]
        weights = _weights(len(trials), self._losses.shape[1], self._search.seed)
        objective = self._objective(known, weights)
        chance = self._chance_to_meet_the_slo(known) * self._chance_to_run(trials)
        if not any(t.feasible for _, t in known):
            return self._first(free, objective.mean, chance, bool(trials))
        best = min((k for k, t in known if t.feasible), key=lambda k: objective.mean[k])
        gain = np.where(free, chance * objective.improvement_on(best), -1.0)
        k = int(np.argmax(gain))
        if gain[k] < self._options.tolerance and not self._search.aim.pareto:
            enough = f"{100 * self._options.tolerance:.3g} %"
            return Stop(f"no other of {len(self._points)} simulated points is expected to be better by {enough}")
        return Proposal(self._points[k], f"expected to be {gain[k]:.1%} better than the best measured")

    def _first(self, free: NDArray[np.bool_], mean: Vector, chance: Vector, again: bool) -> Proposal:
        """While nothing feasible is known: the best of those that are likely enough to meet the SLO."""
        likely = free & (chance >= min(0.5, float(chance[free].max())))
        k = int(np.argmin(np.where(likely, mean, np.inf)))
        reason = "the best by simulation" + (", corrected by what was measured" if again else "")
        if self._search.aim.slo_ms is not None:
            reason += f"; meets the SLO with a chance of {chance[k]:.0%}"
        return Proposal(self._points[k], reason)

    def _objective(self, known: Sequence[tuple[int, Trial]], weights: Vector) -> Posterior:
        """The loss of every point, the simulator's prediction corrected; several objectives are weighed into one."""
        at, residuals, noise = [], [], []
        for k, trial in known:
            if trial.result is not None and all(map(math.isfinite, trial.result.losses)) and self._known_loss[k]:
                at.append(k)
                residuals.append(float(weights @ (np.array(trial.result.losses) - self._losses[k])))
                noise.append(float(np.hypot.reduce(weights * np.array([known_error(e) for e in trial.result.errors]))))
        return _corrected(
            self._losses @ weights, self._shape, at, np.array(residuals), np.array(noise), self._options.error
        )

    def _chance_to_meet_the_slo(self, known: Sequence[tuple[int, Trial]]) -> Vector:
        slo_ms = self._search.aim.slo_ms
        if slo_ms is None or self._search.aim.rate_rps is None:  # the goal `rate` looks for what meets it
            return np.ones(len(self._points))
        at, residuals = [], []
        for k, trial in known:
            p99 = trial.result.p99_ms if trial.result is not None else None
            if p99 is not None and 0 < p99.value < math.inf and math.isfinite(self._log_p99[k]):
                at.append(k)
                residuals.append(math.log(p99.value) - self._log_p99[k])
        noise = np.full(len(at), self._options.margin)
        posterior = _corrected(self._log_p99, self._shape, at, np.array(residuals), noise, self._options.p99_error)
        room = math.log(slo_ms * (1 - self._options.margin)) - posterior.mean
        chance = _normal_cdf(room / posterior.deviation)
        for k, trial in known:
            chance[k] = float(trial.feasible)
        return np.where([p.saturated for p in self._predicted], np.minimum(chance, 0.05), chance)

    def _chance_to_run(self, trials: Sequence[Trial]) -> Vector:
        """A point near one that failed is likely to fail as well: the share of what ran, weighed by nearness."""
        ran = np.full(len(self._points), 1.0)
        total = np.full(len(self._points), 1.0)
        for trial in trials:
            near = _kernel(self._encoded, self._search.space.encode(trial.point)[None])[:, 0]
            total += near
            ran += near * (trial.result is not None)
        return np.asarray(ran / total, np.float64)


@dataclass(frozen=True)
class Posterior:
    """Mean and covariance of a quantity over all points."""

    mean: Vector
    covariance: NDArray[np.float64]

    @property
    def deviation(self) -> Vector:
        return np.sqrt(np.maximum(np.diagonal(self.covariance), 1e-12))

    def improvement_on(self, best: int) -> Vector:
        """Expected improvement of every point on the point `best`, whose own uncertainty counts."""
        covariance = self.covariance
        variance = np.diagonal(covariance) + covariance[best, best] - 2 * covariance[:, best]
        deviation = np.sqrt(np.maximum(variance, 1e-12))
        z = (self.mean[best] - self.mean) / deviation
        density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return np.asarray(deviation * (z * _normal_cdf(z) + density), np.float64)


def _finite(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """(points, objectives): where the simulator expects no value (an infinite loss), one far worse than the worst."""
    known = np.where(np.isfinite(losses), losses, -np.inf).max(axis=0)
    worst = np.where(np.isfinite(known), known, 0.0) + _FAR_WORSE
    return np.where(np.isfinite(losses), losses, worst)


def _candidates(search: Search, most: int) -> list[Point]:
    space = search.space
    if space.size is not None and space.size <= most:
        return list(space.points())
    first = [search.default] if space.check(search.default) is None else []
    return list(dict.fromkeys([*first, *space.sobol(most - 1, search.seed)]))


def _corrected(
    prior: Vector, shape: NDArray[np.float64], at: Sequence[int], residuals: Vector, noise: Vector, error: float
) -> Posterior:
    """The prior mean plus what the residuals at the points `at` say of the simulator's error everywhere.

    `shape`: the error's correlation. Its size is the assumed one, pulled towards the one that is seen.
    """
    places = list(at)
    if not places:
        return Posterior(prior, error**2 * shape)
    seen = shape[np.ix_(places, places)]
    noises = np.diag(np.maximum(noise, _LEAST_NOISE) ** 2)
    whitened = float(residuals @ np.linalg.solve(error**2 * seen + noises, residuals))
    variance = error**2 * (_PRIOR_TRIALS + whitened) / (_PRIOR_TRIALS + len(places))
    gain = np.linalg.solve(variance * seen + noises, variance * shape[places]).T
    return Posterior(prior + gain @ residuals, variance * shape - gain @ (variance * shape[places]))


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
    return np.asarray(np.exp(-np.maximum(squared, 0.0) / (2 * _LENGTH**2)), np.float64)


def _normal_cdf(z: Vector) -> Vector:
    from scipy.special import ndtr

    return np.asarray(ndtr(z), np.float64)


def _weights(trial: int, objectives: int, seed: int) -> Vector:
    """Weights of the objectives for this trial: 1 for one; for several another direction of the front each time."""
    if objectives == 1:
        return np.ones(1)
    rng = np.random.default_rng([seed, trial])
    if trial < objectives:  # the ends of the front first
        return np.asarray(np.eye(objectives)[trial], np.float64)
    return np.asarray(rng.dirichlet(np.ones(objectives)), np.float64)


SIMULATE_VERIFY: Final = Kind("simulate-verify", Options, SimulateVerify)
