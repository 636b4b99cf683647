"""Scripted services: spaces whose every point's true cost and p99 are known, measured with seeded noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from modelyard.domain.measurement import Interval
from modelyard.domain.study import Aim, Goal, Objective, Point, Prediction, Result, Study, Trial, TrialState
from modelyard.tune.ports import Outcome, Proposal, Search, Strategy
from modelyard.tune.space import Space

SERVICE = """
knobs:
  artifact: {choice: [onnx, openvino]}
  threads: {integer: [1, cores], log2: true}
  replicas: {integer: [1, 4]}
  max_batch: {integer: [1, 64], log2: true}
  delay_us: {integer: [0, 4000], log2: true, step: 1000, when: {max_batch: [4, 8, 16, 32, 64]}}
constraints:
  - replicas * threads <= cores
constants: {cores: 4}
"""
"""248 points."""

CONTINUOUS = """
knobs:
  artifact: {choice: [onnx, openvino]}
  replicas: {integer: [1, 4]}
  cap: {real: [0.3, 0.9]}
  rate: {real: [1, 1000], log: true, when: {artifact: openvino}}
constraints:
  - replicas * cap <= 2
"""

TINY = """
knobs:
  artifact: {choice: [onnx, openvino]}
  threads: {integer: [1, 2]}
  max_batch: {integer: [1, 2], when: {artifact: onnx}}
"""
"""Six points."""


def truth(aim: Aim, point: Point) -> tuple[tuple[float, ...], float]:
    """The true values of the aim's objectives and the true p99 in ms, at any point of the spaces above."""
    threads, replicas = float(point.get("threads", 1)), float(point.get("replicas", 1))
    batch = math.log2(float(point.get("max_batch", 8)))
    delay_ms = float(point.get("delay_us", 0)) / 1000
    slow = 0.25 * (point.get("artifact") == "onnx")
    cap = float(point.get("cap", 0.6)) + 0.02 * math.log(float(point.get("rate", 30)) / 30) ** 2
    cost = math.exp(slow + 0.08 * (batch - 4) ** 2 + 0.2 * math.log2(threads) + 0.1 * replicas + 0.05 * delay_ms + cap)
    p99 = 9 * math.exp(slow + 0.25 * (batch - 3) - 0.3 * math.log2(threads) - 0.2 * (replicas - 1)) + delay_ms
    values = {Goal.COST: cost, Goal.LATENCY: p99, Goal.RATE: 1000 / cost, Goal.THROUGHPUT: 1000 / cost}
    return tuple(values.get(o.goal, cost) for o in aim.objectives), p99


class Service:
    """Measures points with log-normal noise; `lost` points do not run."""

    def __init__(self, aim: Aim, seed: int = 0, noise: float = 0.03, lost: Sequence[int] = ()) -> None:
        self._aim, self._noise, self._lost = aim, noise, lost
        self._rng = np.random.default_rng(seed)
        self.measured: list[Point] = []

    def measure(self, point: Point) -> Outcome:
        self.measured.append(point)
        if point.get("threads") in self._lost:
            return Outcome(TrialState.FAILED, detail="it did not start")
        values, p99 = truth(self._aim, point)
        drawn = [v * math.exp(self._noise * self._rng.standard_normal()) for v in values]
        return Outcome(TrialState.MEASURED, result(self._aim, drawn, p99, self._noise))

    def confirm(self, points: Sequence[Point], seed: int) -> list[Outcome]:
        return [self.measure(point) for point in points]


def result(aim: Aim, values: Sequence[float], p99_ms: float, noise: float = 0.03) -> Result:
    half = math.exp(1.96 * noise)
    p99 = Interval(p99_ms, p99_ms / half, p99_ms * half)
    return Result(
        losses=tuple(o.loss(v) for o, v in zip(aim.objectives, values, strict=True)),
        errors=(noise,) * len(values),
        values=tuple(Interval(v, v / half, v * half) for v in values),
        p99_ms=p99,
        feasible=aim.slo_ms is None or p99_ms * half <= aim.slo_ms,
        verdict="valid",
    )


def predict(aim: Aim) -> object:
    """A simulator that is 10 % off, another way for each artifact."""

    def expected(point: Point) -> Prediction:
        values, p99 = truth(aim, point)
        off = 1.1 if point.get("artifact") == "onnx" else 0.9
        losses = tuple(o.loss(v * off) for o, v in zip(aim.objectives, values, strict=True))
        feasible = aim.slo_ms is None or p99 * off <= aim.slo_ms
        return Prediction(losses, 200.0, p99 / 2, p99 / 3, p99 * 0.9, p99 * off, 1.0, feasible)

    return expected


def best(space: Space, aim: Aim) -> float:
    """The least true loss of a feasible point, for one objective."""
    found = [(truth(aim, p), p) for p in space.points()]
    objective = aim.objectives[0]
    return min(objective.loss(v[0]) for (v, p99), _ in found if aim.slo_ms is None or p99 <= aim.slo_ms)


def search(text: str, aim: str, *, budget: int = 20, seed: int = 0, default: Point | None = None) -> Search:
    space, parsed = Space.parse(text), Aim.parse(aim)
    first = default or space.sobol(1, 99)[0]
    return Search(space, parsed, first, budget, seed, predict(parsed))  # type: ignore[arg-type]


def study(made_for: Search, trials: Sequence[Trial] = ()) -> Study:
    return Study(
        id="s1",
        model="m",
        version=1,
        aim=made_for.aim,
        workload=None,
        space=made_for.space.text,
        strategy="",
        options={},
        budget=made_for.budget,
        seed=made_for.seed,
        fingerprint="",
        default=made_for.default,
        trials=tuple(trials),
    )


def trial(number: int, point: Point, outcome: Outcome) -> Trial:
    return Trial(number, point, outcome.state, "scripted", outcome.result, detail=outcome.detail)


def explore(strategy: Strategy, service: Service, count: int, trials: Sequence[Trial] = ()) -> list[Trial]:
    """`count` trials more, fewer where the strategy stops."""
    found = list(trials)
    for _ in range(count):
        proposal = strategy.propose(found)
        if not isinstance(proposal, Proposal):
            break
        found.append(trial(len(found) + 1, proposal.point, service.measure(proposal.point)))
    return found


COST = "min cost under p99 <= 20 ms at 200 rps"
FAST = "min p99 at 200 rps"
BOTH = "min p99 and min cost at 200 rps"
RATE = "max rate under p99 <= 20 ms"
CLOSED = "max throughput at 16 concurrent"
P99 = Objective(Goal.LATENCY, "p99")
