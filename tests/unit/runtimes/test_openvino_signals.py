"""OpenVINO sets an alternate signal stack and frees it: afterwards no signal may land on freed memory."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from pathlib import Path

import pytest

from modelyard.runtimes import RuntimeOptions
from modelyard.runtimes.openvino import OpenvinoRuntime, _SignalStack, import_openvino
from tests.contract.runtime_cases import openvino, rows

ROOT = Path(__file__).parents[3]


def signal_stack() -> tuple[int | None, int, int]:
    """This thread's alternate signal stack."""
    stack = _SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.sp, stack.flags, stack.size


@pytest.mark.parametrize("target", ["openvino", "openvino:bf16"])
def test_the_signal_stack_of_the_thread_is_as_before(tmp_path: Path, target: str) -> None:
    _skip_without_bf16(target)
    before = signal_stack()
    built = openvino(tmp_path, target)
    predictor = OpenvinoRuntime().load(built.artifact, RuntimeOptions())
    assert signal_stack() == before
    predictor.predict(rows(built.artifact.signature, 3))
    assert signal_stack() == before
    predictor.close()
    del predictor
    gc.collect()
    assert signal_stack() == before


SCRIPT = """
import gc, os, signal, sys
from pathlib import Path
from modelyard.runtimes import RuntimeOptions
from modelyard.runtimes.openvino import OpenvinoRuntime
from tests.contract.runtime_cases import openvino, rows

heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
built = openvino(Path(sys.argv[1]), sys.argv[2])
predictor = OpenvinoRuntime().load(built.artifact, RuntimeOptions())
predictor.predict(rows(built.artifact.signature, 3))
predictor.close()
del predictor
gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
print("heard", len(heard))
"""


@pytest.mark.parametrize("target", ["openvino", "openvino:bf16"])
def test_a_signal_after_the_last_model_is_heard_and_ends_nothing(tmp_path: Path, target: str) -> None:
    _skip_without_bf16(target)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "heard 1"), done.stderr


def _skip_without_bf16(target: str) -> None:
    if "bf16" in target and "BF16" not in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU does not compute in bf16")
