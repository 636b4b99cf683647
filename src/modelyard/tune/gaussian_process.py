"""A Gaussian process for a few dozen noisy values whose noise is known.

Matérn 5/2 kernel with one length scale per knob; every value has its own known noise variance, and a fitted nugget
takes what those leave out. Hyperparameters maximise the marginal likelihood times weak priors.
Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), sections 2.2, 4.2 and 5.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_ROOT5: Final = math.sqrt(5.0)
_BOUNDS: Final = ((math.log(0.05), math.log(20.0)), (math.log(0.05), math.log(20.0)), (math.log(1e-6), math.log(1.0)))
"""Of length scales, signal variance and nugget, as logarithms; values are standardised."""
_NUGGET: Final = (math.log(1e-3), 1.5)
"""Mean and standard deviation of the prior of the nugget's logarithm; the known noise should be nearly all of it."""
_SCALE_PRIOR: Final = 1.0
_SIGNAL_PRIOR: Final = 1.0
_STARTS: Final = (0.0, -1.0, 1.0)
"""Where the optimiser starts, as shifts of the length scales' logarithms from their prior mean."""


@dataclass(frozen=True, slots=True)
class Seen:
    """`x`: (n, dimensions) points; `y`, `noise`: (n,) their values, and the variances of the values' noise."""

    x: Array
    y: Array
    noise: Array


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """`scales`: one length scale per knob. `signal` and `nugget` are variances of standardised values."""

    scales: Array
    signal: float
    nugget: float


class GaussianProcess:
    """Values at points, conditioned on those seen. Immutable; thread-safe."""

    def __init__(
        self,
        seen: Seen,
        groups: NDArray[np.int64],
        hyper: Hyperparameters,
        standard: tuple[float, float] | None = None,
    ) -> None:
        """`groups`: (dimensions,) the knob of each dimension. `standard`: what was subtracted from the values and what
        they were divided by when `hyper` were fitted; None: their mean and standard deviation."""
        self.hyper = hyper
        self._seen, self._groups = seen, groups
        self._centre, self._unit = standard or _standard(seen.y)
        kernel = hyper.signal * _matern(_squares(seen.x, seen.x, groups), hyper.scales)
        self._whitener, self._weights, _ = _conditioned(
            kernel + np.diag(seen.noise / self._unit**2 + hyper.nugget), (seen.y - self._centre) / self._unit
        )

    @classmethod
    def fit(cls, seen: Seen, groups: NDArray[np.int64]) -> GaussianProcess:
        """With the hyperparameters that fit best. Deterministic."""
        from scipy.optimize import minimize

        centre, unit = _standard(seen.y)
        posterior = _Posterior(_squares(seen.x, seen.x, groups), (seen.y - centre) / unit, seen.noise / unit**2)
        middle = posterior.middle
        bounds = [_BOUNDS[0]] * posterior.knobs + [_BOUNDS[1], _BOUNDS[2]]
        shifts = [np.r_[np.full(posterior.knobs, shift), 0.0, 0.0] for shift in _STARTS]
        found = [
            minimize(posterior, middle + shift, jac=True, method="TNC", bounds=bounds, options={"maxfun": 100})
            for shift in shifts
        ]
        best = np.exp(min(found, key=lambda result: float(result.fun)).x)
        return cls(seen, groups, Hyperparameters(best[:-2], float(best[-2]), float(best[-1])))

    def posterior(self, x: Array) -> tuple[Array, Array]:
        """Mean and variance, without noise, of the values at `x` (m, dimensions): two arrays (m,)."""
        kernel = self.hyper.signal * _matern(_squares(x, self._seen.x, self._groups), self.hyper.scales)
        mean = self._centre + self._unit * (kernel @ self._weights)
        variance = self.hyper.signal - ((self._whitener @ kernel.T) ** 2).sum(axis=0)
        return mean, self._unit**2 * np.maximum(variance, 1e-12)

    @property
    def nugget(self) -> float:
        """The nugget's variance in the values' own units."""
        return self.hyper.nugget * self._unit**2

    def believing(self, x: Array) -> GaussianProcess:
        """As if what is expected at `x` had been seen there: for points whose value is on its way.

        Source: the kriging believer of Ginsbourger, Le Riche and Carraro (2010).
        """
        mean, _ = self.posterior(x)
        seen = Seen(
            np.concatenate([self._seen.x, x]),
            np.concatenate([self._seen.y, mean]),
            np.concatenate([self._seen.noise, np.zeros(len(x))]),
        )
        return GaussianProcess(seen, self._groups, self.hyper, (self._centre, self._unit))


class _Posterior:
    """The negative logarithm of likelihood times priors, and its gradient, over log hyperparameters."""

    def __init__(self, squares: Array, y: Array, noise: Array) -> None:
        self._squares, self._y, self._noise = squares, y, noise
        self.knobs = len(squares)
        # Distances grow with the root of the number of knobs, and so does what counts as near.
        scale = math.log(0.5 * math.sqrt(max(self.knobs, 1)))
        self.middle = np.r_[np.full(self.knobs, scale), 0.0, _NUGGET[0]]
        self._widths = np.r_[np.full(self.knobs, _SCALE_PRIOR), _SIGNAL_PRIOR, _NUGGET[1]]

    def __call__(self, log_hyper: Array) -> tuple[float, Array]:
        scales, signal, nugget = np.exp(log_hyper[:-2]), math.exp(log_hyper[-2]), math.exp(log_hyper[-1])
        kernel = signal * _matern(self._squares, scales)
        whitener, weights, half_log_det = _conditioned(kernel + np.diag(self._noise + nugget), self._y)
        value = 0.5 * float(self._y @ weights) + half_log_det
        # d value / d theta = tr((K^-1 - w w') dK/dtheta) / 2
        pull = whitener.T @ whitener - np.outer(weights, weights)
        slopes = [0.5 * float((pull * d).sum()) for d in _slopes(self._squares, scales, signal)]
        gradient = np.r_[slopes, 0.5 * float((pull * kernel).sum()), 0.5 * nugget * float(np.trace(pull))]
        prior = (log_hyper - self.middle) / self._widths
        return value + 0.5 * float(prior @ prior), gradient + prior / self._widths


def expected_improvement(mean: Array, variance: Array, best: float, xi: float = 0.0) -> Array:
    """By how much values of that mean and variance are expected to be below `best - xi`, where they are; (m,).

    Source: Jones, Schonlau and Welch (1998), J. of Global Optimization 13.
    """
    from scipy.special import ndtr

    deviation = np.sqrt(variance)
    gain = best - xi - mean
    z = gain / deviation
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return np.asarray(np.maximum(gain * ndtr(z) + deviation * density, 0.0), np.float64)


def _standard(y: Array) -> tuple[float, float]:
    """Centre and unit of the values; a unit of 1 where they are all the same."""
    spread = float(np.std(y))
    return float(np.mean(y)), spread if spread > 1e-9 else 1.0


def _squares(x: Array, other: Array, groups: NDArray[np.int64]) -> Array:
    """(knobs, n, m): squared distances between rows of `x` (n) and of `other` (m), by knob."""
    knobs = np.unique(groups)
    found = np.zeros((len(knobs), len(x), len(other)))
    for i, knob in enumerate(knobs):
        for column in np.flatnonzero(groups == knob):
            found[i] += (x[:, column, None] - other[None, :, column]) ** 2
    return found


def _distance(squares: Array, scales: Array) -> Array:
    return np.sqrt(np.tensordot(1 / scales**2, squares, axes=1))


def _matern(squares: Array, scales: Array) -> Array:
    r = _ROOT5 * _distance(squares, scales)
    return np.asarray((1 + r + r**2 / 3) * np.exp(-r), np.float64)


def _slopes(squares: Array, scales: Array, signal: float) -> list[Array]:
    """Derivatives of the kernel by the logarithm of each length scale."""
    r = _ROOT5 * _distance(squares, scales)
    shape = signal * (5 / 3) * (1 + r) * np.exp(-r)
    return [shape * square / scale**2 for square, scale in zip(squares, scales, strict=True)]


def _conditioned(covariance: Array, y: Array) -> tuple[Array, Array, float]:
    """W with W'W = K^-1, the weights K^-1 y, and half the logarithm of K's determinant.

    By numpy alone, as TNC in `fit` calls no BLAS: work that changes between numpy's and scipy's own copies of OpenBLAS
    lets the threads of one spin while the other works. With scipy's solvers and L-BFGS-B a proposal after 50 trials
    took 2 s of a busy machine with 2 cores, so 0.4 s, to the same optimum.
    """
    root = np.linalg.cholesky(covariance)
    whitener = np.asarray(np.linalg.inv(root), np.float64)
    return whitener, whitener.T @ (whitener @ y), float(np.log(np.diag(root)).sum())
