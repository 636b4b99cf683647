"""Triton's statistics out of a model's counters.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

from __future__ import annotations

import msgspec

from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.observe.statistics import BatchStatistics
from modelyard.serving.scheduling.executor import Executor


class Duration(msgspec.Struct):
    """How often something happened, and the nanoseconds it took in all."""

    count: int = 0
    ns: int = 0


class InferStatistics(msgspec.Struct):
    """Requests since the version was loaded. `queue` has the wait for the slot and for more rows in it; `fail` counts
    refused requests too; `compute_input` has receipt, parsing and pre-processing, `compute_output` post-processing,
    encoding and sending. `success` counts what the cache or an equal request in flight answered; looking that up is not
    timed: 0 ns.
    """

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class BatchSizeStatistics(msgspec.Struct):
    """Executions of one batch size."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ResponseStatistics(msgspec.Struct):
    """The responses with one index in their stream: every request has exactly one here, `"0"`."""

    compute_infer: Duration
    compute_output: Duration
    success: Duration
    fail: Duration
    empty_response: Duration
    cancel: Duration


class VersionStatistics(msgspec.Struct):
    """One model version. `inference_count` counts rows, `last_inference` is Unix time in milliseconds."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    response_stats: dict[str, ResponseStatistics]
    batch_stats: list[BatchSizeStatistics]
    memory_usage: list[str] = []


class Statistics(msgspec.Struct):
    """`GET /v2/models[/M[/versions/V]]/stats`."""

    model_stats: list[VersionStatistics]


def statistics(plane: DataPlane, name: str = "", version: str = "") -> Statistics:
    """Of one version, all versions of a model, or all models. Raises NotFound, Unavailable, InvalidInput."""
    if version and not name:
        return Statistics([])
    if name and (found := plane.find(name, version)) and version:
        return Statistics([_of(found)])
    return Statistics([_of(e) for e in plane.executors if not name or e.interface.name == name])


def _of(executor: Executor) -> VersionStatistics:
    ledger = executor.ledger
    rows = [ledger.by_rows[n] for n in sorted(ledger.by_rows)]
    requests = _requests(rows)
    infer = Duration(requests, _ns(sum(b.infer_s for b in rows)))
    output = Duration(requests, _ns(sum(b.post_s + b.encode_s + b.send_s for b in rows)))
    kept = executor.responses
    hits, misses, shared = (kept.hits, kept.misses, kept.coalesced) if kept is not None else (0, 0, 0)
    success = Duration(requests + hits + shared, _ns(sum(map(_all_stages, rows))))
    fail = Duration(ledger.failed + sum(ledger.refused.values()), _ns(ledger.failed_s))
    return VersionStatistics(
        name=executor.interface.name,
        version=str(executor.interface.version),
        last_inference=int(ledger.last_unix_s * 1000),
        inference_count=sum(b.rows * b.batches for b in rows),
        execution_count=sum(b.batches for b in rows),
        inference_stats=InferStatistics(
            success=success,
            fail=fail,
            queue=Duration(requests, _ns(sum(b.queue_s + b.batch_wait_s for b in rows))),
            compute_input=Duration(requests, _ns(sum(b.receive_s + b.parse_s + b.pre_s for b in rows))),
            compute_infer=infer,
            compute_output=output,
            cache_hit=Duration(hits),
            cache_miss=Duration(misses),
        ),
        response_stats={"0": ResponseStatistics(infer, output, success, fail, Duration(), Duration())},
        batch_stats=[_of_batch_size(b) for b in rows],
    )


def _of_batch_size(batch: BatchStatistics) -> BatchSizeStatistics:
    return BatchSizeStatistics(
        batch.rows,
        Duration(batch.batches, _ns(batch.receive_s + batch.parse_s + batch.pre_s)),
        Duration(batch.batches, _ns(batch.busy_s)),
        Duration(batch.batches, _ns(batch.post_s + batch.encode_s + batch.send_s)),
    )


def _requests(rows: list[BatchStatistics]) -> int:
    return sum(b.requests for b in rows)


def _all_stages(batch: BatchStatistics) -> float:
    waiting = batch.receive_s + batch.parse_s + batch.queue_s + batch.batch_wait_s
    return waiting + batch.pre_s + batch.infer_s + batch.post_s + batch.encode_s + batch.send_s


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
