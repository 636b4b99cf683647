"""What a search is made of: strategies that choose points, and what measures them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from modelyard.domain.study import Aim, Point, Prediction, Result, Trial, TrialState
from modelyard.tune.space import Space

Predict: TypeAlias = Callable[[Point], Prediction | None]
"""The simulator's expectation of a point; None where it has none (no batch-latency curve)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt to measure a point ended. `detail`: what went wrong, where something did."""

    state: TrialState
    result: Result | None = None
    detail: str = ""


Measure: TypeAlias = Callable[[Point], Outcome]
"""Measures a point for the search. A point that does not start, answer or end in time is an Outcome, no error; so is
one that is given up in its first seconds. BackendFailed, Unavailable, Unsupported and Rejected make a failed trial; any
other error ends the search."""

Confirm: TypeAlias = Callable[[Sequence[Point], int], Sequence[Outcome]]
"""Measures points again in turns, with the seed given: their outcomes in the same order."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """The next point to measure, and why it."""

    point: Point
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing more is worth measuring, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Search:
    """What a strategy is made for. `default` is the configuration one would use without a search.

    `budget`: real measurements at most, confirmations not counted. `predict` is None where nothing can be simulated.
    `prepare` is told the points that a strategy will have predicted: together they may cost less than one by one.
    """

    space: Space
    aim: Aim
    default: Point
    budget: int
    seed: int
    predict: Predict | None = None
    prepare: Callable[[Sequence[Point]], None] | None = None


class Strategy(Protocol):
    """Chooses the next point. Not thread-safe.

    `propose` depends on nothing but what the strategy was made with and its arguments, so that a search goes on after
    a crash where it was: the same trials give the same proposal.
    """

    def propose(self, trials: Sequence[Trial], pending: Sequence[Point] = ()) -> Proposal | Stop:
        """The next point: never one that was tried or is pending. `trials` are in order, without confirmations."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A strategy by its name. `options`: a frozen dataclass of its settings, whole numbers, numbers or texts with
    defaults, which raises InvalidInput where they cannot be. `make` gets the search and one of these."""

    name: str
    options: type
    make: Callable[[Search, Any], Strategy]
