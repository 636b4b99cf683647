"""Prometheus text of the replica's counters. Every metric is listed in docs/metrics.md; a test compares.

Written by hand: the counters exist already, and prometheus-client's registry would need a lock per request.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from itertools import chain
from typing import Final

from modelyard.processes import resident_bytes
from modelyard.serving.models.comparison import ShadowStatistics
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.observe.stages import STAGES
from modelyard.serving.observe.statistics import BOUNDS_S, BatchStatistics
from modelyard.serving.scheduling.executor import Executor

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

METRICS: Final = {
    "modelyard_ready": ("gauge", "1 while the replica wants traffic"),
    "modelyard_connections": ("gauge", "Open HTTP connections"),
    "modelyard_bad_requests_total": ("counter", "Requests refused before they reached a model"),
    "modelyard_refused_requests_total": ("counter", "Requests refused before they reached a model, for want of memory"),
    "modelyard_requests_total": ("counter", "Requests by outcome: ok, failed, refused-<reason>"),
    "modelyard_request_duration_seconds": ("histogram", "Receipt to answer of successful requests"),
    "modelyard_stage_seconds_total": ("counter", "Time requests spent per stage, summed over requests"),
    "modelyard_batches_total": ("counter", "Executed batches by number of rows"),
    "modelyard_busy_seconds_total": ("counter", "Time the execution slot was busy"),
    "modelyard_waiting_requests": ("gauge", "Requests in the queue"),
    "modelyard_running_requests": ("gauge", "Requests being executed"),
    "modelyard_model_load_seconds": ("gauge", "Time to load and warm up the model"),
    "modelyard_model_state": ("gauge", "1 for the state that a model version is in"),
    "modelyard_cache_requests_total": ("counter", "Requests looked up in the cache of responses, by result"),
    "modelyard_coalesced_requests_total": ("counter", "Requests that shared the execution of an identical one"),
    "modelyard_instances": ("gauge", "Copies of the model in service"),
    "modelyard_instance_restarts_total": ("counter", "Instances started again, or replaced, while the model serves"),
    "modelyard_hung_executions_total": ("counter", "Executions given up because they hung"),
    "modelyard_abandoned_threads": ("gauge", "Threads that hang in a model and cannot be ended"),
    "modelyard_shadow_requests_total": ("counter", "Copies of requests for a shadow version, by what became of them"),
    "modelyard_shadow_rows_total": ("counter", "Compared rows of a shadow's answers, by whether the best class agrees"),
    "modelyard_shadow_max_abs_error": ("gauge", "Largest difference of a shadow's answers from the primary's"),
    "modelyard_traces_total": ("counter", "Sampled requests, by what became of their spans"),
    "modelyard_process_resident_memory_bytes": ("gauge", "Resident memory of the replica"),
    "modelyard_process_cpu_seconds_total": ("counter", "User and system CPU time of the replica"),
}
"""Name: type and help."""

TRITON_METRICS: Final = {
    "nv_inference_request_success": ("counter", "Number of successful inference requests, all batch sizes"),
    "nv_inference_request_failure": ("counter", "Number of failed inference requests, all batch sizes"),
    "nv_inference_count": ("counter", "Number of inferences performed (does not include cached requests)"),
    "nv_inference_exec_count": ("counter", "Number of model executions performed (does not include cached requests)"),
    "nv_inference_pending_request_count": ("gauge", "Instantaneous number of pending requests awaiting execution"),
    "nv_inference_request_duration_us": ("counter", "Cumulative inference request duration in microseconds"),
    "nv_inference_queue_duration_us": ("counter", "Cumulative inference queuing duration in microseconds"),
    "nv_inference_compute_input_duration_us": ("counter", "Cumulative compute input duration in microseconds"),
    "nv_inference_compute_infer_duration_us": ("counter", "Cumulative compute inference duration in microseconds"),
    "nv_inference_compute_output_duration_us": ("counter", "Cumulative inference compute output duration in us"),
    "nv_cache_num_hits_per_model": ("counter", "Number of cache hits per model"),
    "nv_cache_num_misses_per_model": ("counter", "Number of cache misses per model"),
}
"""Triton's names, added where the spec's `triton_metrics` asks for them.

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md
"""


def render_metrics(plane: DataPlane) -> bytes:
    """The Prometheus exposition of a replica."""
    lines: list[str] = []
    shown = METRICS | TRITON_METRICS if plane.triton_metrics else METRICS
    samples: dict[str, list[str]] = {name: [] for name in shown}
    found = chain(_samples(plane), _triton_samples(plane)) if plane.triton_metrics else _samples(plane)
    for name, labels, value in found:
        family = name if name in samples else name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        samples[family].append(f"{name}{labels} {value}")
    for name, (kind, text) in shown.items():
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples[name]]
    return ("\n".join(lines) + "\n").encode()


def escaped(value: str) -> str:
    """A label's value as the exposition format wants it."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _triton_samples(plane: DataPlane) -> Iterator[tuple[str, str, float]]:
    """Triton's names for the same counters. What a request waits for is `queue`, the batch's wait included."""
    for executor in plane.executors:
        face, ledger = executor.interface, executor.ledger
        own = f'model="{escaped(face.name)}",version="{face.version}"'
        rows = list(ledger.by_rows.values())

        def us(*fields: str, rows: list[BatchStatistics] = rows) -> int:
            return int(sum(float(getattr(b, f)) for b in rows for f in fields) * 1e6)

        kept = executor.responses
        spared = kept.hits + kept.coalesced if kept is not None else 0  # answered, as `oip.statistics` has it
        yield "nv_inference_request_success", f"{{{own}}}", sum(b.requests for b in rows) + spared
        yield "nv_inference_request_failure", f'{{{own},reason="BACKEND"}}', ledger.failed
        yield "nv_inference_request_failure", f'{{{own},reason="REJECTED"}}', sum(ledger.refused.values())
        yield "nv_inference_count", f"{{{own}}}", sum(b.rows * b.batches for b in rows)
        yield "nv_inference_exec_count", f"{{{own}}}", sum(b.batches for b in rows)
        yield "nv_inference_pending_request_count", f"{{{own}}}", executor.waiting
        yield "nv_inference_request_duration_us", f"{{{own}}}", int(ledger.duration_sum_s * 1e6)
        yield "nv_inference_queue_duration_us", f"{{{own}}}", us("queue_s", "batch_wait_s")
        yield "nv_inference_compute_input_duration_us", f"{{{own}}}", us("receive_s", "parse_s", "pre_s")
        yield "nv_inference_compute_infer_duration_us", f"{{{own}}}", us("infer_s")
        yield "nv_inference_compute_output_duration_us", f"{{{own}}}", us("post_s", "encode_s", "send_s")
        if kept is not None:
            yield "nv_cache_num_hits_per_model", f"{{{own}}}", kept.hits
            yield "nv_cache_num_misses_per_model", f"{{{own}}}", kept.misses


def _samples(plane: DataPlane) -> Iterator[tuple[str, str, float]]:
    yield "modelyard_ready", "", int(plane.ready)
    yield "modelyard_connections", "", plane.connections
    yield "modelyard_bad_requests_total", "", plane.bad_requests
    yield "modelyard_refused_requests_total", "", plane.refused_requests
    for executor in plane.executors:
        yield from _model(plane, executor)
    for state in plane.index():
        own = f'model="{escaped(state.name)}",version="{state.version}",state="{state.state}"'
        yield "modelyard_model_state", f"{{{own}}}", 1
    for shadow in plane.shadows():
        yield from _shadow(shadow)
    tracer = plane.tracer
    for outcome, count in (("exported", tracer.exported), ("dropped", tracer.dropped), ("failed", tracer.failed)):
        yield "modelyard_traces_total", f'{{outcome="{outcome}"}}', count
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield "modelyard_process_resident_memory_bytes", "", resident_bytes(os.getpid())
    yield "modelyard_process_cpu_seconds_total", "", usage.ru_utime + usage.ru_stime


def _model(plane: DataPlane, executor: Executor) -> Iterator[tuple[str, str, float]]:
    face, ledger = executor.interface, executor.ledger
    own = f'model="{escaped(face.name)}",version="{face.version}"'
    rows = [ledger.by_rows[n] for n in sorted(ledger.by_rows)]
    requests = sum(b.requests for b in rows)
    yield "modelyard_requests_total", f'{{{own},outcome="ok"}}', requests
    yield "modelyard_requests_total", f'{{{own},outcome="failed"}}', ledger.failed
    for reason, count in ledger.refused.items():
        yield "modelyard_requests_total", f'{{{own},outcome="refused-{reason}"}}', count
    total = 0
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), ledger.duration_counts, strict=True):
        total += count
        yield "modelyard_request_duration_seconds_bucket", f'{{{own},le="{bound}"}}', total
    yield "modelyard_request_duration_seconds_sum", f"{{{own}}}", ledger.duration_sum_s
    yield "modelyard_request_duration_seconds_count", f"{{{own}}}", total
    for stage in STAGES:
        seconds = sum(float(getattr(b, f"{stage}_s")) for b in rows)
        yield "modelyard_stage_seconds_total", f'{{{own},stage="{stage}"}}', seconds
    for b in rows:
        yield "modelyard_batches_total", f'{{{own},rows="{b.rows}"}}', b.batches
    yield "modelyard_busy_seconds_total", f"{{{own}}}", sum(b.busy_s for b in rows)
    yield "modelyard_waiting_requests", f"{{{own}}}", executor.waiting
    yield "modelyard_running_requests", f"{{{own}}}", executor.running
    yield "modelyard_model_load_seconds", f"{{{own}}}", plane.load_s(executor)
    yield from _execution(executor, own)


def _execution(executor: Executor, own: str) -> Iterator[tuple[str, str, float]]:
    responses, watch = executor.responses, executor.watch
    if responses is not None:
        yield "modelyard_requests_total", f'{{{own},outcome="cached"}}', responses.hits
        yield "modelyard_cache_requests_total", f'{{{own},result="hit"}}', responses.hits
        yield "modelyard_cache_requests_total", f'{{{own},result="miss"}}', responses.misses
        yield "modelyard_coalesced_requests_total", f"{{{own}}}", responses.coalesced
    yield "modelyard_instances", f"{{{own}}}", len(watch.slots)
    yield "modelyard_instance_restarts_total", f'{{{own},how="restarted"}}', watch.restarts()
    yield "modelyard_instance_restarts_total", f'{{{own},how="replaced"}}', watch.replaced
    yield "modelyard_hung_executions_total", f"{{{own}}}", watch.hung
    yield "modelyard_abandoned_threads", f"{{{own}}}", len(watch.abandoned)


def _shadow(shadow: ShadowStatistics) -> Iterator[tuple[str, str, float]]:
    own = f'model="{escaped(shadow.model)}",version="{shadow.version}"'
    for outcome in ("dropped", "failed", "compared", "mismatched"):
        yield "modelyard_shadow_requests_total", f'{{{own},outcome="{outcome}"}}', getattr(shadow, outcome)
    yield "modelyard_shadow_rows_total", f'{{{own},agrees="yes"}}', shadow.rows_agreeing
    yield "modelyard_shadow_rows_total", f'{{{own},agrees="no"}}', shadow.rows - shadow.rows_agreeing
    yield "modelyard_shadow_max_abs_error", f"{{{own}}}", shadow.max_abs_error
