"""Scenarios and traces with real processes: LoadGen as an oracle, recorded arrivals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelyard.domain.errors import NotFound
from modelyard.domain.services import Endpoint
from modelyard.domain.workload import Arrival, Scenario, Trace, Workload
from modelyard.profile import MeasuredService, Profiler, Rules, Samples, WarmUpRule
from modelyard.profile.early_stopping import percentile_estimate, queries_needed
from modelyard.profile.recording import Recording
from tests.builders import configuration
from tests.integration.test_profile_measure import responder
from tests.unit.profile.builders import fifo

LOADGEN = Path(__file__).parent / "loadgen_client.py"
PATIENCE_S = 120.0
SERVICE_S = 0.010
PAYLOADS = [{"x": np.zeros((1, 8), np.float32)}]
SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Oracle:
    """What LoadGen logged: its figures by name, its words, and each query's scheduled time and latency."""

    figures: dict[str, Any]
    summary: str
    scheduled_s: np.ndarray
    latencies_ms: np.ndarray


def loadgen(port: int, out: Path, **options: object) -> Oracle:
    out.mkdir()
    command = [sys.executable, str(LOADGEN), str(port), str(out), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    lines = (out / "mlperf_log_detail.txt").read_text().splitlines()
    entries = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines if line.startswith(":::MLLOG ")]
    queries = [
        json.loads(line.rstrip(","))
        for line in (out / "mlperf_log_trace.json").read_text().splitlines()
        if '"name":"Sample"' in line and '"ph":"b"' in line
    ]
    queries.sort(key=lambda query: query["args"]["query_seq"])
    return Oracle(
        {entry["key"]: entry["value"] for entry in entries},
        (out / "mlperf_log_summary.txt").read_text(),
        np.array([query["ts"] for query in queries]) / 1e6,
        np.array([query["args"]["complete_ns"] for query in queries]) / 1e6,
    )


def profiler(tmp_path: Path, **options: Any) -> Profiler:
    brief = WarmUpRule(max_blocks=2, max_s=0.5, block_requests=20, block_s=0.1)
    return Profiler(tmp_path / "profile", rules=Rules(max_retakes=0), warm_up=brief, **options)


def service(pid: int, port: int) -> MeasuredService:
    return MeasuredService(Endpoint("127.0.0.1", port), "digits", 1, configuration(), lambda: [pid])


def agree(found_ms: float, truth_ms: float, share: float) -> bool:
    """Never below what the scripted service takes; above it by what a shared machine may add."""
    return truth_ms - 0.1 <= found_ms <= truth_ms * (1.5 if share < 0.99 else 3) + 15


def test_single_stream_agrees_with_loadgen_on_a_scripted_service(tmp_path):
    work = Workload(Arrival.CLOSED, requests=150, blocks=2, scenario=Scenario.SINGLE_STREAM)
    with responder(service_s=SERVICE_S) as (pid, port):
        theirs = loadgen(port, tmp_path / "loadgen", scenario="SingleStream", queries=300)
        ours = profiler(tmp_path).measure(service(pid, port), work, PAYLOADS).measurement.indicators.scenario
    assert agree(theirs.figures["result_90.00_percentile_latency_ns"] / 1e6, SERVICE_S * 1e3, 0.9)
    assert agree(ours.value, SERVICE_S * 1e3, 0.9)
    # the same statistic of the same latencies is the same number, to the nanosecond
    estimate = percentile_estimate(theirs.latencies_ms, 0.90)
    assert f"Early stopping 90.0th percentile estimate: {round(estimate * 1e6)}" in theirs.summary
    assert (ours.metric, ours.early_stopping.queries) == ("p90", 300)
    assert ours.value <= ours.early_stopping.at_most_ms


def test_server_agrees_with_loadgen_under_its_own_schedule(tmp_path):
    """LoadGen's schedule is replayed as a trace; both must find what a first-come-first-served server makes of it."""
    limit_ms = 45.0
    with responder(service_s=SERVICE_S) as (pid, port):
        theirs = loadgen(port, tmp_path / "loadgen", scenario="Server", queries=400, rate=60, limit_ms=limit_ms)
        recorded = Recording(np.sort(theirs.scheduled_s) - theirs.scheduled_s.min())
        work = Workload(
            Arrival.TRACE, rate_rps=60, trace=Trace(recorded.save(tmp_path / "traces")), requests=400, blocks=1
        )
        cell = profiler(tmp_path, traces=tmp_path / "traces").measure(service(pid, port), work, PAYLOADS)
    samples = Samples.load(cell.samples)
    assert samples.scheduled_s - samples.scheduled_s[0] == pytest.approx(recorded.values, abs=1e-6)
    truth_ms = (fifo(recorded.values, np.full(400, SERVICE_S)) - recorded.values) * 1e3
    ours_ms = samples.latencies_ms(10.0)
    for share in SHARES:
        known = float(np.quantile(truth_ms, share, method="inverted_cdf"))
        assert agree(theirs.figures[f"result_{share * 100:.2f}_percentile_latency_ns"] / 1e6, known, share)
        assert agree(float(np.quantile(ours_ms, share, method="inverted_cdf")), known, share)
    over = int((theirs.latencies_ms > limit_ms).sum())
    assert not theirs.figures["early_stopping_met"]  # 400 queries are too few for a p99
    assert f"at least {queries_needed(over, 0.99) - 400} more queries" in theirs.figures["early_stopping_result"]


def test_a_trace_that_is_not_kept_is_told_before_anything_is_sent(tmp_path):
    work = Workload(Arrival.TRACE, rate_rps=60, trace=Trace("0" * 64), requests=10, blocks=1)
    with pytest.raises(NotFound) as caught:
        profiler(tmp_path, traces=tmp_path).measure(service(os.getpid(), 1), work, PAYLOADS)
    assert "--trace" in caught.value.hint


def test_a_ramp_is_not_called_saturated_for_growing(tmp_path):
    """From 20 to 120 requests/s at a server of 100: the queue grows at the end, and all of it is served."""
    work = Workload(Arrival.RAMP, rate_rps=20, end_rate_rps=120, requests=200, blocks=3)
    with responder(service_s=SERVICE_S) as (pid, port):
        found = profiler(tmp_path).measure(service(pid, port), work, PAYLOADS).measurement
    assert not any("grew" in reason for reason in found.verdict.reasons)
    assert found.indicators.requests == 600
    assert found.client.scheduled_rps == pytest.approx(70, rel=0.01)
