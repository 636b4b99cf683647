"""How much longer a model runs in a server than alone: between two runs the server's own work leaves caches cold."""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np

from modelyard.domain.artifacts import Artifact
from modelyard.domain.configuration import Batching, Configuration
from modelyard.domain.latency import Curve, CurvePoint
from modelyard.domain.measurement import Measurement
from modelyard.domain.versions import Version
from modelyard.domain.workload import Arrival, Workload
from modelyard.profile import MeasuredService, Profiler, Rules, WarmUpRule
from modelyard.tune.simulator import Forecast
from modelyard.workflow.profiling import Profiling, payloads_of

BLOCK_S: Final = 0.25
BLOCKS: Final = 3
LONGEST_S: Final = 0.02
"""A run this long spends next to nothing on filling caches: it is taken as measured alone."""
FACTORS: Final = (0.7, 3.0)
"""What is believed of a factor; beyond it something else was measured."""
BATCH: Final = 16
"""Rows of the full batches that are measured."""
_BUSY: Final = 4
"""Requests in flight that keep a replica without batches busy, and let its load client sleep."""
_ROUNDS: Final = 3
_WARM_UP: Final = WarmUpRule(max_blocks=3, max_s=1.0, block_s=0.2)

Predict: TypeAlias = Callable[[Curve, Configuration, Workload], Forecast]
"""What the simulator makes of a curve: a configuration's forecast under a workload."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a replica did under a load whose runs have `rows` rows: seconds per request, of CPU or of a round trip."""

    rows: int
    configuration: Configuration
    workload: Workload
    seconds: float


@dataclass(frozen=True)
class InService:
    """Corrects in-process curves until the simulator agrees with what one replica of the artifact does.

    Closed loops, with the fewest threads of the curve: single rows that keep the replica busy, full batches that do,
    and one request at a time. The first two say by their CPU time what a run takes there, for their sizes; the factor
    of sizes between goes along the logarithm of the size, beyond them it stays. The third says what a run takes less,
    or more, where the replica has slept before it. A fourth loop, on as many replicas as there are cores, says what the
    load client spends where it has no core to itself.
    """

    profiling: Profiling
    predict: Predict

    def corrected(self, version: Version, artifact: Artifact, curve: Curve) -> Curve:
        """The curve as the server sees it. Raises BackendFailed, Unavailable where the replica does not start."""
        shortest = min(curve.points, key=lambda p: p.wall_s, default=None)
        if shortest is None or shortest.wall_s > LONGEST_S:
            return curve
        threads = min(p.threads for p in curve.points)
        largest = min(BATCH, max(p.batch for p in curve.points if p.threads == threads))
        single = Configuration(
            artifact=artifact.id,
            target=artifact.target,
            runtime=curve.runtime,
            precision=artifact.precision,
            threads=threads,
            batching=Batching(1),
        )
        alone, busy = _closed(1), _closed(_BUSY)
        seen_alone, seen_busy = self._measured(version, single, (alone, busy))
        cells = [Seen(1, single, busy, seen_busy.indicators.core_s_per_request)]
        if largest > 1:
            batched, full = replace(single, batching=Batching(largest)), _closed(2 * largest)
            (seen_full,) = self._measured(version, batched, (full,))
            cells.append(Seen(largest, batched, full, seen_full.indicators.core_s_per_request))
        found = fitted_runs(curve, cells, self.predict)
        round_trip_s = 1 / seen_alone.indicators.throughput_rps.value
        found = fitted_idle(found, Seen(1, single, alone, round_trip_s), self.predict)
        return self._beside(version, found, single)

    def _beside(self, version: Version, curve: Curve, single: Configuration) -> Curve:
        """Scale what the client spends where replicas have all the cores."""
        replicas = self.profiling.cores // single.threads
        if replicas < 2 or replicas * single.threads < self.profiling.cores:
            return curve
        every, work = replace(single, replicas=replicas), _closed(_BUSY * replicas)
        (seen,) = self._measured(version, every, (work,))
        spent_s = seen.client.cpu_cores / seen.indicators.throughput_rps.value
        expected = self.predict(curve, every, work)
        factor = spent_s * expected.throughput_rps / expected.client_cores
        return replace(curve, beside=min(max(factor, 1.0), FACTORS[1]))

    def _measured(
        self, version: Version, configuration: Configuration, works: Sequence[Workload]
    ) -> tuple[Measurement, ...]:
        name = f"{version.model}-calibrate-{uuid.uuid4().hex[:8]}"
        deployer, rows = self.profiling.deployer, self.profiling.rows
        signature = rows.outer_signature(version)
        with deployer.temporary(version, configuration, name) as endpoint:
            service = MeasuredService(
                endpoint,
                version.model,
                version.number,
                configuration,
                lambda: [r.pid for r in deployer.engine.replicas(name) if r.pid],
                datatypes=signature.sent_as,
            )
            profiler = Profiler(self.profiling.work_dir / "profile", rules=Rules(max_retakes=0), warm_up=_WARM_UP)
            found = []
            for work in works:
                payloads = payloads_of(rows.groups(version), work, signature.batched)
                cell = profiler.measure(service, work, payloads, purpose="calibrate")
                shutil.rmtree(cell.samples.parent, ignore_errors=True)
                found.append(cell.measurement)
        return tuple(found)


def _closed(concurrency: int) -> Workload:
    return Workload(Arrival.CLOSED, concurrency=concurrency, blocks=BLOCKS, requests=1_000_000, duration_s=BLOCK_S)


def fitted_runs(curve: Curve, seen: Sequence[Seen], predict: Predict) -> Curve:
    """Scale runs until the simulated CPU per request is as seen."""
    threads = seen[0].configuration.threads
    walls = {p.batch: p.wall_s for p in curve.points if p.threads == threads}
    factors = {cell.rows: 1.0 for cell in seen}
    found = curve
    for _ in range(_ROUNDS):
        for cell in seen:
            expected = predict(found, cell.configuration, cell.workload).core_s_per_request
            missing_s = (cell.seconds - expected) * cell.rows / threads
            factor = factors[cell.rows] + missing_s / walls[cell.rows]
            factors[cell.rows] = min(max(factor, FACTORS[0]), FACTORS[1])
        found = replace(curve, points=tuple(scaled(p, factors) for p in curve.points))
    return found


def fitted_idle(curve: Curve, seen: Seen, predict: Predict) -> Curve:
    """Shift runs after a sleep until the simulated round trip of one request at a time is as seen.

    By half of the shortest run less, or all of it more, at most.
    """
    run_s = min(p.wall_s for p in curve.points)
    idle_s = 0.0
    for _ in range(_ROUNDS):
        expected = predict(replace(curve, idle_s=idle_s), seen.configuration, seen.workload)
        idle_s = min(max(idle_s + seen.seconds - 1 / expected.throughput_rps, -run_s / 2), run_s)
    return replace(curve, idle_s=idle_s)


def scaled(point: CurvePoint, factors: Mapping[int, float]) -> CurvePoint:
    """Runs that are long alone need no correction: the factor fades between a tenth of `LONGEST_S` and all of it.

    What a run takes longer after a pause stays.
    """
    sizes = sorted(factors)
    if not sizes:
        return point
    factor = float(np.interp(math.log(point.batch), [math.log(s) for s in sizes], [factors[s] for s in sizes]))
    share = math.log(LONGEST_S / max(point.wall_s, 1e-9)) / math.log(10.0)
    factor = 1.0 + (factor - 1.0) * min(max(share, 0.0), 1.0)
    longer_s = (factor - 1.0) * point.wall_s
    return replace(
        point,
        wall_s=point.wall_s + longer_s,
        cpu_s=point.cpu_s * factor,
        walls_s=tuple(wall * factor for wall in point.walls_s),
        rested_s=None if point.rested_s is None else max(point.rested_s, point.wall_s) + longer_s,
    )
