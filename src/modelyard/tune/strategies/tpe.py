"""Tree-structured Parzen estimators: optuna's sampler, told all trials anew at every proposal."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from modelyard.domain.errors import InvalidInput
from modelyard.domain.study import Knob, Point, Trial
from modelyard.tune import evidence
from modelyard.tune.knobs import Choice, Dimension
from modelyard.tune.ports import Kind, Proposal, Search, Stop
from modelyard.tune.strategies.untried import Untried

if TYPE_CHECKING:
    import optuna

_ASKS: Final = 24
"""Suggestions asked for, before the nearest point that is left is taken. optuna knows no hard constraints, and proposes
what was tried before."""
_POOL: Final = 1000
"""Points among which the nearest is looked for, where they cannot be listed."""


@dataclass(frozen=True, slots=True)
class TpeOptions:
    """`startup`: random trials first. `candidates`: draws compared at each proposal."""

    startup: int = 10
    candidates: int = 24

    def __post_init__(self) -> None:
        if self.startup < 1 or self.candidates < 1:
            raise InvalidInput("tpe needs startup and candidates of at least 1")


class Tpe:
    """What breaks a constraint or was tried is asked for again, and then replaced by the nearest point left."""

    def __init__(self, search: Search, options: TpeOptions) -> None:
        self._search, self._options = search, options

    def propose(self, trials: Sequence[Trial], pending: Sequence[Point] = ()) -> Proposal | Stop:
        untried = Untried(self._search.space, trials, pending)
        turn = len(trials) + len(pending)
        rng = np.random.default_rng([self._search.seed, turn])
        if turn < self._options.startup:
            point = untried.draw(np.random.default_rng(self._search.seed))
            return _exhausted() if point is None else Proposal(point, "drawn at random")
        study = self._told(trials, pending, int(rng.integers(2**31)))
        suggested = self._ask(study)
        for _ in range(_ASKS - 1):
            if suggested in untried:
                return Proposal(suggested, "suggested by the Parzen estimators")
            suggested = self._ask(study)
        point = self._nearest(suggested, untried, rng)
        return _exhausted() if point is None else Proposal(point, "next to what the Parzen estimators suggest")

    def _told(self, trials: Sequence[Trial], pending: Sequence[Point], seed: int) -> optuna.Study:
        """A study of optuna's with these trials. What did not run is as bad as the worst, and infeasible."""
        import optuna

        sampler = optuna.samplers.TPESampler(
            n_startup_trials=0, n_ei_candidates=self._options.candidates, seed=seed, constant_liar=True
        )
        directions = ["minimize"] * len(self._search.aim.objectives)
        with _quiet():
            study = optuna.create_study(directions=directions, sampler=sampler)
        known = evidence.weigh(trials, self._search.aim)
        for i, point in enumerate(known.points):
            study.add_trial(
                optuna.trial.create_trial(
                    values=known.losses[i].tolist(), constraints={"slo": float(known.excess[i])}, **self._placed(point)
                )
            )
        for point in pending:
            study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, **self._placed(point)))
        return study

    def _placed(self, point: Point) -> dict[str, Any]:
        """The parameters of a point, and what they may be; a default from outside the space has only those inside."""
        inside = {name: value for name, value in point if _has(self._search.space.knobs.get(name), value)}
        found = {name: _distribution(self._search.space.knobs[name]) for name in inside}
        return {
            "params": {name: _place(self._search.space.knobs[name], value) for name, value in inside.items()},
            "distributions": found,
        }

    def _ask(self, study: optuna.Study) -> Point:
        """One suggestion, knob by knob, as far as they are active. It stays as one that runs, so the next differs."""
        trial = study.ask()
        values: dict[str, Knob] = {}
        for name, knob in self._search.space.knobs.items():
            if all(values.get(other) in wanted for other, wanted in knob.when.items()):
                values[name] = _suggested(trial, name, knob)
        return Point.of(values)

    def _nearest(self, wanted: Point, untried: Untried, rng: np.random.Generator) -> Point | None:
        space = self._search.space
        pool = untried.among(space.points() if space.size is not None else [space.sample(rng) for _ in range(_POOL)])
        if not pool:
            return None
        here = space.encode(wanted)
        return min(pool, key=lambda point: float(np.sum((space.encode(point) - here) ** 2)))


def _exhausted() -> Stop:
    return Stop("every point of the space was tried")


def _distribution(knob: Dimension) -> optuna.distributions.BaseDistribution:
    """Numbers with levels by the level's place, so that doubling knobs are even; choices as they are."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(knob, Choice):
        return CategoricalDistribution(list(knob.values))
    if knob.levels is not None:
        return IntDistribution(0, len(knob.levels) - 1)
    return FloatDistribution(knob.low, knob.high, log=knob.log)


def _suggested(trial: optuna.Trial, name: str, knob: Dimension) -> Knob:
    """A value of the knob, from its distribution."""
    if isinstance(knob, Choice):
        return knob.read(trial.suggest_categorical(name, list(knob.values)))
    if knob.levels is not None:
        place: int = trial.suggest_int(name, 0, len(knob.levels) - 1)
        return knob.levels[place]
    return knob.read(trial.suggest_float(name, knob.low, knob.high, log=knob.log))


def _place(knob: Dimension, value: Knob) -> Knob:
    """The value as its distribution has it."""
    return value if isinstance(knob, Choice) or knob.levels is None else list[Knob](knob.levels).index(value)


def _has(knob: Dimension | None, value: Knob) -> bool:
    if knob is None:
        return False
    try:
        return knob.read(value) == value
    except InvalidInput:
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Without optuna's note that a study was created; its other notes and the program's settings stay."""
    logger = logging.getLogger("optuna.storages._in_memory")

    def drop(record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO

    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


TPE: Final = Kind("tpe", TpeOptions, Tpe)
