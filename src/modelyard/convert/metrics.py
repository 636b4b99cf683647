"""Task metrics on numpy arrays: enough to compare a source with its artifact and to check a manifest's claims."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Signature, Tensor, Tensors

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer for each row. `scores`: (rows, classes) or (rows,) floats, None where only labels exist."""

    labels: Array
    scores: Array | None


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric by name. `classifies`: compares labels; otherwise it compares values."""

    name: str
    higher_is_better: bool
    classifies: bool
    compute: Callable[[Array, Prediction], float]

    def loss(self, source: float, artifact: float) -> float:
        """How much worse the artifact is; in units of the source's value for errors above 1."""
        if self.higher_is_better:
            return source - artifact
        return (artifact - source) / max(1.0, abs(source))


def get(name: str) -> Metric:
    """The metric `name`. Raises InvalidInput naming the known ones."""
    try:
        return METRICS[name.lower().replace("-", "_")]
    except KeyError:
        raise InvalidInput(f"unknown metric '{name}'", hint=f"use one of {', '.join(METRICS)}") from None


def default_for(task: str, signature: Signature) -> str:
    """The metric to compare by when the manifest claims none; without a task, scores of classes are tried as such."""
    scores = not task and any(class_count(o.shape) >= 2 for o in signature.outputs)
    return "accuracy" if scores or is_classifier(task, signature) else "rmse"


def is_classifier(task: str, signature: Signature) -> bool:
    """Whether a row's arg-max is a decision: by the task's name, without one by an output called `label` or
    `probabilities`. A shape alone tells nothing: an embedding, or several regressions, look like scores of classes.
    """
    if "classif" in task or "detection" in task:
        return True
    if task:
        return False
    return any(o.name in ("label", "probabilities") for o in signature.outputs)


def class_count(shape: tuple[int | str, ...]) -> int:
    """Number of classes of a (batch, classes) shape, else 0."""
    return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else 0


def predict(outputs: Tensors, signature: Signature, metric: Metric) -> Prediction:
    """Read a prediction out of a model's outputs.

    Classifiers: scores are the first floating output; labels are the integer or string output called `label`, or the
    only one such of rank 1, else the arg-max of the scores (one column: above 0.5 for probabilities, above 0 for
    logits). Regressors: the first numeric output. Raises InvalidInput where there is nothing to read.
    """
    floating = [o for o in signature.outputs if o.datatype in (Datatype.FP16, Datatype.FP32, Datatype.FP64)]
    labels = [o for o in signature.outputs if o not in floating and (o.name == "label" or len(o.shape) <= 2)]
    scores = outputs[floating[0].name].astype(np.float64) if floating else None
    if not metric.classifies:
        chosen = scores if scores is not None else (outputs[labels[0].name].astype(np.float64) if labels else None)
        if chosen is None:
            raise InvalidInput(f"no numeric output for metric '{metric.name}'", hint="choose accuracy or f1")
        return Prediction(chosen.reshape(len(chosen), -1), None)
    if scores is not None and scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores[:, 0]
    if labels:
        return Prediction(outputs[labels[0].name].reshape(-1), scores)
    if scores is None or scores.ndim > 2:
        raise InvalidInput(
            f"no output to take labels from for metric '{metric.name}'",
            hint="the model needs a (batch, classes) output",
        )
    return Prediction(decisions(scores), scores)


def decisions(scores: Array) -> Array:
    """The class of each row of (rows, classes), or of (rows,) by threshold."""
    if scores.ndim == 2:
        return np.asarray(scores.argmax(axis=1))
    probabilities = scores.size > 0 and float(scores.min()) >= 0.0 and float(scores.max()) <= 1.0
    return (scores > (0.5 if probabilities else 0.0)).astype(np.int64)


def _comparable(truth: Array, labels: Array) -> tuple[Array, Array]:
    if labels.dtype.kind == "O" or truth.dtype.kind in "OSU":
        return _texts(truth), _texts(labels)
    return truth.reshape(-1), labels


def _texts(values: Array) -> Array:
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values.reshape(-1).tolist()])


def _accuracy(truth: Array, prediction: Prediction) -> float:
    a, b = _comparable(truth, prediction.labels)
    return float(np.mean(a == b))


def _per_class(truth: Array, prediction: Prediction) -> list[tuple[float, float]]:
    """(precision, recall) of every class that is true or predicted somewhere."""
    a, b = _comparable(truth, prediction.labels)
    pairs = []
    for value in np.unique(np.concatenate([a, b])):
        hits = float(np.sum((a == value) & (b == value)))
        pairs.append((hits / max(1.0, float(np.sum(b == value))), hits / max(1.0, float(np.sum(a == value)))))
    return pairs


def _f1(truth: Array, prediction: Prediction) -> float:
    return float(np.mean([2 * p * r / (p + r) if p + r else 0.0 for p, r in _per_class(truth, prediction)]))


def _precision(truth: Array, prediction: Prediction) -> float:
    return float(np.mean([p for p, _ in _per_class(truth, prediction)]))


def _recall(truth: Array, prediction: Prediction) -> float:
    return float(np.mean([r for _, r in _per_class(truth, prediction)]))


def _top5(truth: Array, prediction: Prediction) -> float:
    if prediction.scores is None or prediction.scores.ndim != 2:
        raise InvalidInput("top_5_accuracy needs a (batch, classes) output", hint="use accuracy")
    best = np.argsort(-prediction.scores, axis=1)[:, :5]
    return float(np.mean((best == truth.reshape(-1, 1)).any(axis=1)))


def _auc(truth: Array, prediction: Prediction) -> float:
    """Area under the ROC curve of a binary classifier: the Mann-Whitney statistic, ties counted half."""
    scores = prediction.scores
    if scores is None or (scores.ndim == 2 and scores.shape[1] != 2) or len(np.unique(truth)) != 2:
        raise InvalidInput("auc needs a binary classifier with scores and both classes in the dataset", hint="use f1")
    score = scores[:, 1] if scores.ndim == 2 else scores
    positive = truth.reshape(-1) == np.unique(truth)[1]
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def _errors(truth: Array, prediction: Prediction) -> Array:
    values = prediction.labels
    return values - truth.reshape(values.shape).astype(np.float64)


def _mse(truth: Array, prediction: Prediction) -> float:
    return float(np.mean(_errors(truth, prediction) ** 2))


def _r2(truth: Array, prediction: Prediction) -> float:
    spread = float(np.sum((truth - truth.mean(axis=0)) ** 2))
    return 1.0 - float(np.sum(_errors(truth, prediction) ** 2)) / spread if spread else 0.0


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", True, True, _accuracy),
        Metric("top_5_accuracy", True, True, _top5),
        Metric("f1", True, True, _f1),
        Metric("precision", True, True, _precision),
        Metric("recall", True, True, _recall),
        Metric("auc", True, True, _auc),
        Metric("mse", False, False, _mse),
        Metric("rmse", False, False, lambda truth, p: float(np.sqrt(_mse(truth, p)))),
        Metric("mae", False, False, lambda truth, p: float(np.mean(np.abs(_errors(truth, p))))),
        Metric("r2", True, False, _r2),
    )
}
"""Every metric by name; f1, precision and recall are means over the classes (macro)."""


def measure(name: str, truth: Tensor, outputs: Tensors, signature: Signature) -> float:
    """Metric `name` of `outputs` against `truth`, row by row. Raises InvalidInput."""
    metric = get(name)
    try:
        return metric.compute(truth, predict(outputs, signature, metric))
    except ValueError as error:
        raise InvalidInput(
            f"metric '{name}' cannot be computed", why=str(error), hint="check dataset.label against the model's output"
        ) from error
