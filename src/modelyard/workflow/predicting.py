"""What the simulator expects of the points of a study, as predictions of its aim."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from modelyard.domain.artifacts import Artifact
from modelyard.domain.configuration import Configuration
from modelyard.domain.study import Aim, Goal, Knob, Objective, Point, Prediction
from modelyard.domain.versions import Version
from modelyard.domain.workload import Protocol, Workload
from modelyard.profile.price import Price
from modelyard.tune.simulator import Forecast, Simulator
from modelyard.tune.space import Space
from modelyard.workflow.profiling import reporter
from modelyard.workflow.progress import Listener, Step
from modelyard.workflow.simulating import Simulating
from modelyard.workflow.spaces import Meaning

SHORT: Final = 400
LONG: Final = 4000
"""Simulated requests of every point, and of those that are near the best by the short simulation."""
NEAR: Final = math.log(1.5)
"""How much worse than the best a point may look in a short simulation and be simulated at length."""
_REPLICA_BYTES: Final = 120 * 2**20
_ARTIFACT_COPIES: Final = 2.0
"""Memory expected of a replica: the server and a runtime, and the artifact's files twice (read, and laid out anew)."""
_HALVINGS: Final = 7
"""Of the interval in which the highest rate under an SLO lies: to 1 %."""


@dataclass
class Predictor:
    """Predictions for one study's points; computed once each. Not thread-safe; the same study, the same predictions."""

    simulator: Simulator
    meaning: Meaning
    aim: Aim
    workload: Workload
    price: Price
    report: Callable[[str], None]
    _known: dict[Point, Prediction | None] = field(default_factory=dict)

    def __call__(self, point: Point) -> Prediction | None:
        """The expectation of a point from a long simulation, or from bounds that exclude it; None without a curve."""
        if point not in self._known:
            self._known[point] = self._predict(point, LONG)
        return self._known[point]

    def prepare(self, points: Sequence[Point]) -> None:
        """Predict many points: all by a short simulation, then at length those that may be the best."""
        todo = [p for p in points if p not in self._known]
        short = {}
        for k, point in enumerate(todo):
            if k % 25 == 0:
                self.report(f"{k} of {len(todo)} configurations simulated")
            short[point] = self._predict(point, SHORT)
        near = self._near(short)
        for point in near:
            short[point] = self._predict(point, LONG)
        if todo:
            self.report(f"{len(todo)} configurations simulated, {len(near)} of them at length")
        self._known.update(short)

    def _near(self, short: dict[Point, Prediction | None]) -> list[Point]:
        """Those that a short simulation cannot tell from the best. With several objectives: best in any direction."""
        hopeful = {p: found for p, found in short.items() if found is not None and not found.saturated}
        within = {p: found for p, found in hopeful.items() if self._nearly_feasible(found)} or hopeful
        near: dict[Point, None] = {}
        for k in range(len(self.aim.objectives)):
            least = min((found.losses[k] for found in within.values()), default=0.0)
            near.update({p: None for p, found in within.items() if found.losses[k] <= least + NEAR})
        return list(near)

    def _nearly_feasible(self, prediction: Prediction) -> bool:
        slo_ms = self.aim.slo_ms
        return slo_ms is None or self.aim.rate_rps is None or prediction.p99_ms <= 1.5 * slo_ms

    def _predict(self, point: Point, requests: int) -> Prediction | None:
        configuration = self.meaning.configuration(point)
        if not self.simulator.knows(configuration):
            return None
        work = replace(self.workload, protocol=self.meaning.protocol(point))
        if self.aim.seeks_rate:
            return self._highest_rate(configuration, work, requests)
        return self._prediction(self.simulator.predict(configuration, work, requests=requests), configuration)

    def _highest_rate(self, configuration: Configuration, work: Workload, requests: int) -> Prediction:
        """By halving: the p99 grows with the rate."""
        slo_ms = self.aim.slo_ms or 0.0
        capacity = self.simulator.screen(configuration, work).capacity_rps
        low, high, best = 0.0, capacity, None
        for _ in range(_HALVINGS):
            rate = (low + high) / 2
            found = self.simulator.predict(configuration, replace(work, rate_rps=rate), requests=requests)
            if found.p99_ms <= slo_ms and not found.saturated and found.refused < 0.01:
                low, best = rate, found
            else:
                high = rate
        if best is None:
            return self._prediction(found, configuration, rate=high, feasible=False)
        return self._prediction(best, configuration, rate=low)

    def _prediction(
        self, found: Forecast, configuration: Configuration, *, rate: float = 0.0, feasible: bool | None = None
    ) -> Prediction:
        meets = self.aim.slo_ms is None or (found.p99_ms <= self.aim.slo_ms and found.refused < 0.01)
        return Prediction(
            losses=tuple(o.loss(self._value(o, found, configuration, rate)) for o in self.aim.objectives),
            throughput_rps=found.throughput_rps,
            mean_ms=found.mean_ms,
            p50_ms=found.p50_ms,
            p95_ms=found.p95_ms,
            p99_ms=found.p99_ms,
            cores=found.cores,
            feasible=meets and not found.saturated if feasible is None else feasible,
            saturated=found.saturated,
        )

    def _value(self, objective: Objective, found: Forecast, configuration: Configuration, rate: float) -> float:
        artifact = self.meaning.artifacts[str(configuration.target)]
        values = {
            Goal.THROUGHPUT: found.throughput_rps,
            Goal.RATE: rate,
            Goal.COST: self.price.per_million(found.core_s_per_request),
            Goal.MEMORY: configuration.replicas * _memory_bytes(artifact),
        }
        if objective.goal in values:
            return values[objective.goal]
        latencies = {"mean": found.mean_ms, "p50": found.p50_ms, "p95": found.p95_ms, "p99": found.p99_ms}
        return latencies[objective.statistic]


def _memory_bytes(artifact: Artifact) -> float:
    return _REPLICA_BYTES + _ARTIFACT_COPIES * artifact.size_bytes


@dataclass(frozen=True)
class Predicting:
    """Makes predictors: measures what the simulator starts from, once per version and node."""

    simulating: Simulating
    price: Price

    def of(
        self, version: Version, meaning: Meaning, space: Space, aim: Aim, workload: Workload, listener: Listener
    ) -> Predictor | None:
        """For the points of a space under an aim. None where no artifact has a batch-latency curve."""
        wanted = [a for t, a in meaning.artifacts.items() if t in _values(space, "artifact", meaning)]
        protocols = [Protocol(str(p)) for p in _values(space, "protocol", meaning)]
        threads = tuple(sorted({int(t) for t in _values(space, "threads", meaning)}))
        simulator = self.simulating.simulator(version, wanted, protocols, listener, threads=threads)
        return Predictor(simulator, meaning, aim, workload, self.price, reporter(listener, "simulator", step=Step.TUNE))


def _values(space: Space, knob: str, meaning: Meaning) -> Sequence[Knob]:
    dimension = space.knobs.get(knob)
    return (meaning.defaults[knob],) if dimension is None else dimension.spread(8)
