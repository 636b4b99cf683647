"""Task metrics against scikit-learn's, and what is read from which output."""

from __future__ import annotations

import numpy as np
import pytest

from modelyard.convert import metrics
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Signature, TensorSpec

RNG = np.random.default_rng(0)


def signature(*outputs: TensorSpec) -> Signature:
    return Signature((TensorSpec("x", Datatype.FP32, ("batch", 2)),), outputs)


def scores(columns: int) -> Signature:
    return signature(TensorSpec("y", Datatype.FP32, ("batch", columns)))


def test_classification_metrics_match_sklearn() -> None:
    from sklearn import metrics as reference

    truth = RNG.integers(0, 3, 200)
    given = RNG.standard_normal((200, 3)).astype(np.float32)
    predicted = given.argmax(axis=1)
    outputs, sig = {"y": given}, scores(3)
    assert metrics.measure("accuracy", truth, outputs, sig) == pytest.approx(reference.accuracy_score(truth, predicted))
    assert metrics.measure("f1", truth, outputs, sig) == pytest.approx(
        reference.f1_score(truth, predicted, average="macro")
    )
    assert metrics.measure("precision", truth, outputs, sig) == pytest.approx(
        reference.precision_score(truth, predicted, average="macro")
    )
    assert metrics.measure("recall", truth, outputs, sig) == pytest.approx(
        reference.recall_score(truth, predicted, average="macro")
    )


def test_auc_matches_sklearn_with_ties() -> None:
    from sklearn.metrics import roc_auc_score

    truth = RNG.integers(0, 2, 300)
    score = np.round(RNG.random(300), 1).astype(np.float32)
    sig = scores(1)
    assert metrics.measure("auc", truth, {"y": score[:, None]}, sig) == pytest.approx(roc_auc_score(truth, score))
    both = np.stack([1 - score, score], axis=1)
    assert metrics.measure("auc", truth, {"y": both}, scores(2)) == pytest.approx(roc_auc_score(truth, score))


def test_top_5_accuracy_matches_sklearn() -> None:
    from sklearn.metrics import top_k_accuracy_score

    truth = RNG.integers(0, 10, 100)
    given = RNG.standard_normal((100, 10)).astype(np.float32)
    found = metrics.measure("top_5_accuracy", truth, {"y": given}, scores(10))
    assert found == pytest.approx(top_k_accuracy_score(truth, given, k=5, labels=range(10)))


@pytest.mark.parametrize("shape", [(100,), (100, 1)])
def test_regression_metrics_match_sklearn(shape: tuple[int, ...]) -> None:
    from sklearn import metrics as reference

    truth = RNG.standard_normal(shape)
    given = (truth + 0.1 * RNG.standard_normal(shape)).astype(np.float32).reshape(100, 1)
    outputs, sig = {"y": given}, scores(1)
    flat = truth.reshape(-1)
    assert metrics.measure("mse", truth, outputs, sig) == pytest.approx(reference.mean_squared_error(flat, given))
    assert metrics.measure("rmse", truth, outputs, sig) == pytest.approx(reference.root_mean_squared_error(flat, given))
    assert metrics.measure("mae", truth, outputs, sig) == pytest.approx(reference.mean_absolute_error(flat, given))
    assert metrics.measure("r2", truth, outputs, sig) == pytest.approx(reference.r2_score(flat, given))


def test_a_label_output_is_preferred_to_the_arg_max_and_strings_compare_as_text() -> None:
    sig = signature(
        TensorSpec("label", Datatype.BYTES, ("batch",)), TensorSpec("probabilities", Datatype.FP32, ("batch", 2))
    )
    outputs = {"label": np.array([b"no", b"yes"], dtype=object), "probabilities": np.array([[0.1, 0.9], [0.9, 0.1]])}
    assert metrics.measure("accuracy", np.array(["no", "yes"]), outputs, sig) == 1.0


def test_one_column_is_cut_at_one_half_for_probabilities_and_at_zero_for_logits() -> None:
    assert metrics.decisions(np.array([0.4, 0.6])).tolist() == [0, 1]
    assert metrics.decisions(np.array([-3.0, 0.4])).tolist() == [0, 1]


def test_losses_have_the_direction_of_the_metric() -> None:
    assert metrics.get("accuracy").loss(0.9, 0.8) == pytest.approx(0.1)
    assert metrics.get("rmse").loss(0.5, 0.6) == pytest.approx(0.1)
    assert metrics.get("rmse").loss(100.0, 110.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("task", "columns", "expected"),
    [
        ("image-classification", 10, True),
        ("", 10, False),
        ("", 1, False),
        ("regression", 10, False),
        ("embedding", 64, False),
    ],
)
def test_what_counts_as_a_classifier(task: str, columns: int, expected: bool) -> None:
    assert metrics.is_classifier(task, scores(columns)) is expected


def test_without_a_task_scores_are_measured_as_classes_but_are_no_decisions() -> None:
    assert metrics.default_for("", scores(10)) == "accuracy"
    assert not metrics.is_classifier("", scores(10))


def test_an_unknown_metric_is_invalid_input() -> None:
    with pytest.raises(InvalidInput, match="bleu"):
        metrics.get("bleu")


def test_labels_of_the_wrong_length_are_invalid_input() -> None:
    with pytest.raises(InvalidInput):
        metrics.measure("mse", np.zeros(3), {"y": np.zeros((4, 1))}, scores(1))
