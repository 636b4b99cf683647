"""Prometheus text of the replica's counters. Every metric is listed in docs/metrics.md; a test compares.

Written by hand: the counters exist already, and prometheus-client's registry would need a lock per request.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.observe.statistics import BOUNDS_S
from modelyard.serving.scheduling.executor import Executor

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

METRICS: Final = {
    "modelyard_ready": ("gauge", "1 while the replica wants traffic"),
    "modelyard_connections": ("gauge", "Open HTTP connections"),
    "modelyard_bad_requests_total": ("counter", "Requests refused before they reached a model"),
    "modelyard_requests_total": ("counter", "Requests by outcome: ok, failed, refused-<reason>"),
    "modelyard_request_duration_seconds": ("histogram", "Receipt to answer of successful requests"),
    "modelyard_stage_seconds_total": ("counter", "Time requests spent per stage, summed over requests"),
    "modelyard_batches_total": ("counter", "Executed batches by number of rows"),
    "modelyard_busy_seconds_total": ("counter", "Time the execution slot was busy"),
    "modelyard_waiting_requests": ("gauge", "Requests in the queue"),
    "modelyard_running_requests": ("gauge", "Requests being executed"),
    "modelyard_model_load_seconds": ("gauge", "Time to load and warm up the model"),
    "modelyard_process_resident_memory_bytes": ("gauge", "Resident memory of the replica"),
    "modelyard_process_cpu_seconds_total": ("counter", "User and system CPU time of the replica"),
}
"""Name: type and help."""

STAGES: Final = ("receive", "queue", "batch_wait", "pre", "infer", "post", "encode")


def render_metrics(plane: DataPlane) -> bytes:
    """The Prometheus exposition of a replica."""
    lines: list[str] = []
    samples: dict[str, list[str]] = {name: [] for name in METRICS}
    for name, labels, value in _samples(plane):
        samples[name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")].append(
            f"{name}{labels} {value}"
        )
    for name, (kind, text) in METRICS.items():
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples[name]]
    return ("\n".join(lines) + "\n").encode()


def _samples(plane: DataPlane) -> Iterator[tuple[str, str, float]]:
    yield "modelyard_ready", "", int(plane.ready)
    yield "modelyard_connections", "", plane.connections
    yield "modelyard_bad_requests_total", "", plane.bad_requests
    for executor in plane.executors:
        yield from _model(plane, executor)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield "modelyard_process_resident_memory_bytes", "", _resident_bytes()
    yield "modelyard_process_cpu_seconds_total", "", usage.ru_utime + usage.ru_stime


def _model(plane: DataPlane, executor: Executor) -> Iterator[tuple[str, str, float]]:
    face, ledger = executor.interface, executor.ledger
    own = f'model="{face.name}",version="{face.version}"'
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


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
