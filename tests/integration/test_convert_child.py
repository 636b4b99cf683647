"""Converters that crash, hang, eat memory, phone home or lie: each ends as a named value and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from modelyard.convert import Attempt, ConversionService, Converters, Evidence, Limits
from modelyard.convert.registry import BUILT_IN
from modelyard.domain.artifacts import FailureClass, LocalArtifact, Outcome, RejectionReason, Target
from modelyard.domain.errors import Unavailable
from modelyard.runtimes import Runtimes
from tests.integration.convert_models import linear_onnx

PLUGINS = Path(__file__).parent / "convert_plugins"
LIMITS = Limits(convert_s=30, run_s=30, memory_bytes=400 << 20, log_bytes=64 << 10)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Converters:
    """The built-in converters and the misbehaving one, registered as an entry point would be."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS))
    return Converters({**BUILT_IN, "misbehaving": "misbehaving:CONVERTER"})


@pytest.fixture
def source(tmp_path: Path) -> LocalArtifact:
    return linear_onnx(tmp_path / "source")


@pytest.fixture
def service(tmp_path: Path, plugins: Converters) -> Iterator[ConversionService]:
    with ConversionService(Runtimes.discover(), plugins, tmp_path / "work", LIMITS) as made:
        yield made


def attempt(service: ConversionService, source: LocalArtifact, way: str) -> Attempt:
    result = service.convert(source, Target("onnx", way), Evidence())
    assert len(result.attempts) == 1
    return result.attempts[0]


def leftovers() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if "modelyard-leftover" in (p.info["cmdline"] or [])]


def gone(find: object, timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while find():  # type: ignore[operator]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_segmentation_fault_is_a_named_failure(service: ConversionService, source: LocalArtifact) -> None:
    made = attempt(service, source, "segfault")
    assert (made.outcome, made.failure) == (Outcome.FAILED, FailureClass.CRASHED)
    assert "SIGSEGV" in made.detail
    assert made.hint
    assert made.artifact is None


def test_a_silent_exit_is_a_crash_though_the_status_is_zero(service: ConversionService, source: LocalArtifact) -> None:
    assert attempt(service, source, "abrupt-exit").failure is FailureClass.CRASHED


def test_a_hanging_converter_is_stopped_at_its_time_limit(
    tmp_path: Path, plugins: Converters, source: LocalArtifact
) -> None:
    limits = Limits(convert_s=2.0, run_s=30)
    with ConversionService(Runtimes.discover(), plugins, tmp_path / "work", limits) as service:
        made = attempt(service, source, "hang")
    assert made.failure is FailureClass.TIMED_OUT
    assert "2 s" in made.detail
    assert "MODELYARD_CONVERT_TIMEOUT_S" in made.hint


def test_a_converter_that_eats_memory_is_stopped_at_its_limit(
    service: ConversionService, source: LocalArtifact
) -> None:
    made = attempt(service, source, "hungry")
    assert made.failure is FailureClass.OUT_OF_MEMORY
    assert "MODELYARD_CONVERT_MEMORY_BYTES" in made.hint
    assert made.peak_memory_bytes > LIMITS.memory_bytes
    assert made.peak_memory_bytes < 2 * LIMITS.memory_bytes


def test_processes_started_by_a_converter_end_with_it(service: ConversionService, source: LocalArtifact) -> None:
    made = attempt(service, source, "leaves-children")
    assert made.outcome is Outcome.PROVEN
    assert gone(leftovers)


def test_the_network_is_out_of_reach(service: ConversionService, source: LocalArtifact) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (Path(source.directory) / "port").write_text(str(listener.getsockname()[1]))
        made = attempt(service, source, "calls-home")
        if "network" not in made.isolation:
            pytest.skip("this kernel or user may not make network namespaces; the attempt says so")
        assert made.outcome is Outcome.FAILED
        assert "unreachable" in made.detail.lower()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_nothing_is_written_outside_the_own_directory(
    service: ConversionService, source: LocalArtifact, tmp_path: Path
) -> None:
    made = attempt(service, source, "writes-outside")
    if "filesystem" not in made.isolation:
        pytest.skip("this kernel has no Landlock; the attempt says so")
    assert made.outcome is Outcome.FAILED
    assert "PermissionError" in made.detail
    assert not (tmp_path / "canary").exists()


def test_a_flood_of_output_is_kept_in_bounds_with_both_ends(service: ConversionService, source: LocalArtifact) -> None:
    made = attempt(service, source, "chatty")
    assert made.outcome is Outcome.PROVEN
    assert "first line" in made.log
    assert "last line" in made.log
    assert "left out" in made.log
    assert len(made.log) < 3 * LIMITS.log_bytes


def test_a_product_that_is_a_link_is_refused(service: ConversionService, source: LocalArtifact) -> None:
    made = attempt(service, source, "link")
    assert made.outcome is Outcome.FAILED
    assert "no plain file" in made.detail


def test_a_conversion_that_changes_one_weight_is_rejected(service: ConversionService, source: LocalArtifact) -> None:
    made = attempt(service, source, "tampered")
    assert made.outcome is Outcome.REJECTED
    assert made.equivalence
    assert made.equivalence.reason is RejectionReason.NUMERICAL_ERROR
    assert made.equivalence.outputs[0].max_abs_error > 1e-3


def test_a_baked_in_batch_is_named(service: ConversionService, source: LocalArtifact) -> None:
    made = attempt(service, source, "batch-constant")
    assert made.outcome is Outcome.REJECTED
    assert made.equivalence
    assert made.equivalence.reason is RejectionReason.BATCH_BAKED_IN
    assert "2 rows" in made.detail


@pytest.mark.parametrize("way", ["renames-output", "casts-output"])
def test_an_artifact_that_breaks_the_signature_is_not_proven(
    service: ConversionService, source: LocalArtifact, way: str
) -> None:
    made = attempt(service, source, way)
    assert made.outcome is Outcome.FAILED
    assert "scores" in made.detail


@pytest.mark.timeout(60)
def test_plugins_that_convert_in_a_circle_do_not_wait_for_each_other(
    tmp_path: Path, plugins: Converters, source: LocalArtifact
) -> None:
    circle = Converters({"circular": "misbehaving:CIRCULAR"})
    targets = [Target("onnx", "left"), Target("onnx", "right")]
    with ConversionService(Runtimes.discover(), circle, tmp_path / "work", LIMITS, workers=2) as service:
        results = service.convert_all(source, targets, Evidence())
    assert [r.outcome for r in results] == [Outcome.FAILED] * 2
    assert {r.deciding.failure for r in results} == {FailureClass.UNSUPPORTED_OPERATOR}


def test_cancelling_kills_a_running_child_and_raises(
    service: ConversionService, source: LocalArtifact, tmp_path: Path
) -> None:
    def children() -> list[psutil.Process]:
        """Those of this test: other tests of the same process may have left some, a resource tracker say."""
        return _children_about(psutil.Process(), tmp_path / "work")

    def cancel_when_it_runs() -> None:
        gone(lambda: not children(), 30)
        service.cancel()

    thread = threading.Thread(target=cancel_when_it_runs)
    thread.start()
    with pytest.raises(Unavailable):
        service.convert(source, Target("onnx", "hang"), Evidence())
    thread.join()
    assert gone(children)


SCRIPT = """
import sys
from pathlib import Path
from modelyard.convert import ConversionService, Converters, Evidence
from modelyard.domain.artifacts import Target
from modelyard.runtimes import Runtimes
from tests.integration.convert_models import linear_onnx

root = Path(sys.argv[1])
source = linear_onnx(root / "source")
with ConversionService(Runtimes.discover(), Converters({"m": "misbehaving:CONVERTER"}), root / "work") as service:
    service.convert(source, Target("onnx", "hang"), Evidence())
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_the_child_does_not_outlive_its_parent(tmp_path: Path, ending: signal.Signals) -> None:
    """Ctrl-C and kill -9 of the parent both end the child; Ctrl-C also leaves no working files."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{PLUGINS}:{root}"}
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment, stderr=subprocess.DEVNULL)
    try:
        process = psutil.Process(parent.pid)

        def children() -> list[psutil.Process]:
            return _children_about(process, tmp_path / "work")

        assert gone(lambda: not children(), 30)
        known = children()
        parent.send_signal(ending)
        parent.wait(timeout=30)
        assert gone(lambda: [p for p in known if p.is_running() and p.status() != psutil.STATUS_ZOMBIE])
    finally:
        parent.kill()
        parent.wait()
    if ending is signal.SIGINT:
        assert not list((tmp_path / "work" / "conversions").glob("tmp-*"))


def _children_about(process: psutil.Process, work: Path) -> list[psutil.Process]:
    return [p for p in process.children(recursive=True) if any(str(work) in part for part in _cmdline(p))]


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
