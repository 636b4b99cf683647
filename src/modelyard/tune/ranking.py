"""Who is better, with what confidence: comparisons of measured results whose errors are known.

Losses are logarithms (see `Objective.loss`), so a difference is a ratio. With several objectives the losses are added:
the product of the objectives, which needs no units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.measurement import Interval
from modelyard.domain.study import Ranked, Result, Standing, Trial

CONFIDENCE: Final = 0.95
"""At which a point counts as better or dominated, where one comparison is made; in between it is tied."""
_QUANTILE: Final = 1.959964
"""Of the standard normal distribution at 97.5 %."""
_DRAWS: Final = 4000
"""Of all points' true losses; the standard error of a probability is at most 0.8 %."""
_UNKNOWN: Final = 1e3
"""Standard error, on the log scale, of what was measured without one."""
_FEWEST_PAIRS: Final = 3


def score(result: Result) -> float:
    """The sum of the losses: what the winner has least of."""
    return sum(result.losses)


def error(result: Result) -> float:
    """The standard error of `score`."""
    return math.sqrt(sum(known_error(e) ** 2 for e in result.errors))


def known_error(value: float) -> float:
    """The standard error; a very large one where none is known."""
    return min(abs(value), _UNKNOWN) if math.isfinite(value) else _UNKNOWN


def worse(one: Result, other: Result) -> float:
    """The probability that `one`'s true score is above `other`'s.

    From paired blocks where both have them (Student's t over the differences), else by the normal approximation with
    both standard errors.
    """
    pairs = _differences(one, other)
    if pairs is not None:
        from scipy.stats import t

        spread = float(np.std(pairs, ddof=1)) / math.sqrt(len(pairs))
        mean = float(np.mean(pairs))
        return float(t.cdf(mean / spread, len(pairs) - 1)) if spread > 0 else _step(mean)
    spread = math.hypot(error(one), error(other))
    difference = score(one) - score(other)
    return normal_cdf(difference / spread) if spread > 0 else _step(difference)


def family(comparisons: int) -> float:
    """The confidence of each of so many comparisons that leaves them CONFIDENCE together (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / max(1, comparisons)


def overlap(one: Result, other: Result) -> bool:
    """Whether the 95 % intervals of their scores overlap."""
    return abs(score(one) - score(other)) <= _QUANTILE * (error(one) + error(other))


def nondominated(results: Sequence[Result], seed: int = 0) -> NDArray[np.float64]:
    """(results,) float64: the probability of each that no other of them is at least as good in every objective.

    With one objective: that it is the best. By drawing true losses around the measured ones.
    """
    if not results:
        return np.zeros(0)
    losses = np.array([r.losses for r in results], np.float64)
    errors = np.array([[known_error(e) for e in r.errors] for r in results], np.float64)
    rng = np.random.default_rng(seed)
    draws = losses + errors * rng.standard_normal((_DRAWS, *losses.shape))
    free = np.empty((_DRAWS, len(results)), np.bool_)
    for i in range(len(results)):
        mine = draws[:, i : i + 1, :]
        beaten = np.all(draws <= mine, axis=2) & np.any(draws < mine, axis=2)
        free[:, i] = ~np.any(beaten, axis=1)
    return np.asarray(free.mean(axis=0), np.float64)


def over(p99_ms: Interval, slo_ms: float) -> float:
    """The probability that the true p99 is above the SLO."""
    ratio = math.log(p99_ms.value / slo_ms) if p99_ms.value > 0 else -math.inf
    spread = log_error(p99_ms)
    return normal_cdf(ratio / spread) if spread > 0 else _step(ratio)


def log_error(interval: Interval) -> float:
    """The standard error of the logarithm of an interval's value; 0 where the interval has no bounds."""
    if interval.low is None or interval.high is None or not 0 < interval.low <= interval.high < math.inf:
        return 0.0
    return math.log(interval.high / interval.low) / (2 * _QUANTILE)


def against(
    best: Trial, trials: Sequence[Trial], slo_ms: float | None, level: float = CONFIDENCE
) -> tuple[Ranked, ...]:
    """Every trial against the winner, best first. `best` is one of `trials` and has a result; `level` is the confidence
    at which a point counts as better or dominated."""
    feasible = [(t, t.result) for t in trials if t.result is not None and t.feasible]
    chances = dict(zip((t.number for t, _ in feasible), nondominated([r for _, r in feasible]), strict=True))
    ranked = []
    for trial, result in feasible:
        chance = float(chances[trial.number])
        if trial.number == best.number:
            ranked.append(Ranked(trial.number, Standing.BEST, chance))
        elif len(result.losses) > 1:
            ranked.append(_in_set(trial.number, chance, level))
        elif best.result is not None:
            ranked.append(_by_difference(trial.number, worse(result, best.result), level))
    scores = {t.number: score(r) for t, r in feasible}
    order = list(Standing)
    ranked.sort(key=lambda r: (order.index(r.standing), scores[r.trial]))
    return (*ranked, *infeasible(trials, slo_ms))


def infeasible(trials: Sequence[Trial], slo_ms: float | None) -> list[Ranked]:
    """The standing of what may not be chosen: its confidence is the probability that its p99 is over the SLO."""
    found = []
    for trial in trials:
        if trial.feasible:
            continue
        p99 = None if trial.result is None else trial.result.p99_ms
        certain = 1.0 if p99 is None or slo_ms is None else over(p99, slo_ms)
        found.append(Ranked(trial.number, Standing.INFEASIBLE, certain))
    return found


def normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _by_difference(trial: int, chance_worse: float, level: float) -> Ranked:
    if chance_worse >= level:
        return Ranked(trial, Standing.DOMINATED, chance_worse)
    if chance_worse <= 1 - level:
        return Ranked(trial, Standing.BETTER, 1 - chance_worse)
    return Ranked(trial, Standing.TIED, 2 * min(chance_worse, 1 - chance_worse))


def _in_set(trial: int, chance: float, level: float) -> Ranked:
    if chance >= level:
        return Ranked(trial, Standing.BETTER, chance)
    if chance <= 1 - level:
        return Ranked(trial, Standing.DOMINATED, 1 - chance)
    return Ranked(trial, Standing.TIED, chance)


def _differences(one: Result, other: Result) -> NDArray[np.float64] | None:
    """Score differences of paired blocks; None where the blocks are no pairs."""
    if len(one.blocks) != len(other.blocks) or len(one.blocks) < _FEWEST_PAIRS:
        return None
    found = np.sum(one.blocks, axis=1) - np.sum(other.blocks, axis=1)
    return found if np.isfinite(found).all() else None


def _step(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)
