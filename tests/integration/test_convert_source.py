"""Checking a source against its manifest: contradictions, claims, trust."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modelyard.convert import ConversionService, Converters, Evidence, Limits
from modelyard.domain.artifacts import SKLEARN, LocalArtifact
from modelyard.domain.errors import BackendFailed, InvalidInput, Rejected
from modelyard.domain.tensors import Datatype, Signature
from modelyard.runtimes import Runtimes
from tests.integration.convert_models import LINEAR, artifact, dataset, eager, linear_onnx, spec

SQUARE = """
class Net(nn.Module):
    def forward(self, x):
        print("factory ran")
        return x * x

def build():
    net = Net()
    net.scale = nn.Parameter(torch.ones(1))
    return net
"""


THREE = Signature((spec("x", Datatype.FP32, 3),), (spec("y", Datatype.FP32, 3),))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ConversionService]:
    with ConversionService(Runtimes.discover(), Converters.discover(), tmp_path / "work") as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> LocalArtifact:
    return linear_onnx(tmp_path / "source")


def test_a_fitting_source_reports_its_cases_and_runtime(service: ConversionService, source: LocalArtifact) -> None:
    check = service.verify_source(source, Evidence())
    assert check.runtime == "onnxruntime"
    assert {"example", "batch-1", "batch-7", "zeros", "large"} <= set(check.cases)
    assert not check.claims


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((spec("scores", Datatype.FP32, 4),), r"declared FP32\[batch, 4\], the model gives FP32\[2, 3\]"),
        ((spec("scores", Datatype.FP64, 3),), "FP64"),
        ((spec("logits", Datatype.FP32, 3),), "logits"),
    ],
)
def test_a_wrong_output_says_declared_and_got(
    service: ConversionService, source: LocalArtifact, outputs: tuple[object, ...], message: str
) -> None:
    wrong = replace(source, signature=replace(LINEAR, outputs=outputs))
    with pytest.raises(InvalidInput, match=message) as caught:
        service.verify_source(wrong, Evidence())
    assert caught.value.hint


def test_a_wrong_input_shape_says_what_the_model_said(service: ConversionService, source: LocalArtifact) -> None:
    wrong = replace(source, signature=replace(LINEAR, inputs=(spec("x", Datatype.FP32, 9),)))
    with pytest.raises(InvalidInput, match=r"example.*x \[2, 9\]"):
        service.verify_source(wrong, Evidence())


def test_claims_are_measured_and_the_unmet_are_values(
    service: ConversionService, source: LocalArtifact, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    labels = np.zeros(100, dtype=np.int64)
    evidence = dataset(tmp_path / "d.npz", {"x": x}, labels, task="classification")
    check = service.verify_source(source, evidence, {"accuracy": 0.99})
    (claim,) = check.unmet
    assert (claim.metric, claim.claimed, claim.rows) == ("accuracy", 0.99, 100)
    assert claim.measured < 0.9
    assert not service.verify_source(source, evidence, {"accuracy": claim.measured}).unmet


def test_an_unknown_metric_names_the_known_ones(service: ConversionService, source: LocalArtifact) -> None:
    with pytest.raises(InvalidInput) as caught:
        service.verify_source(source, Evidence(), {"acuracy": 0.9})
    assert "accuracy" in caught.value.hint


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 9), np.float32)}, r"shape \[2, 9\]"),
        ({"x": np.array([["a"] * 8] * 4)}, "FP32|object"),
        ({"z": np.zeros((4, 8), np.float32)}, "no array 'x'"),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused_before_any_child_runs(
    service: ConversionService, source: LocalArtifact, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(InvalidInput) as caught:
        service.verify_source(source, Evidence(dataset=tmp_path / "d.npz"))
    import re

    assert re.search(message, f"{caught.value} {caught.value.hint}")


def test_a_damaged_model_file_is_invalid_input(service: ConversionService, source: LocalArtifact) -> None:
    Path(source.directory, source.entry).write_bytes(b"this is no model")
    with pytest.raises(InvalidInput):
        service.verify_source(source, Evidence())


def test_a_missing_model_file_is_invalid_input(service: ConversionService, source: LocalArtifact) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        service.verify_source(replace(source, entry="other.onnx"), Evidence())


class _Bomb:
    """Touches a canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.canary,))


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib"])
def test_a_pickle_is_refused_and_never_opened_without_trust(
    service: ConversionService, tmp_path: Path, name: str
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / name).write_bytes(pickle.dumps(_Bomb(tmp_path / "source" / "canary")))
    source = artifact(tmp_path / "source", name, SKLEARN, LINEAR)
    with pytest.raises(Rejected) as caught:
        service.verify_source(source, Evidence())
    assert "--trust" in caught.value.hint
    assert "trust: true" in caught.value.hint
    assert not (tmp_path / "source" / "canary").exists()


def test_a_trusted_pickle_runs_only_in_the_sandbox(service: ConversionService, tmp_path: Path) -> None:
    """It may run, but what it does stays in the child: the canary lies where the child cannot write."""
    canary = tmp_path / "canary"
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "model.pkl").write_bytes(pickle.dumps(_Bomb(canary)))
    source = artifact(tmp_path / "source", "model.pkl", SKLEARN, LINEAR, trusted=True)
    with pytest.raises(Exception, match=r"model\.pkl|PermissionError|estimator|NoneType"):
        service.verify_source(source, Evidence())
    from modelyard.convert.isolation import landlock_abi

    assert not canary.exists() or landlock_abi() < 1


def test_a_state_dict_that_runs_code_is_rejected(service: ConversionService, tmp_path: Path) -> None:
    import torch

    made = eager(tmp_path / "source", SQUARE, THREE)
    torch.save({"scale": _Bomb(tmp_path / "canary")}, tmp_path / "source" / "weights.pt")
    with pytest.raises(Rejected) as caught:
        service.verify_source(replace(made, entry="weights.pt"), Evidence())
    assert "safetensors" in caught.value.hint


def test_a_source_that_ends_its_process_shows_its_last_words(service: ConversionService, tmp_path: Path) -> None:
    code = "import os, sys\n\ndef build():\n    print('no licence file found', flush=True)\n    os._exit(3)\n"
    made = eager(tmp_path / "source", SQUARE, THREE)
    (tmp_path / "source" / "net.py").write_text(code)
    with pytest.raises(BackendFailed) as caught:
        service.verify_source(made, Evidence())
    assert "no licence file found" in caught.value.why
    assert "conversion's log" not in caught.value.hint


def test_a_hanging_source_is_stopped_at_the_setting_that_the_hint_names(tmp_path: Path) -> None:
    made = eager(tmp_path / "source", SQUARE, THREE)
    (tmp_path / "source" / "net.py").write_text("import time\n\ndef build():\n    time.sleep(600)\n")
    limits = Limits(convert_s=3.0)
    with (
        ConversionService(Runtimes.discover(), Converters.discover(), tmp_path / "work", limits) as service,
        pytest.raises(BackendFailed, match="after 3 s") as caught,
    ):
        service.verify_source(made, Evidence())
    assert "MODELYARD_CONVERT_TIMEOUT_S" in caught.value.hint


def test_an_eager_factory_runs_only_in_the_child(
    service: ConversionService, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = eager(tmp_path / "source", SQUARE, THREE)
    assert service.verify_source(source, Evidence()).runtime == "torch"
    assert "factory ran" not in capfd.readouterr().out
    with pytest.raises(Rejected):
        service.verify_source(replace(source, trusted=False), Evidence())
