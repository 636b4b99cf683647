"""The profiler against real processes with scripted behaviour: what is known of the service must be in the number."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from modelyard.domain.errors import BackendFailed, InvalidInput, Unavailable
from modelyard.domain.measurement import Measurement, Validity
from modelyard.domain.services import Endpoint
from modelyard.domain.tensors import Signature
from modelyard.domain.workload import Arrival, Protocol, Workload
from modelyard.profile import MeasuredService, Profiler, Rules, Samples, WarmUpRule, compare
from modelyard.profile.kept_blocks import OLDEST_S, KeptBlocks
from modelyard.profile.process import ClientProcess, write_plan
from modelyard.profile.profiler import ABANDONED
from modelyard.profile.requests import encode
from tests.builders import configuration
from tests.serving_harness import replica, scripted, tensor

RESPONDER = Path(__file__).parent / "profile_responder.py"
PAYLOADS = [{"x": np.full((1, 8), value, np.float32)} for value in range(4)]
BRIEF = WarmUpRule(max_blocks=2, max_s=0.5, block_requests=20, block_s=0.1)
QUIET = Rules(max_retakes=0)


@contextmanager
def responder(**options: object) -> Iterator[tuple[int, int]]:
    """A running scripted service: (pid, port)."""
    process = subprocess.Popen([sys.executable, str(RESPONDER), json.dumps(options)], stdout=subprocess.PIPE)
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def service(pid: int, port: int) -> MeasuredService:
    return MeasuredService(Endpoint("127.0.0.1", port), "digits", 1, configuration(), lambda: [pid])


def _clients_of(tmp_path: Path) -> list[int]:
    """Process ids of the load clients whose plan is below `tmp_path`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode()
            except OSError:
                continue
            if "modelyard.profile.client" in command and str(tmp_path) in command:
                found.append(int(entry.name))
    return found


def profiler(tmp_path: Path) -> Profiler:
    return Profiler(tmp_path, rules=QUIET, warm_up=BRIEF)


def test_a_fixed_service_time_comes_back_in_every_indicator(tmp_path):
    seen = []
    work = Workload(Arrival.CLOSED, concurrency=4, requests=120, blocks=4)
    with responder(service_s=0.005) as (pid, port):
        cell = profiler(tmp_path).measure(service(pid, port), work, PAYLOADS, purpose="test", progress=seen.append)
    found = cell.measurement
    i = found.indicators
    # Four in flight at one server of 5 ms (its timer never fires early): 200 requests/s at most, 20 ms each at least.
    assert 30 < i.throughput_rps.value < 202
    assert i.p50_ms.value > 19.5
    assert i.throughput_rps.value * i.p50_ms.value / 1e3 == pytest.approx(4, rel=0.15)
    assert i.p50_ms.low <= i.p50_ms.value <= i.p50_ms.high
    assert i.requests == 480
    assert i.p99_ms is not None
    assert i.p999_ms is None
    assert i.error_fraction == 0
    assert i.memory_rss_bytes > 5 * 2**20
    assert i.time_to_first_response_ms > 4.9
    assert i.cost_per_million == pytest.approx(i.core_s_per_request * 1e6 / 3600 * 0.0425)
    assert i.cost_interval.low <= i.cost_per_million == i.cost_interval.value <= i.cost_interval.high
    assert i.cost_known
    assert i.stages is None  # this service has no /stats
    assert found.verdict.validity is not Validity.INVALID
    assert found.purpose == "test"
    assert "canary_ms" in found.environment
    assert [p.done for p in seen] == [0, 0, 1, 2, 3, 4]
    assert msgspec.json.decode(msgspec.json.encode(found), type=Measurement) == found
    samples = Samples.load(cell.samples)
    assert len(samples) == 480
    assert sorted(p.name for p in cell.samples.parent.iterdir()) == ["client.log", "plan.json", "samples.npz"]


def test_the_measured_schedule_is_the_seeded_one(tmp_path):
    work = Workload(Arrival.POISSON, rate_rps=400, requests=100, blocks=2, seed=11)
    with responder() as (pid, port):
        first = profiler(tmp_path).measure(service(pid, port), work, PAYLOADS)
        second = profiler(tmp_path).measure(service(pid, port), work, PAYLOADS)
    assert first.measurement.client.scheduled_rps == pytest.approx(400, rel=1e-4)
    a, b = Samples.load(first.samples), Samples.load(second.samples)
    for one, other in zip(a.blocks(), b.blocks(), strict=True):
        assert np.diff(one.scheduled_s) == pytest.approx(np.diff(other.scheduled_s), abs=1e-6)
    assert (a.dispatched_s >= a.scheduled_s).all()
    assert (a.completed_s > a.sent_s).all()


def test_a_stall_of_300_ms_is_in_the_tail_not_omitted(tmp_path):
    """A closed or send-time clock would show one slow request; the schedule shows every one that was due meanwhile."""
    work = Workload(Arrival.CONSTANT, rate_rps=500, requests=1000, blocks=1)
    warm = 1 + 2 * 20
    with responder(stall_at=[warm + 400, 0.3]) as (pid, port):
        cell = profiler(tmp_path).measure(service(pid, port), work, PAYLOADS)
    latencies = Samples.load(cell.samples).latencies_ms(10)
    assert cell.measurement.indicators.p99_ms.value > 250
    assert cell.measurement.indicators.p50_ms.value < 100
    slow = latencies[latencies > 20]
    assert 100 <= len(slow) <= 400  # about 300 ms x 500/s were due during the stall
    assert slow.max() > 290
    # All came, so nothing was left behind. (What counts as growth over thirds is tested without a clock.)
    assert not any("completed" in reason for reason in cell.measurement.verdict.reasons)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the client needs another core")
def test_a_core_that_stands_still_makes_the_block_a_noisy_one(tmp_path):
    """As if a hypervisor ran someone else: the time is told, and the block is not believed."""
    work = Workload(Arrival.CONSTANT, rate_rps=200, requests=200, blocks=1)
    with responder() as (pid, port), _standstill(0.05) as started:
        if not started:
            pytest.skip("no right to real-time priority")
        found = profiler(tmp_path).measure(service(pid, port), work, PAYLOADS).measurement
    assert float(found.environment["stalled_s"]) > 0.04
    assert any("a core stood still" in reason for reason in found.verdict.reasons)
    assert found.verdict.validity is not Validity.VALID


@contextmanager
def _standstill(seconds: float) -> Iterator[bool]:
    """Again and again nothing else runs on the first core for so long; False where that is not allowed."""
    code = """
import os, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(9))
except PermissionError:
    sys.exit(print("no", flush=True))
print("yes", flush=True)
for _ in range(60):
    time.sleep(0.3)
    until = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < until:
        pass
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(seconds)], stdout=subprocess.PIPE)
    try:
        yield process.stdout.readline() == b"yes\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_service_that_cannot_keep_up_is_called_saturated(tmp_path):
    work = Workload(Arrival.POISSON, rate_rps=300, requests=240, blocks=3)
    with responder(service_s=0.01) as (pid, port):
        found = profiler(tmp_path).measure(service(pid, port), work, PAYLOADS).measurement
    assert found.verdict.saturated
    assert any("completed" in reason for reason in found.verdict.reasons)
    assert found.indicators.throughput_rps.value < 110


def test_a_client_that_is_held_back_is_called_saturated(tmp_path):
    """The client is stopped for 50 ms again and again, as a CPU quota would."""
    work = Workload(Arrival.CONSTANT, rate_rps=500, requests=600, blocks=1)
    ended = threading.Event()

    def hold_back() -> None:
        while not ended.is_set():
            for pid in _clients_of(tmp_path):
                os.kill(pid, signal.SIGSTOP)
            ended.wait(0.05)
            for pid in _clients_of(tmp_path):
                os.kill(pid, signal.SIGCONT)
            ended.wait(0.05)

    with responder() as (pid, port):
        thread = threading.Thread(target=hold_back)
        thread.start()
        try:
            found = profiler(tmp_path).measure(service(pid, port), work, PAYLOADS).measurement
        finally:
            ended.set()
            thread.join()
    assert found.verdict.validity is Validity.INVALID
    assert found.verdict.reasons[0].startswith("client saturated")
    assert found.client.send_lag_p99_ms > 10


def test_refusals_count_against_the_latency_and_are_told(tmp_path):
    work = Workload(Arrival.CONSTANT, rate_rps=300, requests=500, blocks=1, timeout_s=2)
    with responder(refuse_every=20) as (pid, port):
        cell = profiler(tmp_path).measure(service(pid, port), work, PAYLOADS)
    found = cell.measurement
    assert found.indicators.error_fraction == pytest.approx(0.05, abs=0.005)
    assert found.indicators.p99_ms.value >= 2000
    assert found.indicators.p50_ms.value < 100
    assert "requests failed" in " ".join(found.verdict.reasons)
    assert set(np.unique(Samples.load(cell.samples).status)) == {0, 429}


def test_an_answer_that_never_comes_times_out_and_the_rest_goes_on(tmp_path):
    work = Workload(Arrival.CONSTANT, rate_rps=200, requests=100, blocks=1, timeout_s=0.3)
    with responder(silent_every=25) as (pid, port):
        cell = profiler(tmp_path).measure(service(pid, port), work, PAYLOADS)
    samples = Samples.load(cell.samples)
    assert set(np.unique(samples.status)) == {-1, 0}
    assert (samples.status == -1).sum() == 4
    lost = samples.latencies_ms(0.3)[samples.status == -1]
    assert ((lost >= 300) & (lost < 3000)).all()


@pytest.mark.parametrize("options", [{"chunked": True}, {"close_every": 7}])
def test_every_framing_of_a_response_is_understood(tmp_path, options):
    work = Workload(Arrival.CLOSED, concurrency=3, requests=200, blocks=1)
    with responder(**options) as (pid, port):
        found = profiler(tmp_path).measure(service(pid, port), work, PAYLOADS).measurement
    assert found.indicators.error_fraction == 0
    assert found.indicators.requests == 200


def test_a_closed_loop_ends_with_its_time(tmp_path):
    work = Workload(Arrival.CLOSED, concurrency=2, requests=100_000, duration_s=0.4, blocks=2)
    with responder(service_s=0.005) as (pid, port):
        cell = profiler(tmp_path).measure(service(pid, port), work, PAYLOADS)
    for block in Samples.load(cell.samples).blocks():
        assert 10 < len(block) <= 84
        assert block.sent_s.max() < 0.45


def test_interleaved_services_see_the_same_schedules_and_compare_in_pairs(tmp_path):
    work = Workload(Arrival.POISSON, rate_rps=60, requests=60, blocks=3)
    with responder(service_s=0.002) as a, responder(service_s=0.012) as b:
        fast, slow = profiler(tmp_path).measure_interleaved([service(*a), service(*b)], work, PAYLOADS)
    found = compare(fast.measurement, fast.samples, slow.measurement, slow.samples)
    assert found.paired
    assert found.difference("p50").ratio > 2
    assert found.difference("p50").shown
    assert "slower at p50" in found.words


def test_a_service_that_is_gone_is_an_error_with_a_next_step(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    work = Workload(Arrival.CLOSED, concurrency=1, requests=10, blocks=1)
    with pytest.raises(Unavailable) as caught:
        profiler(tmp_path).measure(service(os.getpid(), port), work, PAYLOADS)
    assert str(port) in caught.value.what
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []  # nothing half-made is left


def test_a_block_is_led_in_by_requests_that_are_not_recorded(tmp_path):
    work = Workload(Arrival.CONSTANT, rate_rps=500, requests=50, blocks=1)
    with responder(stall_at=[1 + 2 * BRIEF.block_requests + 4, 0.3]) as address:  # the fourth after the warm-up
        found = profiler(tmp_path).measure(service(*address), work, PAYLOADS)
    assert len(Samples.load(found.samples)) == found.measurement.indicators.requests == 50
    assert Samples.load(found.samples).latencies_ms(1.0).max() < 250


@pytest.mark.parametrize(("service_s", "led_in"), [(0.0, 50), (0.15, 0)])
def test_requests_that_take_as_long_as_the_lead_in_have_none(tmp_path, service_s, led_in):
    rate = 500 if led_in else 5
    work = Workload(Arrival.CONSTANT, rate_rps=rate, requests=60, blocks=1)
    with responder(service_s=service_s) as (_, port):
        payload = encode(PAYLOADS[0], work.protocol, model="digits", version=1, host=f"127.0.0.1:{port}")
        rule = WarmUpRule(max_blocks=2, max_s=1.0, block_requests=2)
        with ClientProcess(
            write_plan(tmp_path / "cell", Endpoint("127.0.0.1", port), work, [payload], warm_up=rule)
        ) as client:
            client.warm_up()
            assert client.lead_in().requests == led_in


def test_a_service_that_dies_during_a_block_is_seen_in_the_verdict(tmp_path):
    work = Workload(Arrival.CONSTANT, rate_rps=200, requests=300, blocks=1, timeout_s=1)
    with responder() as (pid, port):
        alive = [pid]
        target = MeasuredService(Endpoint("127.0.0.1", port), "digits", 1, configuration(), lambda: list(alive))

        def on_progress(progress):
            if progress.stage == "block" and progress.done == 0:
                threading.Timer(0.5, die).start()

        def die():
            os.kill(pid, signal.SIGKILL)
            alive.clear()

        found = profiler(tmp_path).measure(target, work, PAYLOADS, progress=on_progress).measurement
    assert found.verdict.validity is Validity.INVALID
    assert found.indicators.error_fraction > 0.2
    assert any("replica" in reason for reason in found.verdict.reasons)


@pytest.mark.parametrize("gone", [True, False])
def test_a_client_that_dies_is_an_error_with_its_log(tmp_path, gone):
    """Whether it is already dead when the command is sent (a broken pipe) or dies before it answers (no line)."""
    work = Workload(Arrival.CLOSED, concurrency=1, requests=10, blocks=1)
    plan = write_plan(tmp_path / "cell", Endpoint("127.0.0.1", 1), work, [b"x"])
    with ClientProcess(plan) as client:
        if gone:
            os.kill(client.pid, signal.SIGKILL)
            os.waitid(os.P_PID, client.pid, os.WEXITED | os.WNOWAIT)
        else:
            os.kill(client.pid, signal.SIGSTOP)
            threading.Timer(0.1, os.kill, (client.pid, signal.SIGKILL)).start()
        with pytest.raises(BackendFailed) as caught:
            client.warm_up()
    assert "status -9" in caught.value.what
    assert "client.log" in caught.value.hint


def _interrupted(tmp_path: Path, work: Workload, blocks: int, address: tuple[int, int]) -> None:
    """Measure until so many blocks are done, then be interrupted."""

    def interrupt(progress):
        if progress.stage == "block" and progress.done == blocks:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profiler(tmp_path).measure(service(*address), work, PAYLOADS, progress=interrupt)


def test_an_interrupted_measurement_leaves_no_client_and_no_files(tmp_path):
    work = Workload(Arrival.CONSTANT, rate_rps=500, requests=50, blocks=3)
    with responder() as address:
        _interrupted(tmp_path, work, 0, address)
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 5
    while _clients_of(tmp_path):
        assert time.monotonic() < deadline, "the load client is still there"
        time.sleep(0.02)


def test_an_interrupted_measurement_goes_on_with_its_next_block(tmp_path):
    work = Workload(Arrival.CONSTANT, rate_rps=500, requests=50, blocks=3)
    with responder() as address:
        _interrupted(tmp_path, work, 2, address)
        (left,) = tmp_path.iterdir()
        kept = [Samples.load(left / f"block-{k}.npz").completed_s for k in range(2)]
        cell = profiler(tmp_path).measure(service(*address), work, PAYLOADS)
    blocks = Samples.load(cell.samples).blocks()
    assert len(blocks) == 3
    for before, block in zip(kept, blocks, strict=False):
        np.testing.assert_array_equal(before, block.completed_s)
    assert cell.measurement.indicators.requests == 150
    assert sorted(p.name for p in cell.samples.parent.iterdir()) == ["client.log", "plan.json", "samples.npz"]


def test_blocks_that_were_left_long_ago_or_for_another_load_are_not_taken(tmp_path):
    work = Workload(Arrival.CONSTANT, rate_rps=500, requests=50, blocks=2)
    with responder() as address:
        _interrupted(tmp_path, work, 1, address)
        (left,) = tmp_path.iterdir()
        kept = KeptBlocks(left, clock=lambda: time.time() + OLDEST_S + 1)
        assert kept.find(0) is None
        assert KeptBlocks(left).find(0) is not None
        other = profiler(tmp_path).measure(service(*address), replace(work, seed=7), PAYLOADS)
        assert other.samples.parent != left
        (left / "block-0.npz").unlink()
        assert KeptBlocks(left).find(0) is None


def test_grpc_needs_a_port_and_a_measurement_needs_payloads(tmp_path):
    work = Workload(Arrival.CLOSED, concurrency=1, requests=10, blocks=1, protocol=Protocol.GRPC)
    with pytest.raises(Unavailable):
        profiler(tmp_path).measure(service(os.getpid(), 1), work, PAYLOADS)
    with pytest.raises(InvalidInput):
        profiler(tmp_path).measure(service(os.getpid(), 1), work, [])


@pytest.mark.parametrize("protocol", list(Protocol))
def test_a_model_of_bf16_inputs_is_driven_by_each_protocol(tmp_path, protocol):
    signature = Signature((tensor("x", "BF16", "batch", 8),), (tensor("y", "BF16", "batch", 8),))
    assert signature.sent_as == {"x": "BF16"}
    work = Workload(Arrival.CLOSED, concurrency=2, requests=20, blocks=2, protocol=protocol)
    with replica(tmp_path / "r", scripted("echo", signature, name="digits")) as server:
        endpoint = Endpoint("127.0.0.1", server.http_port, server.grpc_port)
        pids = [server.process.pid]
        target = MeasuredService(endpoint, "digits", 1, configuration(), lambda: pids, datatypes=signature.sent_as)
        cell = profiler(tmp_path / "p").measure(target, work, PAYLOADS)
    assert cell.measurement.indicators.requests == 40
    assert cell.measurement.indicators.error_fraction == 0


def test_what_the_first_blocks_show_to_be_hopeless_is_given_up(tmp_path):
    """The others' blocks go on; what was given up says so and keeps what was measured."""
    work = Workload(Arrival.POISSON, rate_rps=200, requests=60, blocks=3)
    with responder(refuse_every=2) as bad, responder() as good:
        failing, fine = profiler(tmp_path).measure_interleaved(
            [service(*bad), service(*good)],
            work,
            PAYLOADS,
            purpose="test",
            hopeless=lambda blocks: "half of it fails" if blocks[-1].ok < blocks[-1].requests else "",
        )
    assert failing.measurement.purpose == ABANDONED
    assert failing.measurement.verdict.reasons[0] == "abandoned after 1 of 3 blocks: half of it fails"
    assert failing.measurement.indicators.requests == 60
    assert fine.measurement.purpose == "test"
    assert fine.measurement.indicators.requests == 180
