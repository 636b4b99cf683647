"""What a search strategy is: a function from what was tried so far to what to try next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from modelyard.domain.study import Aim, Point, Prediction, Trial
from modelyard.tune.space import Space

Predict: TypeAlias = Callable[[Point], Prediction | None]
"""The simulator's expectation of a point; None where it has none (no batch-latency curve)."""


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
    """

    space: Space
    aim: Aim
    default: Point
    budget: int
    seed: int
    predict: Predict | None = None


class Strategy(Protocol):
    """Chooses the next point. Not thread-safe.

    `propose` depends on nothing but what the strategy was made with and its arguments, so that a search goes on after
    a crash where it was: the same trials give the same proposal.
    """

    def propose(self, trials: Sequence[Trial], pending: Sequence[Point] = ()) -> Proposal | Stop:
        """The next point: never one that was tried or is pending. `trials` are in order, without confirmations."""
