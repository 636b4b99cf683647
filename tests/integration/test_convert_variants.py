"""Variants of ONNX and OpenVINO models: precisions judged by their own rules, int8 that loses too much refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modelyard.convert import ConversionResult, ConversionService, Converters, Evidence, cpu_flags
from modelyard.convert.planning import BF16_FLAGS
from modelyard.domain.artifacts import (
    FailureClass,
    LocalArtifact,
    Outcome,
    Precision,
    RejectionReason,
    Target,
    Tolerance,
)
from modelyard.domain.errors import InvalidInput
from modelyard.runtimes import RuntimeOptions, Runtimes
from tests.integration.convert_models import dataset, linear_onnx

HAS_BF16 = bool(cpu_flags().intersection(BF16_FLAGS))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ConversionService]:
    with ConversionService(Runtimes.discover(), Converters.discover(), tmp_path / "work") as made:
        yield made


def labelled(path: Path, x: np.ndarray, weights: np.ndarray, **rest: object) -> Evidence:
    return dataset(path, {"x": x}, (x @ weights).argmax(axis=1), task="classification", **rest)


@pytest.fixture
def plain(tmp_path: Path) -> tuple[LocalArtifact, Evidence]:
    weights = np.random.default_rng(5).standard_normal((8, 3)).astype(np.float32)
    x = np.random.default_rng(6).standard_normal((400, 8)).astype(np.float32)
    ranked = np.sort(x @ weights, axis=1)
    x = x[ranked[:, -1] - ranked[:, -2] > 0.5]  # as a trained classifier: few rows lie on the boundary
    return linear_onnx(tmp_path / "source", weights), labelled(tmp_path / "d.npz", x, weights)


@pytest.fixture
def outlier(tmp_path: Path) -> tuple[LocalArtifact, Evidence]:
    """One feature of range 1e5 with no weight: the int8 range goes to it, and the others all round to zero."""
    weights = np.random.default_rng(5).standard_normal((8, 3)).astype(np.float32)
    weights[0] = 0.0
    x = np.random.default_rng(6).standard_normal((200, 8)).astype(np.float32)
    x[:, 0] *= 1e5
    return linear_onnx(tmp_path / "source", weights), labelled(tmp_path / "d.npz", x, weights)


@pytest.mark.parametrize("variant", ["optimized", "fp16", "int8-dynamic", "int8-static"])
def test_onnx_variants_are_proven_and_keep_the_signature(
    service: ConversionService, plain: tuple[LocalArtifact, Evidence], variant: str
) -> None:
    source, evidence = plain
    result = service.convert(source, Target("onnx", variant), evidence)
    assert result.outcome is Outcome.PROVEN, result.deciding
    made = result.artifact
    assert made
    assert made.precision is Target("onnx", variant).precision
    assert made.signature == source.signature
    predictor = Runtimes.discover().get("onnxruntime").load(made, RuntimeOptions())
    assert predictor.predict({"x": np.ones((5, 8), np.float32)})["scores"].dtype == np.float32


def test_openvino_is_fp32_and_bf16_is_a_variant_of_its_own(
    service: ConversionService, plain: tuple[LocalArtifact, Evidence]
) -> None:
    source, evidence = plain
    fp32, bf16 = service.convert_all(source, [Target("openvino"), Target("openvino", "bf16")], evidence)
    assert fp32.outcome is Outcome.PROVEN, fp32.deciding
    assert fp32.equivalence
    assert fp32.equivalence.outputs[0].max_rel_error < 1e-3
    if not HAS_BF16:
        assert bf16.deciding.failure is FailureClass.UNSUPPORTED_DEVICE
        return
    assert bf16.outcome is Outcome.PROVEN, bf16.deciding
    assert bf16.artifact
    assert bf16.artifact.precision is Precision.BF16
    assert [str(a.target) for a in bf16.attempts] == ["openvino", "openvino:bf16"], "the intermediate is listed"
    assert bf16.equivalence
    assert bf16.equivalence.tolerance.max_rel > fp32.equivalence.tolerance.max_rel


def test_bf16_without_hardware_is_a_named_failure(
    service: ConversionService, plain: tuple[LocalArtifact, Evidence], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelyard.convert.walk.cpu_flags", lambda: frozenset({"avx2"}))
    result = service.convert(plain[0], Target("openvino", "bf16"), plain[1])
    assert result.deciding.failure is FailureClass.UNSUPPORTED_DEVICE
    assert "emulated" in result.deciding.detail


def test_int8_that_flips_decisions_is_rejected(
    service: ConversionService, outlier: tuple[LocalArtifact, Evidence]
) -> None:
    result = service.convert(outlier[0], Target("onnx", "int8-static"), outlier[1])
    assert result.outcome is Outcome.REJECTED
    assert result.artifact is None
    assert result.equivalence
    assert result.equivalence.reason is RejectionReason.DECISION_DISAGREEMENT
    assert "calibrate" in result.deciding.hint
    accuracy = result.equivalence.metrics[0]
    assert (accuracy.metric, accuracy.source) == ("accuracy", 1.0)
    assert accuracy.artifact < 0.9


def test_int8_that_loses_accuracy_is_rejected_on_the_metric(
    service: ConversionService, outlier: tuple[LocalArtifact, Evidence], tmp_path: Path
) -> None:
    """With every other criterion waived, the task metric alone refuses it."""
    source, _ = outlier
    arrays = np.load(tmp_path / "d.npz")
    only_metric = Tolerance(0.0, 0.0, 1.0, -1.0, 0.0, 0.01)
    evidence = dataset(
        tmp_path / "e.npz", {"x": arrays["x"]}, arrays["y"], task="classification", tolerance=only_metric
    )
    result = service.convert(source, Target("onnx", "int8-static"), evidence)
    assert result.equivalence
    assert result.equivalence.reason is RejectionReason.METRIC_LOSS


def test_static_int8_without_data_is_a_named_failure(
    service: ConversionService, plain: tuple[LocalArtifact, Evidence]
) -> None:
    result = service.convert(plain[0], Target("onnx", "int8-static"), Evidence())
    assert result.outcome is Outcome.FAILED
    assert result.deciding.failure is FailureClass.NO_CALIBRATION_DATA
    assert "dataset" in result.deciding.hint


def test_static_int8_is_calibrated_on_samples_where_there_is_no_dataset(
    service: ConversionService, plain: tuple[LocalArtifact, Evidence], tmp_path: Path
) -> None:
    np.savez(tmp_path / "samples.npz", x=np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32))
    result = service.convert(plain[0], Target("onnx", "int8-static"), Evidence(samples=tmp_path / "samples.npz"))
    assert result.outcome is Outcome.PROVEN, result.deciding


def test_a_finished_conversion_is_reused_by_a_later_service_unless_its_files_changed(
    outlier: tuple[LocalArtifact, Evidence], tmp_path: Path
) -> None:
    """Proven and rejected alike."""
    seen: list[tuple[str, Outcome, bool]] = []

    def convert() -> list[ConversionResult]:
        with ConversionService(Runtimes.discover(), Converters.discover(), tmp_path / "work") as service:
            targets = [Target("onnx", "optimized"), Target("onnx", "int8-static")]
            results = service.convert_all(outlier[0], targets, outlier[1])
        seen.extend((a.route, a.outcome, a.reused) for r in results for a in r.attempts)
        return results

    made = convert()[0].artifact
    convert()
    assert seen == [
        ("onnxslim", Outcome.PROVEN, False),
        ("onnx-int8-qdq", Outcome.REJECTED, False),
        ("onnxslim", Outcome.PROVEN, True),
        ("onnx-int8-qdq", Outcome.REJECTED, True),
    ]
    assert made
    weights = Path(made.directory, made.entry)
    weights.write_bytes(weights.read_bytes()[:-1])
    convert()
    assert seen[4:] == [("onnxslim", Outcome.PROVEN, False), ("onnx-int8-qdq", Outcome.REJECTED, True)]


def test_an_unreachable_target_says_what_is_reachable(
    service: ConversionService, plain: tuple[LocalArtifact, Evidence]
) -> None:
    result = service.convert(plain[0], Target("torchscript"), plain[1])
    assert result.deciding.failure is FailureClass.NO_ROUTE
    assert "openvino" in result.deciding.hint


def test_what_is_built_on_an_unproven_intermediate_is_not_made(
    service: ConversionService, outlier: tuple[LocalArtifact, Evidence]
) -> None:
    result = service.convert(outlier[0], Target("openvino", "int8-static"), outlier[1])
    assert result.outcome is Outcome.FAILED
    assert [(str(a.target), a.outcome) for a in result.attempts] == [
        ("onnx:int8-static", Outcome.REJECTED),
        ("openvino:int8-static", Outcome.FAILED),
    ]
    assert result.deciding.failure is FailureClass.NO_ROUTE


def test_external_weights_outside_the_model_are_refused(
    service: ConversionService, plain: tuple[LocalArtifact, Evidence], tmp_path: Path
) -> None:
    """CVE-2022-25882 and its successors: a model that names another file of the machine as its weights."""
    import onnx

    source, evidence = plain
    path = Path(source.directory, source.entry)
    (tmp_path / "secret").write_bytes(bytes(96))
    model = onnx.load(path)
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../secret")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidInput, match="secret"):
        service.verify_source(source, evidence)
