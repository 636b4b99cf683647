"""How much longer a model runs in a server than alone: between two runs the server's own work leaves caches cold."""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from modelyard.domain.artifacts import Artifact
from modelyard.domain.configuration import Batching, Configuration
from modelyard.domain.latency import Curve, CurvePoint
from modelyard.domain.versions import Version
from modelyard.domain.workload import Arrival, Workload
from modelyard.profile import MeasuredService, Profiler, Rules, WarmUpRule
from modelyard.workflow.profiling import Profiling, payloads_of

BLOCK_S: Final = 0.3
LONGEST_S: Final = 0.02
"""A run this long spends next to nothing on filling caches: it is taken as measured alone."""
FACTORS: Final = (1.0, 3.0)
"""What is believed of a factor; beyond it something else was measured."""
_BATCH: Final = 16
_WARM_UP: Final = WarmUpRule(max_blocks=3, max_s=1.0, block_s=0.2)


@dataclass(frozen=True)
class InService:
    """Corrects in-process curves by what one replica of the artifact says of its own runs.

    Measured with the fewest threads of the curve, at one row (one request in flight) and in full batches; the factor of
    sizes between goes along the logarithm of the size, beyond them it stays.
    """

    profiling: Profiling

    def corrected(self, version: Version, artifact: Artifact, curve: Curve) -> Curve:
        """The curve as the server sees it. Raises BackendFailed, Unavailable where the replica does not start."""
        shortest = min(curve.points, key=lambda p: p.wall_s, default=None)
        if shortest is None or not curve.inside or shortest.wall_s > LONGEST_S:
            return curve
        threads = min(p.threads for p in curve.points)
        alone = sorted((p for p in curve.points if p.threads == threads), key=lambda p: p.batch)
        largest = min(_BATCH, alone[-1].batch)
        seen = self._measured(version, artifact, curve.runtime, threads, largest)
        factors = {rows: factor_of(infer_s, alone, rows) for rows, infer_s in seen}
        return replace(curve, points=tuple(scaled(p, factors) for p in curve.points))

    def _measured(
        self, version: Version, artifact: Artifact, runtime: str, threads: int, largest: int
    ) -> list[tuple[float, float]]:
        """(rows, seconds) of runs: mean rows per run, and what they took by the server's own statistics."""
        configuration = Configuration(
            artifact=artifact.id,
            target=artifact.target,
            runtime=runtime,
            precision=artifact.precision,
            threads=threads,
            batching=Batching(largest),
        )
        name = f"{version.model}-calibrate-{uuid.uuid4().hex[:8]}"
        deployer = self.profiling.deployer
        with deployer.temporary(version, configuration, name) as endpoint:
            service = MeasuredService(
                endpoint,
                version.model,
                version.number,
                configuration,
                lambda: [r.pid for r in deployer.engine.replicas(name) if r.pid],
                datatypes=self.profiling.rows.outer_signature(version).sent_as,
            )
            found = [self._runs(version, service, concurrency) for concurrency in sorted({1, 2 * largest})]
        return [one for one in found if one is not None]

    def _runs(self, version: Version, service: MeasuredService, concurrency: int) -> tuple[float, float] | None:
        work = Workload(Arrival.CLOSED, concurrency=concurrency, blocks=2, requests=1_000_000, duration_s=BLOCK_S)
        payloads = payloads_of(
            self.profiling.rows.groups(version), work, self.profiling.rows.outer_signature(version).batched
        )
        profiler = Profiler(self.profiling.work_dir / "profile", rules=Rules(max_retakes=0), warm_up=_WARM_UP)
        cell = profiler.measure(service, work, payloads, purpose="calibrate")
        shutil.rmtree(cell.samples.parent, ignore_errors=True)
        stages = cell.measurement.indicators.stages
        return None if stages is None else (stages.mean_batch_rows, stages.infer_ms / 1e3)


def factor_of(infer_s: float, alone: Sequence[CurvePoint], rows: float) -> float:
    """Time in the server over time alone, of a run of `rows` rows (interpolated)."""
    expected = float(np.interp(rows, [p.batch for p in alone], [p.wall_s for p in alone]))
    return min(max(infer_s / expected, FACTORS[0]), FACTORS[1])


def scaled(point: CurvePoint, factors: dict[float, float]) -> CurvePoint:
    """Runs that are long alone need no correction: the factor fades between a tenth of `LONGEST_S` and all of it."""
    sizes = sorted(factors)
    if not sizes:
        return point
    factor = float(np.interp(math.log(point.batch), [math.log(s) for s in sizes], [factors[s] for s in sizes]))
    share = math.log(LONGEST_S / max(point.wall_s, 1e-9)) / math.log(10.0)
    factor = 1.0 + (factor - 1.0) * min(max(share, 0.0), 1.0)
    return replace(
        point,
        wall_s=point.wall_s * factor,
        cpu_s=point.cpu_s * factor,
        walls_s=tuple(wall * factor for wall in point.walls_s),
        rested_s=None if point.rested_s is None else max(point.rested_s, point.wall_s * factor),
    )
