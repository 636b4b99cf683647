"""Which configurations publish measures: a small grid, pruned by the in-process batch-latency curves.

Pure functions: curves in, ranked configurations out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from modelyard.domain.artifacts import Artifact
from modelyard.domain.configuration import Batching, Configuration, Slo
from modelyard.profile.curve import CurvePoint

SERVER_OVERHEAD_S = 20e-6
"""CPU seconds planned for our server's work on a small request: one busy core answers 70,000 to 96,000 of them a second
(bench/serving_overhead.py), model included, in full batches; half as fast is assumed where batches are small."""
HEADROOM = 0.7
"""Planned utilisation of a replica: above it queueing makes p99 a multiple of the service time (M/D/1)."""
MAX_BATCHES = (1, 8, 32)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration with what its curve predicts; `cost_s` is CPU seconds per row, `capacity_rps` rows per second."""

    configuration: Configuration
    capacity_rps: float
    latency_s: float
    cost_s: float


def thread_choices(cores: int) -> tuple[int, ...]:
    """1 and the powers of two below `cores`, and `cores` itself."""
    powers = [2**k for k in range(int(math.log2(cores)) + 1)] if cores > 1 else [1]
    return tuple(sorted({*powers, cores}))


def candidates(
    curves: Mapping[tuple[str, str], Sequence[CurvePoint]],
    artifacts: Mapping[str, Artifact],
    *,
    cores: int,
    slo: Slo | None,
) -> list[Candidate]:
    """Every configuration of the grid that its curve does not rule out, cheapest first.

    `curves` is keyed by (artifact id, runtime). Ruled out with an SLO: a single run slower than the SLO's p99, or a
    capacity that cannot carry the rate on all cores. Replicas are as few as carry the rate with headroom; without a
    rate, as many as the cores hold.
    """
    found = []
    for (artifact_id, runtime), points in curves.items():
        artifact = artifacts[artifact_id]
        for threads in sorted({p.threads for p in points}):
            mine = sorted((p for p in points if p.threads == threads), key=lambda p: p.batch)
            found += [
                candidate
                for max_batch in MAX_BATCHES
                if max_batch == 1 or artifact.signature.batched
                if (candidate := _candidate(artifact, runtime, threads, max_batch, mine, cores, slo)) is not None
            ]
    return sorted(found, key=lambda c: (c.cost_s, c.latency_s))


def _candidate(
    artifact: Artifact,
    runtime: str,
    threads: int,
    max_batch: int,
    points: Sequence[CurvePoint],
    cores: int,
    slo: Slo | None,
) -> Candidate | None:
    usable = [p for p in points if p.batch <= max_batch]
    if not usable or (max_batch > 1 and usable[-1].batch < max_batch):
        return None
    best = max(usable, key=lambda p: p.batch / (p.wall_s + SERVER_OVERHEAD_S * p.batch))
    capacity = best.batch / (best.wall_s + SERVER_OVERHEAD_S * best.batch)
    most = max(1, cores // threads)
    replicas = most
    if slo is not None:
        if usable[0].wall_s * 1000 > slo.p99_ms:
            return None
        if slo.rate_rps:
            replicas = math.ceil(slo.rate_rps / (HEADROOM * capacity))
            if replicas > most:
                return None
    # Under an SLO's rate batches form only as far as the queue does: the cost between batch 1 and the best batch.
    busy = min(1.0, slo.rate_rps / (replicas * capacity)) if slo and slo.rate_rps else 1.0
    single = usable[0].cpu_s / usable[0].batch
    cost = single + (best.cpu_s / best.batch - single) * busy + SERVER_OVERHEAD_S
    configuration = Configuration(
        artifact=artifact.id,
        target=artifact.target,
        runtime=runtime,
        precision=artifact.precision,
        threads=threads,
        replicas=replicas,
        batching=Batching(max_size=max_batch),
    )
    return Candidate(configuration, replicas * capacity, usable[0].wall_s, cost)


def contenders(ranked: Sequence[Candidate], count: int, *, ratio: float = 3.0) -> list[Configuration]:
    """The `count` configurations worth measuring: cheapest first, at most two of an artifact on one runtime.

    Those predicted to cost more than `ratio` times the cheapest are dropped. Diversity first: the best of each
    (artifact, runtime) comes before anyone's second.
    """
    if not ranked:
        return []
    near = [c for c in ranked if c.cost_s <= ratio * ranked[0].cost_s]
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in near:
        key = (candidate.configuration.artifact, candidate.configuration.runtime)
        groups.setdefault(key, []).append(candidate)
    firsts = [group[0] for group in groups.values()]
    seconds = [group[1] for group in groups.values() if len(group) > 1]
    return [c.configuration for c in [*firsts, *sorted(seconds, key=lambda c: c.cost_s)][:count]]


def single(artifact: Artifact, runtime: str, threads: int) -> Configuration:
    """One replica without batching. Of the source, on all cores: what one deploys without Modelyard (naive)."""
    return Configuration(
        artifact=artifact.id,
        target=artifact.target,
        runtime=runtime,
        precision=artifact.precision,
        threads=threads,
    )


def with_slo(configuration: Configuration, slo: Slo | None) -> Configuration:
    """The configuration whose queue keeps the SLO: it waits for batches, and refuses, as the latency target allows."""
    slo_ms = None if slo is None else slo.p99_ms
    return replace(configuration, queue=replace(configuration.queue, slo_ms=slo_ms))
