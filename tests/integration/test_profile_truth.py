"""The profiler against services whose latency distribution follows from queueing theory.

Client and service run before ordinary processes where the system allows it; where it does not, a busy machine makes the
service slower, and only lower bounds are looked at. How often intervals hold the truth is a matter of many runs:
bench/coverage.py.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.queues import BIMODAL, MD1, MM1, MM2, Queue
from modelyard.domain.measurement import Validity
from modelyard.domain.workload import Arrival, Workload
from modelyard.profile import Samples
from tests.integration.test_profile_measure import PAYLOADS, profiler, responder, service

SERVICE_MS = 3.0
_RUN_FIRST = "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"
UNDISTURBED = subprocess.run([sys.executable, "-c", _RUN_FIRST], capture_output=True, check=False).returncode == 0
LAWS = {"M/D/1": "fixed", "M/M/1": "exponential", "M/M/2": "exponential", "bimodal": "bimodal"}


@pytest.mark.parametrize("queue", [MD1, MM1, MM2, BIMODAL], ids=lambda queue: queue.name)
def test_the_measured_distribution_is_the_one_of_theory(tmp_path, queue: Queue):
    """The intervals of p50 and p95 hold the truth: half as wide again, for a test must not fail by chance."""
    rate = queue.rate_rps(0.5) / SERVICE_MS
    work = Workload(Arrival.POISSON, rate_rps=rate, requests=300, blocks=3, seed=5)
    options = {"service_s": SERVICE_MS / 1e3, "law": LAWS[queue.name], "servers": queue.servers, "first": True}
    with responder(**options) as (pid, port):
        found = profiler(tmp_path).measure(service(pid, port), work, PAYLOADS).measurement
    for share, measured in ((0.5, found.indicators.p50_ms), (0.95, found.indicators.p95_ms)):
        truth = queue.percentile(0.5, share) * SERVICE_MS
        assert measured.high * 1.5 > truth
        if UNDISTURBED:
            assert measured.low / 1.5 < truth + 1.0
    assert not found.verdict.saturated


def test_a_stall_of_a_second_is_in_p99_and_is_said_to_be_a_single_event(tmp_path):
    """250 requests were due while nothing was answered, and each waited for what was left of the second."""
    work = Workload(Arrival.CONSTANT, rate_rps=250, requests=400, blocks=5, duration_s=10)
    warm = 1 + 2 * 20
    with responder(service_s=0.001, stall_at=[warm + 900, 1.0]) as (pid, port):
        cell = profiler(tmp_path).measure(service(pid, port), work, PAYLOADS)
    latencies = Samples.load(cell.samples).latencies_ms(10)
    found = cell.measurement
    assert latencies.max() > 990
    assert (latencies > 100).sum() > 150
    assert (latencies > 500).sum() > 80
    assert found.indicators.p99_ms.value > 500
    assert found.verdict.validity is not Validity.VALID
    assert found.verdict.requests_wanted > 400
    assert any("too few bursts for a p99" in reason or "one burst" in reason for reason in found.verdict.reasons)
    assert not found.verdict.saturated


def test_noise_on_the_machine_moves_the_verdict_and_not_the_result(tmp_path):
    """Processes that burn every core twice over: the number is that of the service, and never called valid."""
    work = Workload(Arrival.POISSON, rate_rps=50, requests=150, blocks=3)
    burn = [sys.executable, "-c", "while True: pass"]
    with responder(service_s=0.010, first=True) as (pid, port):
        measuring = profiler(tmp_path)
        burning: list[subprocess.Popen[bytes]] = []

        def on_progress(progress):
            if progress.stage == "block" and not burning:  # after the canary's quiet reference
                burning.extend(subprocess.Popen(burn) for _ in range(2 * (os.cpu_count() or 1)))

        try:
            found = measuring.measure(service(pid, port), work, PAYLOADS, progress=on_progress).measurement
        finally:
            for process in burning:
                process.kill()
                process.wait()
    assert found.verdict.validity is not Validity.VALID
    told = " ".join(found.verdict.reasons)
    assert "noisy machine" in told or "client saturated" in told
    truth_ms = MD1.percentile(0.5, 0.5) * 10.0
    assert found.indicators.p50_ms.value > 0.9 * truth_ms
    if UNDISTURBED:
        assert found.indicators.p50_ms.value < 1.35 * truth_ms + 3.0
