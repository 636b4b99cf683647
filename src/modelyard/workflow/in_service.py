"""How much longer a model runs in a server than alone: between two runs the server's own work leaves caches cold."""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.artifacts import Artifact
from modelyard.domain.configuration import Batching, Configuration
from modelyard.domain.latency import ContentionPoint, Curve, CurvePoint
from modelyard.domain.measurement import Measurement
from modelyard.domain.versions import Version
from modelyard.domain.workload import Arrival, Workload
from modelyard.profile import MeasuredService, Profiler, Rules, WarmUpRule
from modelyard.profile.samples import Samples
from modelyard.tune.simulator import Forecast
from modelyard.workflow.planning import single
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
_SHARES: Final = (np.arange(129) + 0.5) / 129
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
    """Corrects in-process curves until the simulator agrees with what replicas of the artifact do.

    Closed loops, for each number of threads: single rows that keep a replica busy, which say by their CPU time what a
    run takes there; and one request at a time, which says what a run takes less, or more, where the replica has slept
    before it, and how far single runs are from the median. With the fewest threads full batches as well: the factor of
    sizes between goes along the logarithm of the size, beyond them it stays, and its shape is that of any number of
    threads. A last loop, on as many replicas as there are cores, says what these do to each other's runs, and what the
    load client spends where it has no core to itself.

    `jitter_s`: deviations of latencies from their median, ascending quantiles, that are no model's.
    """

    profiling: Profiling
    predict: Predict
    jitter_s: tuple[float, ...] = ()

    def corrected(self, version: Version, artifact: Artifact, curve: Curve) -> Curve:
        """The curve as the server sees it. Raises BackendFailed, Unavailable where the replica does not start."""
        shortest = min(curve.points, key=lambda p: p.wall_s, default=None)
        if shortest is None or shortest.wall_s > LONGEST_S:
            return curve
        shape: dict[int, float] = {}
        points: list[CurvePoint] = []
        counts = sorted({p.threads for p in curve.points})
        for threads in counts:
            plain = single(artifact, curve.runtime, threads)
            part = replace(curve, points=tuple(p for p in curve.points if p.threads == threads))
            part, factors = self._of_threads(version, part, plain, shape)
            shape = shape or {rows: factor / factors[1] for rows, factor in factors.items()}
            points += part.points
        plain = single(artifact, curve.runtime, counts[0])
        found = replace(curve, points=tuple(points), contention=on_scale(curve, points))
        return self._together(version, found, plain)

    def _of_threads(
        self, version: Version, curve: Curve, plain: Configuration, shape: Mapping[int, float]
    ) -> tuple[Curve, dict[int, float]]:
        alone, busy = _closed(1), _closed(_BUSY)
        seen_alone, seen_busy = self._measured(version, plain, (alone, busy))
        cells = [Seen(1, plain, busy, seen_busy[0].indicators.core_s_per_request)]
        largest = min(BATCH, max(p.batch for p in curve.points))
        if largest > 1 and not shape:
            batched, full = replace(plain, batching=Batching(largest)), _closed(2 * largest)
            ((seen_full, _),) = self._measured(version, batched, (full,))
            cells.append(Seen(largest, batched, full, seen_full.indicators.core_s_per_request))
        factors = fitted_factors(curve, cells, self.predict, shape)
        found = replace(curve, points=tuple(scaled(p, factors) for p in curve.points))
        round_trip_s = 1 / seen_alone[0].indicators.throughput_rps.value
        found = fitted_idle(found, Seen(1, plain, alone, round_trip_s), self.predict)
        return replace(found, points=tuple(spread(p, seen_alone[1], self.jitter_s) for p in found.points)), factors

    def _together(self, version: Version, curve: Curve, plain: Configuration) -> Curve:
        """What replicas on all the cores do to each other's runs, and to the load client between them."""
        replicas = self.profiling.cores // plain.threads
        if replicas < 2 or replicas * plain.threads < self.profiling.cores:
            return curve
        every, work = replace(plain, replicas=replicas), _closed(_BUSY * replicas)
        ((seen, _),) = self._measured(version, every, (work,))
        found = fitted_contention(curve, Seen(1, every, work, seen.indicators.core_s_per_request), self.predict)
        spent_s = seen.client.cpu_cores / seen.indicators.throughput_rps.value
        expected = self.predict(found, every, work)
        if not expected.client_cores:  # nothing is known of the client's cost
            return found
        factor = spent_s * expected.throughput_rps / expected.client_cores
        return replace(found, beside=min(max(factor, 1.0), FACTORS[1]))

    def _measured(
        self, version: Version, configuration: Configuration, works: Sequence[Workload]
    ) -> tuple[tuple[Measurement, NDArray[np.float64]], ...]:
        """Measurements, each with the deviations of its latencies from their median: seconds, ascending quantiles."""
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
                samples = Samples.load(cell.samples)
                latencies = samples.latencies_ms(work.timeout_s) / 1e3
                found.append((cell.measurement, np.quantile(latencies, _SHARES) - np.median(latencies)))
                shutil.rmtree(cell.samples.parent, ignore_errors=True)
        return tuple(found)


def _closed(concurrency: int) -> Workload:
    return Workload(Arrival.CLOSED, concurrency=concurrency, blocks=BLOCKS, requests=1_000_000, duration_s=BLOCK_S)


def fitted_factors(
    curve: Curve, seen: Sequence[Seen], predict: Predict, shape: Mapping[int, float] | None = None
) -> dict[int, float]:
    """Factors on the runs of sizes, with which the simulated CPU per request is as seen.

    `curve` has the points of one number of threads. `shape`: factors of sizes that were not seen, over that of one row.
    """
    threads = seen[0].configuration.threads
    walls = {p.batch: p.wall_s for p in curve.points}
    factors = {cell.rows: 1.0 for cell in seen}
    found = curve
    for _ in range(_ROUNDS):
        for cell in seen:
            expected = predict(found, cell.configuration, cell.workload).core_s_per_request
            missing_s = (cell.seconds - expected) * cell.rows / threads
            factors[cell.rows] = _believed(factors[cell.rows] + missing_s / walls[cell.rows])
        for rows, share in (shape or {}).items():
            factors[rows] = _believed(factors[seen[0].rows] * share)
        found = replace(curve, points=tuple(scaled(p, factors) for p in curve.points))
    return factors


def _believed(factor: float) -> float:
    return min(max(factor, FACTORS[0]), FACTORS[1])


def fitted_idle(curve: Curve, seen: Seen, predict: Predict) -> Curve:
    """Shift runs after a sleep until the simulated round trip of one request at a time is as seen.

    By half of the shortest run less, or all of it more, at most.
    """
    run_s = min(p.wall_s for p in curve.points)
    idle_s, found = 0.0, curve
    for _ in range(_ROUNDS):
        expected = predict(found, seen.configuration, seen.workload)
        idle_s = min(max(idle_s + seen.seconds - 1 / expected.throughput_rps, -run_s / 2), run_s)
        found = replace(curve, points=tuple(replace(p, idle_s=idle_s) for p in curve.points))
    return found


def on_scale(curve: Curve, points: Sequence[CurvePoint]) -> tuple[ContentionPoint, ...]:
    """Copies were measured outside a server, as the curve was: their walls on the scale of its corrected `points`."""
    before = {(p.threads, p.batch): p.wall_s for p in curve.points}
    after = {(p.threads, p.batch): p.wall_s for p in points}
    return tuple(
        replace(c, wall_s=c.wall_s * after[c.threads, c.batch] / before[c.threads, c.batch]) for c in curve.contention
    )


def fitted_contention(curve: Curve, seen: Seen, predict: Predict) -> Curve:
    """Slow the runs of replicas at the same time until the simulated CPU per request is as seen; never below alone."""
    threads, copies = seen.configuration.threads, seen.configuration.replicas
    others = tuple(c for c in curve.contention if c.threads != threads)
    alone_s = min(p.wall_s for p in curve.points if p.threads == threads and p.batch == 1)
    wall_s, found = alone_s, curve
    for _ in range(_ROUNDS):
        found = replace(curve, contention=(*others, ContentionPoint(copies, threads, 1, wall_s)))
        missing_s = seen.seconds - predict(found, seen.configuration, seen.workload).core_s_per_request
        wall_s = min(max(wall_s + missing_s / threads, alone_s), FACTORS[1] * alone_s)
    return replace(curve, contention=(*others, ContentionPoint(copies, threads, 1, wall_s)))


def spread(point: CurvePoint, deviations_s: NDArray[np.float64], jitter_s: Sequence[float]) -> CurvePoint:
    """The point with single runs at least as far from the median as latencies were, beyond what `jitter_s` explains.

    Above the median only: what is quick in a server is as quick alone.
    """
    shares = (np.arange(len(deviations_s)) + 0.5) / len(deviations_s)
    explained = np.quantile(jitter_s, shares) if jitter_s else np.zeros(len(shares))
    own = np.quantile(point.walls_s or (point.wall_s,), shares)
    seen = point.wall_s + np.maximum(deviations_s - explained, 0.0)
    walls = np.where(shares > 0.5, np.maximum(own, seen), own)
    return replace(point, walls_s=tuple(np.maximum.accumulate(walls).tolist()))


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
