"""The in-process batch-latency curve: a child measures every point, and a failure is a value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modelyard.domain.artifacts import ONNX, XGBOOST, LocalArtifact, Precision, Target
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.profile.curve import measure_curve

ROWS = {"features": np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)}


@pytest.fixture
def artifact(tmp_path: Path) -> LocalArtifact:
    import xgboost

    data = xgboost.DMatrix(ROWS["features"], np.arange(5) % 2)
    xgboost.train({"objective": "reg:squarederror", "max_depth": 2}, data, 2).save_model(tmp_path / "m.ubj")
    signature = Signature(
        (TensorSpec("features", Datatype.FP32, ("batch", 3)),), (TensorSpec("value", Datatype.FP32, ("batch", 1)),)
    )
    return LocalArtifact(str(tmp_path), "m.ubj", Target(XGBOOST), Precision.FP32, signature)


def test_every_point_is_measured_with_batches_made_of_the_given_rows(artifact: LocalArtifact) -> None:
    curve = measure_curve(artifact, "xgboost", ROWS, threads=(1, 2), batches=(1, 8), point_budget_s=0.01)
    assert curve.error == ""
    assert [(p.threads, p.batch) for p in curve.points] == [(1, 1), (1, 8), (2, 1), (2, 8)]
    assert all(p.wall_s > 0 and p.runs >= 1 for p in curve.points)


def test_a_model_that_does_not_load_is_a_curve_with_the_reason(artifact: LocalArtifact) -> None:
    broken = replace(artifact, entry="gone.ubj")
    curve = measure_curve(broken, "xgboost", ROWS, threads=(1,), batches=(1,), point_budget_s=0.01)
    assert curve.points == ()
    assert "gone.ubj" in curve.error


def test_a_child_that_takes_too_long_is_ended(artifact: LocalArtifact) -> None:
    curve = measure_curve(artifact, "xgboost", ROWS, timeout_s=0.01)
    assert curve.points == ()
    assert "no answer within" in curve.error


def test_a_model_without_a_batch_dimension_is_run_on_its_inputs_as_they_are(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", sides[:1], sides[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    x, y = (TensorSpec(name, Datatype.FP32, (4, 3)) for name in ("x", "y"))
    artifact = LocalArtifact(str(tmp_path), "m.onnx", Target(ONNX), Precision.FP32, Signature((x,), (y,)))
    payload = {"x": np.ones((4, 3), dtype=np.float32)}
    curve = measure_curve(artifact, "onnxruntime", payload, batches=(1,), point_budget_s=0.01)
    assert curve.error == ""
    assert [(p.threads, p.batch) for p in curve.points] == [(1, 1)]
