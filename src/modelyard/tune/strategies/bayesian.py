"""Bayesian optimisation: a Gaussian process of the objective, one of the distance to the SLO, expected improvement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput
from modelyard.domain.study import Point, Trial
from modelyard.tune import evidence
from modelyard.tune.evidence import Evidence
from modelyard.tune.gaussian_process import GaussianProcess, Seen, expected_improvement
from modelyard.tune.ports import Kind, Proposal, Search, Stop
from modelyard.tune.space import Space
from modelyard.tune.strategies.untried import Untried

Array = NDArray[np.float64]

DESIGNS: Final = ("sobol", "random")
"""How the initial points are spread."""
_AROUND: Final = 3
"""The best points whose neighbours are candidates too, where not all points are."""


@dataclass(frozen=True, slots=True)
class BayesianOptions:
    """Settings of `bayesian`.

    `initial`: points measured first. `design`: `sobol`, evenly spread, and the default configuration before them; or
    `random`, the very points that the strategy `random` begins with for the same seed, and nothing else: what comes
    after can then be compared with it. `iterations`: proposals after those at most; 0: as many as the budget has. `xi`:
    improvements below this share do not count. `stop_ei`: stop when no point is expected to improve by this share (one
    objective only). `candidates`: points compared at each proposal where the space has more.
    """

    initial: int = 8
    design: str = "sobol"
    iterations: int = 0
    xi: float = 0.0
    stop_ei: float = 0.001
    candidates: int = 1000

    def __post_init__(self) -> None:
        if min(self.initial, self.iterations, self.xi, self.stop_ei) < 0 or self.candidates < 1:
            raise InvalidInput(
                "bayesian needs initial, iterations, xi and stop_ei of at least 0, and candidates of at least 1"
            )
        if self.design not in DESIGNS:
            raise InvalidInput(f"bayesian has no design '{self.design}'", hint=f"use {' or '.join(DESIGNS)}")


class Bayesian:
    """Expected improvement over the best posterior mean, times the probability of keeping the SLO.

    The best *mean*, not the best value seen: with noise, the best of many values is a lucky one. With several
    objectives every proposal looks at them under new random weights. While nothing is feasible, it looks for that.
    """

    def __init__(self, search: Search, options: BayesianOptions) -> None:
        self._search, self._options = search, options

    def propose(self, trials: Sequence[Trial], pending: Sequence[Point] = ()) -> Proposal | Stop:
        untried = Untried(self._search.space, trials, pending)
        turn = len(trials) + len(pending)
        first = self._first(untried, turn)
        if first is not None:
            return first
        if self._options.iterations and turn >= self._begun + self._options.iterations:
            return Stop(f"{self._options.iterations} iterations after the initial points were made")
        known = evidence.weigh(trials, self._search.aim)
        candidates = self._candidates(known, untried)
        if not len(candidates):
            return Stop("every point of the space was tried")
        rng = np.random.default_rng([self._search.seed, turn])
        return self._best(candidates, known, pending, rng)

    def _first(self, untried: Untried, turn: int) -> Proposal | None:
        """The next initial point; None where all were tried."""
        if self._options.design == "random":
            drawn = untried.draw(np.random.default_rng(self._search.seed)) if turn < self._begun else None
            return None if drawn is None else Proposal(drawn, "an initial point, drawn at random")
        return next((Proposal(point, reason) for point, reason in self._spread if point in untried), None)

    @property
    def _begun(self) -> int:
        """How many initial points there are."""
        return self._options.initial if self._options.design == "random" else len(self._spread)

    @cached_property
    def _spread(self) -> list[tuple[Point, str]]:
        default = self._search.default
        first = [(default, "the default configuration")] if self._search.space.check(default) is None else []
        spread = self._search.space.sobol(self._options.initial, self._search.seed) if self._options.initial else []
        return [*first, *((point, "an initial point") for point in spread if point != default)]

    @cached_property
    def _everywhere(self) -> _Encoded:
        space = self._search.space
        few = space.size is not None and space.size <= self._options.candidates
        return _Encoded.of(
            space, space.points() if few else space.sobol(self._options.candidates, self._search.seed + 1)
        )

    def _candidates(self, known: Evidence, untried: Untried) -> _Encoded:
        everywhere = self._everywhere
        if self._search.space.size == len(everywhere):
            return everywhere.only(untried)
        order = np.argsort(known.losses.sum(axis=1) + 10.0 * ~known.feasible, kind="stable")[:_AROUND]
        near = dict.fromkeys(other for i in order for other in self._search.space.neighbours(known.points[i]))
        found = everywhere.plus(_Encoded.of(self._search.space, list(near))).only(untried)
        if len(found):
            return found
        drawn = untried.draw(np.random.default_rng([self._search.seed, len(known.points)]))
        return _Encoded.of(self._search.space, [] if drawn is None else [drawn])

    def _best(
        self, candidates: _Encoded, known: Evidence, pending: Sequence[Point], rng: np.random.Generator
    ) -> Proposal | Stop:
        space = self._search.space
        tried = _Encoded.of(space, known.points).x
        coming = _Encoded.of(space, pending).x
        chance = self._chance(candidates.x, tried, known, coming)
        if not known.feasible.any():
            best = int(np.argmax(chance))
            return Proposal(candidates.points[best], f"feasible with probability {chance[best]:.2f}; nothing was yet")
        loss, error = known.scalar(evidence.weights(known.losses.shape[1], rng))
        use = known.measured
        model = GaussianProcess.fit(Seen(tried[use], loss[use], error[use] ** 2), space.groups).believing(coming)
        incumbent = float(model.posterior(tried[known.feasible])[0].min())
        gain = expected_improvement(*model.posterior(candidates.x), incumbent, self._options.xi) * chance
        best = int(np.argmax(gain))
        if gain[best] < self._options.stop_ei and not self._search.aim.pareto:
            return Stop(f"no other point is expected to be more than {self._options.stop_ei:.2%} better")
        return Proposal(candidates.points[best], f"expected improvement {gain[best]:.2%}")

    def _chance(self, x: Array, tried: Array, known: Evidence, coming: Array) -> Array:
        """The probability of each candidate to be feasible."""
        from scipy.special import ndtr

        if known.feasible.all() and self._search.aim.slo_ms is None:
            return np.ones(len(x))
        if not len(known.points):
            return np.ones(len(x))
        model = GaussianProcess.fit(Seen(tried, known.excess, known.excess_errors**2), self._search.space.groups)
        mean, variance = model.believing(coming).posterior(x)
        return np.asarray(ndtr(-mean / np.sqrt(variance + model.nugget)), np.float64)


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Points and their encodings, (points, dimensions)."""

    points: tuple[Point, ...]
    x: Array

    @classmethod
    def of(cls, space: Space, points: Sequence[Point]) -> _Encoded:
        rows = [space.encode(point) for point in points]
        return cls(tuple(points), np.array(rows, np.float64).reshape(len(points), len(space.groups)))

    def __len__(self) -> int:
        return len(self.points)

    def plus(self, other: _Encoded) -> _Encoded:
        known = set(self.points)
        new = [i for i, point in enumerate(other.points) if point not in known]
        return _Encoded((*self.points, *(other.points[i] for i in new)), np.concatenate([self.x, other.x[new]], axis=0))

    def only(self, untried: Untried) -> _Encoded:
        kept = set(untried.among(self.points))
        keep = [i for i, point in enumerate(self.points) if point in kept]
        return _Encoded(tuple(self.points[i] for i in keep), self.x[keep])


BAYESIAN: Final = Kind("bayesian", BayesianOptions, Bayesian)
