"""What trials teach a strategy, as numbers: losses that always are finite, their noise, and how far from the SLO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.study import Aim, Point, Trial
from modelyard.tune import ranking

Vector = NDArray[np.float64]

_AS_BAD: Final = 2.0
"""Losses that are worse than the best by more than this (a factor of 7.4) all count as this bad: how far an overloaded
service's latency went says nothing about the good ones, and would be most of a model's variance."""
_LOST: Final = 1.0
"""What a trial without a p99 counts as, as log(p99 / SLO); also the most that any counts as, either way."""
_SLIGHTLY: Final = 0.05
"""At least how far over the SLO counts what is infeasible for another reason (its interval, a saturated client)."""
_MOST_NOISE: Final = 0.5
"""Standard error, on the log scale, of what was measured without one."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Trials as arrays of one length, float64, all finite.

    `losses`: (trials, objectives), as measured, those of trials without a result as bad as the worst; `errors` their
    standard errors. `measured`: whether `losses` were. `feasible`. `excess`: how far p99's upper bound is over the SLO
    (above 0: infeasible), as a logarithm; -1 or 1 without an SLO. `excess_errors`: their standard errors.
    """

    points: tuple[Point, ...]
    losses: Vector
    errors: Vector
    measured: NDArray[np.bool_]
    feasible: NDArray[np.bool_]
    excess: Vector
    excess_errors: Vector

    def scalar(self, weights: Vector) -> tuple[Vector, Vector]:
        """One loss per trial, (trials,), and its standard error: with one objective the loss itself.

        With several, the augmented Chebyshev norm of the losses, each scaled to [0, 1], under random `weights`
        (ParEGO: Knowles, 2006, IEEE Trans. Evolutionary Computation 10(1)): every point of a Pareto set is the best
        under some weights.
        """
        if self.losses.shape[1] == 1:
            return self.losses[:, 0], self.errors[:, 0]
        seen = self.losses[self.measured] if self.measured.any() else self.losses
        low, span = seen.min(axis=0), np.ptp(seen, axis=0)
        scale = np.where(span > 0, span, 1.0)
        scaled = (self.losses - low) / scale * weights
        loss = scaled.max(axis=1) + 0.05 * scaled.sum(axis=1)
        return loss, np.sqrt(((self.errors / scale * weights) ** 2).sum(axis=1))


def weigh(trials: Sequence[Trial], aim: Aim) -> Evidence:
    """The evidence of trials, in their order."""
    losses = np.array([_losses(trial, aim) for trial in trials], np.float64).reshape(len(trials), len(aim.objectives))
    measured: NDArray[np.bool_] = np.all(np.isfinite(losses), axis=1)
    if measured.any():
        worst = losses[measured].min(axis=0) + _AS_BAD
        losses = np.minimum(np.where(measured[:, None], losses, worst), worst)
    else:
        losses = np.zeros_like(losses)
    errors = [_errors(trial, aim) for trial in trials]
    excess = [_excess(trial, aim) for trial in trials]
    return Evidence(
        points=tuple(trial.point for trial in trials),
        losses=losses,
        errors=np.array(errors, np.float64).reshape(losses.shape),
        measured=measured,
        feasible=np.array([trial.feasible for trial in trials], np.bool_) & measured,
        excess=np.array([value for value, _ in excess], np.float64),
        excess_errors=np.array([error for _, error in excess], np.float64),
    )


def weights(count: int, rng: np.random.Generator) -> Vector:
    """Random weights of `count` objectives, uniform over those that sum to 1."""
    return rng.dirichlet(np.ones(count))


def _losses(trial: Trial, aim: Aim) -> Sequence[float]:
    return [math.inf] * len(aim.objectives) if trial.result is None else trial.result.losses


def _errors(trial: Trial, aim: Aim) -> Sequence[float]:
    if trial.result is None:
        return [_MOST_NOISE] * len(aim.objectives)
    return [min(ranking.known_error(error), _MOST_NOISE) for error in trial.result.errors]


def _excess(trial: Trial, aim: Aim) -> tuple[float, float]:
    """How far over the SLO, and with what standard error."""
    p99 = None if trial.result is None else trial.result.p99_ms
    # At the highest rate under an SLO the p99 is near the SLO for every point: it tells nothing.
    if p99 is None or aim.slo_ms is None or aim.seeks_rate:
        return (-_LOST if trial.feasible else _LOST), 0.0
    bound = p99.value if p99.high is None else p99.high
    ratio = math.log(bound / aim.slo_ms) if 0 < bound < math.inf else _LOST
    ratio = min(ratio, -1e-6) if trial.feasible else max(ratio, _SLIGHTLY)
    return max(-_LOST, min(ratio, _LOST)), min(ranking.log_error(p99), _MOST_NOISE)
