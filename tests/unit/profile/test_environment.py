"""What is recorded around a measurement: the node, its noise, the price, the server's own split."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from modelyard.domain.errors import InvalidInput
from modelyard.domain.measurement import Fingerprint
from modelyard.profile import resources, stages
from modelyard.profile.cell import cost_interval
from modelyard.profile.fingerprint import fingerprint
from modelyard.profile.price import Price
from modelyard.profile.resources import UsageMeter, cpu_seconds
from modelyard.profile.sentinel import Pulse, canary_s, environment


def test_the_fingerprint_is_stable_and_survives_json():
    a = fingerprint()
    assert a == fingerprint()
    assert len(a.id) == 16
    assert a.cores >= 1
    assert a.memory_bytes > 2**28
    assert "numpy" in a.libraries
    assert msgspec.json.decode(msgspec.json.encode(a), type=Fingerprint) == a


def test_making_a_fingerprint_imports_no_framework():
    code = (
        "import sys; from modelyard.profile import fingerprint; fingerprint();"
        "print([m for m in ('torch', 'onnxruntime', 'openvino', 'sklearn', 'pyarrow', 'jinja2', 'scipy', 'grpc')"
        " if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_pulse_reads_the_kernels_counters(tmp_path):
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "proc/stat").write_text("cpu  100 0 50 800 10 0 5 35 0 0\ncpu0 1 2 3\n")
    (tmp_path / "proc/pressure/cpu").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=4000\nfull total=1\n")
    (tmp_path / "sys/fs/cgroup/cpu.stat").write_text("usage_usec 5\nthrottled_usec 70\n")
    pulse = Pulse.take(tmp_path)
    assert (pulse.jiffies, pulse.steal_jiffies, pulse.stalled_us, pulse.throttled_ns) == (1000, 35, 4000, 70_000)
    absent = Pulse.take(tmp_path / "nowhere")
    assert (absent.jiffies, absent.steal_jiffies, absent.stalled_us, absent.throttled_ns) == (0, 0, 0, 0)


def test_the_environment_is_the_difference_of_two_pulses():
    before = Pulse(jiffies=1000, steal_jiffies=10, stalled_us=0, throttled_ns=0, at_s=0.0)
    after = Pulse(jiffies=2000, steal_jiffies=60, stalled_us=500_000, throttled_ns=2_000_000_000, at_s=10.0)
    found = environment(before, after, [0.003, 0.006])
    assert float(found["steal_fraction"]) == pytest.approx(0.05)
    assert float(found["cpu_pressure_fraction"]) == pytest.approx(0.05)
    assert float(found["throttled_s"]) == pytest.approx(2.0)
    assert float(found["canary_worst_ratio"]) == pytest.approx(2.0)


def test_the_canary_takes_time():
    assert 0 < canary_s() < 5


def test_a_price_turns_core_seconds_into_money():
    assert Price(per_core_hour=3.6).per_million(0.001) == pytest.approx(1.0)
    assert Price().source
    with pytest.raises(InvalidInput):
        Price(per_core_hour=-1)


def test_the_meter_sees_memory_and_cpu_of_a_process_tree():
    code = (
        "import sys, time\n"
        "block = bytearray(64 * 2**20)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "end = time.process_time() + 0.2\n"
        "while time.process_time() < end: pass\n"
        "print('done', flush=True); sys.stdin.readline()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        child.stdout.readline()
        with UsageMeter(lambda: [child.pid]) as meter:
            child.stdin.write("\n")
            child.stdin.flush()
            child.stdout.readline()
        assert meter.usage.rss_bytes > 64 * 2**20
        assert 0.15 <= meter.usage.cpu_s <= 0.4
        assert not meter.usage.replicas_changed
    finally:
        child.kill()
        child.wait()


def _spin(seconds: float) -> subprocess.Popen[str]:
    """A child that has used `seconds` of CPU in a thread that ended, and waits for a line."""
    code = (
        "import sys, threading, time\n"
        "def spin():\n"
        f"    end = time.process_time() + {seconds}\n"
        "    while time.process_time() < end: pass\n"
        "thread = threading.Thread(target=spin); thread.start(); thread.join()\n"
        "print(time.process_time(), flush=True); sys.stdin.readline()\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_cpu_time_is_finer_than_the_kernels_ticks():
    """The child's own clock and ours are the same clock: between them lies only its print."""
    with _spin(0.013) as child:
        own_s = float(child.stdout.readline())
        (seen_s,) = cpu_seconds([child.pid]).values()
        child.communicate("\n")
    assert own_s <= seen_s < own_s + 0.005


def test_without_process_clocks_the_ticks_are_read(monkeypatch):
    def no_clock(_: int) -> int:
        raise OSError(22, "Invalid argument")

    with _spin(0.1) as child:
        own_s = float(child.stdout.readline())
        monkeypatch.setattr(resources.time, "clock_gettime_ns", no_clock)
        (seen_s,) = cpu_seconds([child.pid]).values()
        child.communicate("\n")
    assert seen_s == pytest.approx(own_s, abs=0.03)


def test_the_cost_has_an_interval_over_blocks():
    price = Price(per_core_hour=3.6)
    found = cost_interval([(0.10, 100), (0.12, 100), (0.11, 100)], price)
    assert found is not None
    assert found.value == pytest.approx(price.per_million(0.0011))
    assert found.low < 1.0 < found.value < 1.2 < found.high < 1.5


@pytest.mark.parametrize("blocks", [[(0.1, 100)], [(0.1, 100), (0.0, 100)], [(0.1, 100), (0.1, 0)]])
def test_a_cost_that_no_interval_can_be_told_for_has_none(blocks):
    assert cost_interval(blocks, Price()) is None
    assert cost_interval([(0.1, 100)] * 3, Price(per_core_hour=0)) is None


def test_the_meter_notices_a_replaced_replica():
    pids = iter([[1], [2]])
    with UsageMeter(lambda: next(pids)) as meter:
        pass
    assert meter.usage.replicas_changed


def _page(pid: int, *batches: tuple[int, int, int, float]) -> stages._Page:
    made = [
        stages._Batch(rows, count, requests, queue, 0.0, 0.0, queue * 2, 0.0, 0.0)
        for rows, count, requests, queue in batches
    ]
    return stages._Page(pid, [stages._Model("digits", 1, made)])


def test_stage_times_are_means_over_the_requests_between_two_snapshots():
    before = {7: _page(7, (1, 100, 100, 5.0)), 8: _page(8)}
    after = {7: _page(7, (1, 110, 110, 5.1), (4, 10, 40, 0.4)), 8: _page(8, (1, 50, 50, 0.5))}
    found = stages.stage_times([(before, after)], "digits", 1)
    assert found is not None
    assert found.queue_ms == pytest.approx((0.1 + 0.4 + 0.5) / 100 * 1e3)
    assert found.infer_ms == pytest.approx(2 * found.queue_ms)
    assert found.mean_batch_rows == pytest.approx((10 + 40 + 50) / 70)
    assert stages.stage_times([(before, before)], "digits", 1) is None
    assert stages.stage_times([(before, after)], "other", 1) is None
    assert stages.stage_times([({}, {})], "digits", 1) is None
