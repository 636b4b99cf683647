"""Measurements with raw samples of simulated queues, for plots, reports and exports."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from modelyard.domain.configuration import Configuration
from modelyard.domain.measurement import (
    Interval,
    Measurement,
    StageTimes,
    Validity,
    Verdict,
)
from modelyard.domain.workload import Arrival, Workload
from modelyard.profile.distribution import Distribution
from modelyard.profile.plots import Shown
from modelyard.profile.report_measured import Measured
from modelyard.profile.samples import CONNECTION_LOST, Samples
from modelyard.profile.statistics import latency_interval
from tests.builders import configuration, measurement
from tests.unit.profile.builders import block, queue_block

STAGES = StageTimes(0.4, 0.1, 0.05, 0.6, 0.05, 0.1, 1.5)


def samples(*, seed: int = 0, blocks: int = 5, requests: int = 400, mean_ms: float = 2.0, failed: int = 0) -> Samples:
    """Blocks of a queue at half its capacity; the first `failed` requests of each block fail."""
    parts = []
    for number in range(blocks):
        rng = np.random.default_rng([seed, number])
        part = queue_block(500 / mean_ms, rng.exponential(mean_ms / 1e3, requests), rng, number=number)
        part.status[:failed] = CONNECTION_LOST
        parts.append(part)
    return Samples.join(parts)


def closed(concurrency: int, *, requests: int = 300, mean_ms: float = 1.0) -> Samples:
    """Closed loops: latencies grow with the number in flight."""
    parts = []
    for number in range(3):
        rng = np.random.default_rng([concurrency, number])
        took_s = rng.gamma(8, mean_ms * concurrency / 8e3, requests)
        sent_s = np.concatenate([[0.0], np.cumsum(took_s)[:-1]]) / concurrency
        parts.append(block(sent_s, sent_s + took_s, number=number))
    return Samples.join(parts)


def of(
    name: str,
    raw: Samples,
    *,
    config: Configuration | None = None,
    workload: Workload | None = None,
    validity: Validity = Validity.VALID,
    saturated: bool = False,
    reasons: tuple[str, ...] = (),
    stages: StageTimes | None = STAGES,
    **indicators: object,
) -> Measurement:
    """The measurement that these samples give: its latencies are theirs."""
    load = workload or Workload(Arrival.POISSON, rate_rps=250.0)
    blocks = raw.blocks()
    made = measurement(name, config=config)
    numbers = dataclasses.replace(
        made.indicators,
        throughput_rps=Interval(load.rate_rps or 800.0 + load.concurrency, 200.0, 900.0),
        p50_ms=latency_interval(blocks, 0.5, load.timeout_s),
        p95_ms=latency_interval(blocks, 0.95, load.timeout_s),
        p99_ms=latency_interval(blocks, 0.99, load.timeout_s) if len(raw) >= 459 else None,
        error_fraction=float(1 - raw.ok.mean()),
        requests=len(raw),
        stages=stages,
        **indicators,  # type: ignore[arg-type]
    )
    return dataclasses.replace(
        made, workload=load, indicators=numbers, verdict=Verdict(validity, reasons, saturated), purpose="test"
    )


def shown(m: Measurement, number: int, raw: Samples | None) -> Shown:
    return Shown(m, number, None if raw is None else Distribution.of(raw, m.workload.timeout_s))


def poisson(rate_rps: float) -> Workload:
    return Workload(Arrival.POISSON, rate_rps=rate_rps)


def in_flight(concurrency: int) -> Workload:
    return Workload(Arrival.CLOSED, concurrency=concurrency)


def difficult(folder: Path) -> Measured:
    """Everything at once that a report must bear.

    Long and hostile names, failures, saturation, one block, no p99, a GPU, samples that are gone.
    """
    hostile = dataclasses.replace(
        configuration(), runtime="<b onload=alert(1)>&amp;\"'", target=configuration().target, threads=64, replicas=12
    )
    made: list[tuple[Measurement, Samples]] = []
    for n, rate in enumerate((50.0, 250.0, 900.0)):
        raw = samples(seed=n, mean_ms=1.0 + n)
        made.append((of(f"open{n}", raw, workload=poisson(rate)), raw))
        raw = samples(seed=n + 9, mean_ms=0.5 + n)
        made.append((of(f"hostile{n}", raw, config=hostile, workload=poisson(rate)), raw))
    drowned = samples(seed=5, failed=40)
    made.append(
        (
            of(
                "drowned",
                drowned,
                workload=poisson(2000),
                saturated=True,
                reasons=("saturated: completed 90% of offered",),
            ),
            drowned,
        )
    )
    wrong = samples(seed=6)
    made.append((of("wrong", wrong, validity=Validity.INVALID, reasons=("client saturated: late",)), wrong))
    single = samples(seed=7, blocks=1, requests=120)
    made.append((of("single", single, workload=poisson(10), validity=Validity.PROVISIONAL), single))
    for level in (1, 8, 60):
        raw = closed(level)
        gpu = {"gpu_memory_bytes": 2**31, "gpu_utilisation": 0.4}
        made.append((of(f"closed{level}", raw, workload=in_flight(level), stages=None, **gpu), raw))
    for n in range(6):
        raw = samples(seed=20 + n)
        made.append((of(f"more{n}", raw, config=configuration(threads=n + 2, max_batch=2**n)), raw))
    paths = {}
    for m, raw in made:
        paths[m.id] = folder / f"{m.id}.npz"
        raw.save(paths[m.id])
    del paths["open0"]
    return Measured(tuple(m for m, _ in made), paths, {"open0": "blob <gone> does not exist"})
