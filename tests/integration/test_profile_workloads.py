"""Scenarios, traces and sweeps with real processes: LoadGen as an oracle, recorded arrivals, a sweep that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from modelyard.domain.errors import NotFound
from modelyard.domain.services import Endpoint
from modelyard.domain.workload import Arrival, Scenario, Trace, Workload
from modelyard.profile import MeasuredService, Profiler, Rules, Samples, WarmUpRule
from modelyard.profile.early_stopping import percentile_estimate, queries_needed
from modelyard.profile.recording import Recording
from tests import small_model
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


@pytest.fixture
def registered(tmp_path: Path) -> dict[str, str]:
    """A home with a small model in it; the environment of `yard` there."""
    small_model.write(tmp_path)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MODELYARD_")}
    environment = {**kept, "MODELYARD_HOME": str(tmp_path / "home"), "COLUMNS": "100", "NO_COLOR": "1"}
    assert yard(environment, "register", str(tmp_path / "model.yaml")).returncode == 0
    return environment


def yard(environment: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modelyard", *argv]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)


def ids(environment: dict[str, str]) -> list[str]:
    return [m["id"] for m in json.loads(yard(environment, "measurements", "ls", "small", "--json").stdout)["data"]]


def test_a_sweep_killed_in_the_middle_goes_on_with_what_is_missing(registered, tmp_path):
    axes = ["--closed", "1,2,3", "--threads", "1,64"]
    # three blocks of a second each: a cell lasts longer than progress is silent, so that each cell is told
    length = ["--blocks", "3", "--duration", "1", "--requests", "1000000"]
    sweep = ["profile", "small", *axes, *length, "--json"]
    command = [sys.executable, "-m", "modelyard", *sweep]
    process = subprocess.Popen(command, env=registered, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = iter(process.stderr)
    told = [next(lines)]
    while "cell 2/3" not in told[-1]:
        told.append(next(lines))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    before = ids(registered)
    assert 1 <= len(before) < 3
    done = yard(registered, *sweep)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["data"]
    assert [m["workload"]["concurrency"] for m in measured] == [1, 2, 3]
    assert [m["id"] for m in measured[: len(before)]] == before
    assert sorted(ids(registered)) == sorted(m["id"] for m in measured)
    assert "skipped" in done.stderr  # 64 threads
    deadline = time.monotonic() + PATIENCE_S
    while _left(tmp_path):
        assert time.monotonic() < deadline, "a service of the killed sweep is still there"
        time.sleep(0.05)


def _left(tmp_path: Path) -> list[int]:
    home = str(tmp_path / "home")
    running = psutil.process_iter(["pid", "cmdline"])
    return [process.pid for process in running if home in " ".join(process.info["cmdline"] or ())]


def test_a_trace_is_replayed_from_a_file_and_again_without_it(registered, tmp_path):
    (tmp_path / "log.csv").write_text("id,timestamp\n" + "".join(f"{k},{1700000000 + k / 50}\n" for k in range(200)))
    argv = ("profile", "small", "--blocks", "2", "--requests", "60", "--json")
    first = yard(registered, *argv, "--trace", str(tmp_path / "log.csv"), "--rate", "25")
    assert first.returncode == 0, first.stderr
    assert "read as timestamps: 200 requests in 3.98 s" in first.stderr
    (measured,) = json.loads(first.stdout)["data"]
    assert measured["workload"]["rate_rps"] == 25
    assert measured["client"]["scheduled_rps"] == pytest.approx(25, rel=0.1)
    (tmp_path / "log.csv").unlink()
    digest = measured["workload"]["trace"]["digest"][:12]
    again = yard(registered, *argv, "--trace", digest, "--rate", "25")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["data"][0]["id"] == measured["id"]  # known, so reused
    gone = yard(registered, *argv, "--trace", str(tmp_path / "log.csv"))
    assert gone.returncode == 3
    shown = yard(registered, "measurements", "show", measured["id"])
    assert measured["workload"]["trace"]["digest"] in shown.stdout.replace("\n", "").replace(" ", "")


def test_a_scenario_names_its_number(registered):
    done = yard(registered, "profile", "small", "--scenario", "multi-stream", "--blocks", "2", "--requests", "400")
    assert done.returncode == 0, done.stderr
    assert "multi-stream: closed 1 x8 http-binary" in done.stdout
    text = " ".join(done.stdout.split())
    assert "early stopping: p99 <= " in text
    assert "at 99% confidence" in text


def test_a_sweep_whose_cells_fail_is_exit_code_1_with_each_of_them(registered):
    done = yard(registered, "profile", "small", "--device", "gpu:63", "--closed", "1,2", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["data"] == []
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["what"] == "2 of 2 cells failed"
    assert "gpu:63" in error["why"]
    assert done.stderr.count(": starting ") == 1  # it does not start for the second load either
