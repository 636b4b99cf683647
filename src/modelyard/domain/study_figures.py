"""The figures of a study as people read them: each objective in its unit, expected and measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from modelyard.domain.measurement import FEWEST_BLOCKS, Interval
from modelyard.domain.study import Goal, Objective, Point, Prediction, Trial

_UNITS: Final = {
    Goal.LATENCY: "ms",
    Goal.THROUGHPUT: "req/s",
    Goal.RATE: "req/s",
    Goal.COST: "per 1M",
    Goal.MEMORY: "MiB",
}


def title(objective: Objective) -> str:
    """The objective as a column's title: `p99 ms`, `cost per 1M`."""
    return f"{objective.statistic or objective.goal} {_UNITS[objective.goal]}".strip()


def amount(objective: Objective, value: float | Interval | None, blocks: int = FEWEST_BLOCKS) -> str:
    """A value of the objective in the unit of its title, with bounds from so many blocks; `-` where there is none."""
    found = scaled(objective, value if isinstance(value, Interval) or value is None else Interval(value))
    return "-" if found is None else found.told(blocks)


def scaled(objective: Objective, value: Interval | None) -> Interval | None:
    """The interval in the unit of the objective's title; None where there is none, or no finite one."""
    if value is None or not math.isfinite(value.value):
        return None
    low, high = (None if bound is None else bound / _scale(objective) for bound in (value.low, value.high))
    return Interval(value.value / _scale(objective), low, high, value.confidence)


def _scale(objective: Objective) -> float:
    return 2.0**20 if objective.goal is Goal.MEMORY else 1.0


def predicted(objectives: Sequence[Objective], prediction: Prediction | None) -> list[float | None]:
    """The value expected of each objective; None where nothing was expected."""
    if prediction is None:
        return [None] * len(objectives)
    values = [o.value(loss) for o, loss in zip(objectives, prediction.losses, strict=True)]
    return [value if math.isfinite(value) and value > 0 else None for value in values]


def measured(objectives: Sequence[Objective], trial: Trial) -> list[Interval | None]:
    """The value measured of each objective; None where the trial has none."""
    return list(trial.result.values) if trial.result else [None] * len(objectives)


def shared_knobs(trials: Sequence[Trial]) -> Point:
    """The knobs that several trials have in common, with their values: what need not be said of each. Else none."""
    points = [trial.point for trial in trials]
    if len(set(points)) < 2:
        return Point(())
    return Point(tuple(knob for knob in points[0] if all(knob in point.knobs for point in points[1:])))


def other_knobs(point: Point, shared: Point) -> Point:
    """What is left of a point without those knobs; all of it where nothing else is."""
    left = tuple(knob for knob in point if knob not in shared.knobs)
    return Point(left) if left else point
