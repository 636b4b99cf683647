"""The verdict on hand-made outputs: each rule of modelyard.convert.equivalence, alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.convert import default_tolerance, equivalence
from modelyard.convert.cases import Case, Cases, Kind
from modelyard.convert.equivalence import CaseRun, Subject
from modelyard.domain.artifacts import ONNX, XGBOOST, Equivalence, Outcome, Precision, RejectionReason, Target
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Signature, TensorSpec

RNG = np.random.default_rng(0)
SIGNATURE = Signature((TensorSpec("x", Datatype.FP32, ("batch", 4)),), (TensorSpec("y", Datatype.FP32, ("batch", 3)),))
SIZES = (
    ("example", Kind.EXAMPLE, 2),
    ("batch-1", Kind.BATCH, 1),
    ("batch-7", Kind.BATCH, 7),
    ("large", Kind.EXTREME, 2),
)


def cases(truth: np.ndarray | None = None) -> Cases:
    made = [Case(name, kind, {"x": np.zeros((rows, 4), np.float32)}, rows) for name, kind, rows in SIZES]
    if truth is not None:
        made.append(Case("dataset-0", Kind.DATASET, {"x": np.zeros((len(truth), 4), np.float32)}, len(truth)))
    return Cases(tuple(made), truth)


def outputs(of: Cases, seed: int = 1) -> list[CaseRun]:
    rng = np.random.default_rng(seed)
    return [CaseRun({"y": rng.standard_normal((c.rows, 3)).astype(np.float32)}) for c in of.cases]


def subject(precision: Precision = Precision.FP32, source: str = ONNX, task: str = "classification") -> Subject:
    return Subject(SIGNATURE, task, (), precision, default_tolerance(Target(source), precision), "test")


def changed(runs: list[CaseRun], change, only: tuple[str, ...] = ()) -> list[CaseRun]:  # type: ignore[no-untyped-def]
    names = [name for name, _, _ in SIZES] + ["dataset-0"]
    return [
        CaseRun({"y": change(run.outputs["y"].copy())}) if not only or name in only else run
        for name, run in zip(names, runs, strict=False)
    ]


def verdict(change, precision: Precision = Precision.FP32, only: tuple[str, ...] = (), **rest: str) -> Equivalence:  # type: ignore[no-untyped-def]
    of = cases()
    source = outputs(of)
    return equivalence.compare(subject(precision, **rest), of, source, changed(source, change, only))


def test_identical_outputs_are_proven() -> None:
    found = verdict(lambda y: y)
    assert found.outcome is Outcome.PROVEN
    assert found.cases == ("example", "batch-1", "batch-7", "large")
    assert (found.outputs[0].max_abs_error, found.outputs[0].cosine) == (0.0, pytest.approx(1.0))
    assert found.outputs[0].decision_agreement == 1.0


def test_without_a_task_no_decision_is_claimed() -> None:
    found = verdict(lambda y: y, task="")
    assert found.outcome is Outcome.PROVEN
    assert found.outputs[0].decision_agreement is None
    assert "decisions" not in found.detail


def test_one_wrong_element_is_a_numerical_error() -> None:
    def wrong(y: np.ndarray) -> np.ndarray:
        y[0, 0] += 0.01
        return y

    found = verdict(wrong)
    assert found.reason is RejectionReason.NUMERICAL_ERROR
    assert found.outputs[0].max_abs_error == pytest.approx(0.01, rel=1e-3)


def test_the_absolute_bound_grows_with_the_output() -> None:
    """At outputs of 1e5 an error of 1 beside a zero is float32 rounding, at outputs of 1 it is wrong."""
    of = cases()
    source = [CaseRun({"y": np.array([[0.0, 1e5, -1e5]] * c.rows, np.float32)}) for c in of.cases]
    near = changed(source, lambda y: y + np.float32(1.0))
    assert equivalence.compare(subject(), of, source, near).outcome is Outcome.PROVEN
    small = changed(source, lambda y: y / np.float32(1e5))
    off = changed(small, lambda y: y + np.float32(1.0))
    assert equivalence.compare(subject(), of, small, off).reason is RejectionReason.NUMERICAL_ERROR


def test_tiny_outputs_are_not_excused_by_the_absolute_bound() -> None:
    of = cases()
    source = changed(outputs(of), lambda y: y * np.float32(1e-6))
    found = equivalence.compare(subject(task="regression"), of, source, changed(source, lambda y: -y))
    assert found.reason is RejectionReason.NUMERICAL_ERROR
    assert "cosine" in found.detail


def test_failing_at_other_batch_sizes_only_is_a_baked_in_batch() -> None:
    of = cases()
    source = outputs(of)
    artifact = [run if c.rows == 2 else CaseRun({}, "bad reshape") for c, run in zip(of.cases, source, strict=True)]
    found = equivalence.compare(subject(), of, source, artifact)
    assert found.reason is RejectionReason.BATCH_BAKED_IN
    assert "bad reshape" in found.detail


def test_wrong_values_at_other_batch_sizes_only_are_a_baked_in_batch() -> None:
    assert verdict(lambda y: y + 1, only=("batch-1", "batch-7")).reason is RejectionReason.BATCH_BAKED_IN


def test_wrong_values_at_one_other_batch_size_are_a_numerical_error() -> None:
    assert verdict(lambda y: y + 1, only=("batch-7",)).reason is RejectionReason.NUMERICAL_ERROR


def test_failing_everywhere_is_run_failed() -> None:
    of = cases()
    artifact = [CaseRun({}, "no such operator")] * len(of.cases)
    assert equivalence.compare(subject(), of, outputs(of), artifact).reason is RejectionReason.RUN_FAILED


@pytest.mark.parametrize(
    "change", [lambda y: y[:, :2], lambda y: y.astype(np.float64), lambda y: y[..., None]], ids=["cut", "wide", "deep"]
)
def test_another_shape_or_datatype_is_an_output_mismatch(change) -> None:  # type: ignore[no-untyped-def]
    assert verdict(change).reason is RejectionReason.OUTPUT_MISMATCH


def test_a_missing_output_is_an_output_mismatch() -> None:
    of = cases()
    renamed = [CaseRun({"z": run.outputs["y"]}) for run in outputs(of)]
    found = equivalence.compare(subject(), of, outputs(of), renamed)
    assert found.reason is RejectionReason.OUTPUT_MISMATCH
    assert "'y' is missing" in found.detail


def test_nan_where_the_source_is_finite_is_non_finite() -> None:
    assert verdict(lambda y: y * np.nan).reason is RejectionReason.NON_FINITE


def test_both_non_finite_is_agreement_and_only_one_is_not() -> None:
    of = cases()
    source = changed(outputs(of), lambda y: y * np.float32(np.inf), only=("large",))
    assert equivalence.compare(subject(), of, source, source).outcome is Outcome.PROVEN
    revived = changed(source, np.nan_to_num, only=("large",))
    assert equivalence.compare(subject(), of, source, revived).reason is RejectionReason.NON_FINITE


def test_a_narrow_precision_may_overflow_on_large_but_nowhere_else() -> None:
    overflow = lambda y: y * np.float32(np.inf)  # noqa: E731
    assert verdict(overflow, Precision.FP16, ("large",)).outcome is Outcome.PROVEN
    assert verdict(overflow, Precision.FP16, ("batch-7",)).reason is RejectionReason.NON_FINITE
    assert verdict(overflow, Precision.FP32, ("large",)).reason is RejectionReason.NON_FINITE


def test_saturation_on_an_extreme_rejects_fp32_and_not_int8() -> None:
    clip = lambda y: np.clip(y, -0.1, 0.1)  # noqa: E731
    assert verdict(clip, Precision.INT8, ("large",)).outcome is Outcome.PROVEN
    assert verdict(clip, Precision.FP32, ("large",)).outcome is Outcome.REJECTED


def test_flipped_decisions_reject_int8() -> None:
    assert verdict(lambda y: y[:, ::-1], Precision.INT8).reason is RejectionReason.DECISION_DISAGREEMENT


def test_a_tie_of_the_source_is_no_disagreement() -> None:
    of = cases()
    source = [CaseRun({"y": np.ones((c.rows, 3), np.float32)}) for c in of.cases]
    nudged = changed(source, lambda y: y + np.array([0, 0, 1e-6], np.float32))
    found = equivalence.compare(subject(), of, source, nudged)
    assert found.outputs[0].decision_agreement == 1.0
    assert found.outcome is Outcome.PROVEN


def test_trees_may_miss_in_one_element_of_a_hundred_by_any_amount() -> None:
    truth = np.zeros(200, np.int64)
    of = cases(truth)
    source = outputs(of)

    def flip(rows: int) -> Equivalence:
        def change(y: np.ndarray) -> np.ndarray:
            y[:rows, 1] += 0.3
            return y

        artifact = changed(source, change, only=("dataset-0",))
        return equivalence.compare(subject(source=XGBOOST, task="regression"), of, source, artifact)

    assert flip(3).outcome is Outcome.PROVEN
    assert flip(3).outputs[0].mismatch_fraction > 0
    assert flip(40).reason is RejectionReason.NUMERICAL_ERROR


def test_a_metric_that_falls_is_metric_loss() -> None:
    """Rows that the source only just decides flip: values and cosine stay, accuracy does not."""
    truth = np.zeros(200, np.int64)
    of = cases(truth)
    source = [*outputs(of)[:-1], CaseRun({"y": np.array([[1.0, 0.98, 0.0]] * 200, np.float32)})]

    def flip(y: np.ndarray) -> np.ndarray:
        y[:5, 1] = 1.01
        return y

    judged = subject(Precision.BF16)
    judged = replace(judged, tolerance=replace(judged.tolerance, min_decision_agreement=0.9))
    found = equivalence.compare(judged, of, source, changed(source, flip, only=("dataset-0",)))
    assert found.reason is RejectionReason.METRIC_LOSS
    assert (found.metrics[0].source, found.metrics[0].artifact) == (1.0, 0.975)


def test_labels_are_compared_exactly() -> None:
    signature = replace(SIGNATURE, outputs=(TensorSpec("label", Datatype.BYTES, ("batch",)),))
    of = cases()
    source = [CaseRun({"label": np.array([b"a"] * c.rows, dtype=object)}) for c in of.cases]
    other = [CaseRun({"label": np.array([b"b"] * c.rows, dtype=object)}) for c in of.cases]
    judged = replace(subject(), signature=signature)
    assert equivalence.compare(judged, of, source, source).outcome is Outcome.PROVEN
    found = equivalence.compare(judged, of, source, other)
    assert found.reason is RejectionReason.DECISION_DISAGREEMENT
    assert found.outputs[0].decision_agreement == 0.0


def test_cases_on_which_the_source_fails_are_left_out_and_no_case_is_no_proof() -> None:
    of = cases()
    source = outputs(of)
    source[3] = CaseRun({}, "index out of range")
    assert equivalence.compare(subject(), of, source, outputs(of)).cases == ("example", "batch-1", "batch-7")
    nothing = [CaseRun({}, "broken")] * 4
    assert equivalence.compare(subject(), of, nothing, nothing).outcome is Outcome.REJECTED


@given(st.sampled_from(list(Precision)), st.floats(-3, 3), st.integers(0, 2**31))
def test_proven_implies_the_stated_tolerance(precision: Precision, scale: float, seed: int) -> None:
    """Whatever the noise: a proven artifact keeps every bound of the table it was judged by."""
    of = cases()
    source = outputs(of, seed)
    noise = np.random.default_rng(seed + 1)
    noisy = changed(source, lambda y: (y + 10.0**scale * 1e-3 * noise.standard_normal(y.shape)).astype(np.float32))
    found = equivalence.compare(subject(precision), of, source, noisy)
    if found.outcome is Outcome.PROVEN:
        output, tolerance = found.outputs[0], found.tolerance
        assert output.cosine >= tolerance.min_cosine
        assert output.mismatch_fraction <= tolerance.mismatch_fraction
        assert output.decision_agreement is not None
        assert output.decision_agreement >= tolerance.min_decision_agreement
    else:
        assert found.reason is not None
        assert found.detail


def test_rows_of_different_sizes_have_no_task_metric_and_a_claimed_one_is_told() -> None:
    """Outputs as long as their rows cannot be joined; a metric that nobody asked for is then left out."""
    sizes = (2, 3)
    made = Cases(tuple(Case(f"dataset-{n}", Kind.DATASET, {}, 4) for n in sizes), truth=np.zeros(8, np.int64))
    runs = [CaseRun({"scores": np.ones((4, n), np.float32)}) for n in sizes]
    signature = Signature((), (TensorSpec("scores", Datatype.FP32, ("batch", "length")),))
    assert equivalence.measure_dataset((), "classification", signature, made, runs) == {}
    with pytest.raises(InvalidInput, match="accuracy") as caught:
        equivalence.measure_dataset(("accuracy",), "classification", signature, made, runs)
    assert "differ in size" in caught.value.why
