"""Targets from a manifest's `convert`, the graph, the classifier of failures, and the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelyard.convert import Attempt, ConversionResult, Converters, plan_targets
from modelyard.convert.attempts import AttemptCache, check_files
from modelyard.convert.failures import HINTS, of_problem
from modelyard.convert.tasks import Problem
from modelyard.convert.tolerances import DEFAULTS, default_tolerance
from modelyard.domain.artifacts import FailureClass, LocalArtifact, Outcome, Precision, Target
from modelyard.domain.errors import BackendFailed, InvalidInput, Unsupported
from modelyard.domain.tensors import Datatype, Signature, TensorSpec


def names(targets: list[Target]) -> list[str]:
    return [str(t) for t in targets]


@pytest.mark.parametrize(
    ("source", "data", "flags", "expected"),
    [
        (
            "pytorch-exported",
            True,
            {"amx_bf16"},
            ["onnx", "onnx:int8-static", "openvino", "openvino:bf16", "torchscript"],
        ),
        ("pytorch-eager", False, set(), ["onnx", "openvino", "torchscript"]),
        ("onnx", True, set(), ["onnx:int8-static", "openvino"]),
        ("xgboost", True, {"amx_bf16"}, ["onnx"]),
        ("sklearn", False, set(), ["onnx"]),
    ],
)
def test_auto_depends_on_source_data_and_cpu(source: str, data: bool, flags: set[str], expected: list[str]) -> None:
    assert names(plan_targets(source, "", ("auto",), has_data=data, flags=flags)) == expected


def test_precisions_and_formats_are_targets_without_duplicates() -> None:
    assert names(plan_targets("onnx", "", ("bf16", "openvino:bf16", "fp16", "openvino"), flags=())) == [
        "openvino:bf16",
        "onnx:fp16",
        "openvino",
    ]


def test_the_format_the_source_already_has_is_no_target() -> None:
    assert names(plan_targets("onnx", "", ("onnx", "openvino"))) == ["openvino"]


def test_a_target_out_of_reach_names_the_nearest() -> None:
    with pytest.raises(InvalidInput) as caught:
        plan_targets("onnx", "", ("onnx:int8-statik",))
    assert "onnx:int8-static" in caught.value.hint
    with pytest.raises(InvalidInput, match="torchscript"):
        plan_targets("xgboost", "", ("torchscript",))


def test_all_targets_out_of_reach_are_told_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        plan_targets("pytorch-exported", "", ("onx", "openvino", "foo:bar", "onnx:"))
    assert "'onx', 'foo:bar', 'onnx:' cannot be made" in str(caught.value)
    assert "for 'onx', did you mean onnx?" in caught.value.hint
    assert "targets: " in caught.value.hint


def test_every_edge_has_a_route_of_its_own_and_installable_needs() -> None:
    edges = [known.edge for known in Converters.discover().edges]
    assert len({e.route for e in edges}) == len(edges)
    assert all(e.requires and e.extra for e in edges)


def test_a_converter_that_cannot_be_imported_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="nowhere"):
        Converters({"x": "nowhere.at_all:CONVERTER"})


@pytest.mark.parametrize(
    ("kind", "what", "expected"),
    [
        ("GuardOnDataDependentSymNode", "Could not guard on data-dependent expression", "data-dependent-control-flow"),
        ("UserError", "Dynamic control flow is not supported at the moment", "data-dependent-control-flow"),
        ("UserError", "Constraints violated (batch)! was inferred to be a constant (2)", "dynamic-shape-lost"),
        ("UnsupportedOperatorError", "ONNX export failed on an operator aten::foo", "unsupported-operator"),
        ("MissingShapeCalculator", "Unable to find a shape calculator for type", "unsupported-operator"),
        ("ModuleNotFoundError", "No module named 'onnxscript'", "missing-dependency"),
        ("MemoryError", "", "out-of-memory"),
        ("InvalidProtobuf", "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF", "invalid-model"),
        ("KeyError", "'weight'", "converter-error"),
    ],
)
def test_exceptions_are_classified_with_a_hint(kind: str, what: str, expected: str) -> None:
    failure = of_problem(Problem(kind, what))
    assert failure.failure == expected
    assert failure.hint


def test_the_exception_itself_outweighs_names_in_its_traceback() -> None:
    noisy = Problem("UserError", "data-dependent branch", traceback="in check_not_implemented\nUserError")
    assert of_problem(noisy).failure is FailureClass.DATA_DEPENDENT_CONTROL_FLOW


def test_every_failure_class_has_a_hint_and_every_precision_a_tolerance() -> None:
    assert set(HINTS) == set(FailureClass)
    assert set(DEFAULTS) == set(Precision)
    strict, trees = (default_tolerance(Target(f), Precision.FP32) for f in ("onnx", "lightgbm"))
    assert strict.mismatch_fraction == 0.0 < trees.mismatch_fraction


SIGNATURE = Signature((TensorSpec("x", Datatype.FP32, ("batch",)),), (TensorSpec("y", Datatype.FP32, ("batch",)),))


def attempt(workspace: Path, outcome: Outcome, failure: FailureClass | None = None) -> Attempt:
    files = workspace / "files"
    files.mkdir()
    (files / "model.onnx").write_bytes(b"model")
    made = LocalArtifact(str(files), "model.onnx", Target("onnx"), Precision.FP32, SIGNATURE)
    return Attempt(
        *("k" * 8, Target("pytorch-eager"), Target("onnx"), "route", outcome, "detail", 1.0, 1, {}),
        failure=failure,
        artifact=None if failure else made,
    )


def test_the_cache_returns_what_was_kept_with_its_files(tmp_path: Path) -> None:
    cache = AttemptCache(tmp_path)
    workspace = cache.workspace()
    (workspace / "cases.npz").write_bytes(b"large")
    kept = cache.keep(attempt(workspace, Outcome.PROVEN), workspace)
    found = AttemptCache(tmp_path).find("k" * 8)
    assert found
    assert found.reused
    assert found.artifact == kept.artifact
    assert found.artifact
    assert sorted(p.name for p in Path(found.artifact.directory).parent.iterdir()) == ["attempt.json", "files"]


def test_a_changed_file_is_no_hit(tmp_path: Path) -> None:
    cache = AttemptCache(tmp_path)
    workspace = cache.workspace()
    kept = cache.keep(attempt(workspace, Outcome.PROVEN), workspace)
    assert kept.artifact
    Path(kept.artifact.directory, "model.onnx").write_bytes(b"m0del")
    assert cache.find("k" * 8) is None


@pytest.mark.parametrize(
    ("failure", "kept"), [(FailureClass.UNSUPPORTED_OPERATOR, True), (FailureClass.TIMED_OUT, False)]
)
def test_only_failures_that_would_repeat_are_kept(tmp_path: Path, failure: FailureClass, kept: bool) -> None:
    cache = AttemptCache(tmp_path)
    workspace = cache.workspace()
    cache.keep(attempt(workspace, Outcome.FAILED, failure), workspace)
    assert (cache.find("k" * 8) is not None) is kept


def test_workspaces_of_dead_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / "tmp-999999999-abc").mkdir()
    cache = AttemptCache(tmp_path)
    mine = cache.workspace()
    AttemptCache(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [mine.name]


def test_products_must_be_plain_files_inside(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "outside").write_text("secret")
    with pytest.raises(BackendFailed):
        check_files(tmp_path / "files", "../outside")
    (tmp_path / "files" / "hard").hardlink_to(tmp_path / "outside")
    with pytest.raises(BackendFailed, match="hard"):
        check_files(tmp_path / "files", "hard")


def test_the_result_says_what_decided(tmp_path: Path) -> None:
    failed = attempt(tmp_path, Outcome.FAILED, FailureClass.CRASHED)
    result = ConversionResult(Target("onnx"), (failed,))
    assert (result.outcome, result.winner, result.deciding) == (Outcome.FAILED, None, failed)
