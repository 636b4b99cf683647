"""Runtimes: discovery, look-up, plug-ins; nothing is imported that is not used."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.errors import Conflict, Unsupported
from modelyard.domain.tensors import Signature
from modelyard.runtimes import Availability, Predictor, RuntimeOptions, Runtimes
from modelyard.runtimes.loading import installed, require
from modelyard.runtimes.registry import ENTRY_POINTS

ARTIFACT = LocalArtifact("/nowhere", "m.own", Target("own"), Precision.FP32, Signature((), ()))


class OwnRuntime:
    """What a plug-in package would bring."""

    name = "own"
    formats = frozenset({"own", "onnx"})

    def availability(self) -> Availability:
        return Availability(True, version="1")

    def load(self, artifact: LocalArtifact, options: RuntimeOptions) -> Predictor:
        raise Unsupported("not in this test")


class Impostor(OwnRuntime):
    name = "onnxruntime"


def discover_with(monkeypatch: pytest.MonkeyPatch, value: str) -> Runtimes:
    entry = importlib.metadata.EntryPoint("own", value, ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry] if group == ENTRY_POINTS else [])
    return Runtimes.discover()


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(Unsupported, match="no runtime 'tensorrt'") as caught:
        Runtimes.discover().get("tensorrt")
    assert "onnxruntime" in caught.value.hint
    assert "lightgbm" in caught.value.hint


def test_the_default_for_onnx_is_onnxruntime() -> None:
    assert [runtime.name for runtime in Runtimes.discover().for_format("onnx")] == ["onnxruntime", "openvino"]
    assert Runtimes.discover().for_format("tflite") == []


def test_a_plug_in_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    runtimes = discover_with(monkeypatch, f"{__name__}:OwnRuntime")
    assert runtimes.get("own").availability().available
    assert [runtime.name for runtime in runtimes.for_format("onnx")] == ["onnxruntime", "openvino", "own"]


def test_a_broken_plug_in_is_shown_and_the_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    runtimes = discover_with(monkeypatch, "no_such_package:Runtime")
    availability = runtimes.get("own").availability()
    assert not availability.available
    assert "no_such_package" in availability.reason
    with pytest.raises(Unsupported, match="no_such_package"):
        runtimes.get("own").load(ARTIFACT, RuntimeOptions())
    assert runtimes.get("onnxruntime").availability().available


def test_two_runtimes_of_one_name_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Conflict, match="named 'onnxruntime'"):
        discover_with(monkeypatch, f"{__name__}:Impostor")


def test_a_missing_framework_says_what_to_install() -> None:
    availability = installed("no_such_framework", ("no-such-framework",), "onnx")
    assert not availability.available
    with pytest.raises(Unsupported, match="'no_such_framework' is not installed") as caught:
        require("onnxruntime", availability)
    assert caught.value.hint == "pip install 'modelyard[onnx]'"


def test_discovery_and_availability_import_no_framework() -> None:
    program = (
        "import sys; from modelyard.runtimes import Runtimes; "
        "assert all(r.availability().available for r in Runtimes.discover()); "
        "heavy = {'torch', 'onnxruntime', 'openvino', 'sklearn', 'skops', 'xgboost', 'lightgbm', 'onnx'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_openvino_comes_without_its_telemetry() -> None:
    program = (
        "import sys; from modelyard.runtimes.openvino import import_openvino; import_openvino(); "
        "print(sys.modules['openvino_telemetry'], 'openvino_telemetry.main' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "False"]
