"""What XGBoost and LightGBM share: from raw scores to label, probabilities or value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Signature, Tensors, TensorSpec
from modelyard.runtimes.predictor import Run
from modelyard.runtimes.tabular import (
    BATCH,
    LABEL,
    PROBABILITIES,
    VALUE,
    Matrix,
    check_outputs,
    class_labels,
    feature_specs,
    shaped,
)


@dataclass(frozen=True, slots=True)
class Ensemble:
    """What a boosted ensemble's file says of itself. `classes` is 0 for anything but a classifier, 2 for a binary one;
    `outputs` is the number of values a regressor gives per row."""

    features: int
    names: tuple[str, ...] | None
    classes: int
    outputs: int = 1

    def offered(self) -> tuple[str, ...]:
        return (LABEL, PROBABILITIES) if self.classes else (VALUE,)

    def signature(self) -> Signature:
        """The default signature: FP32 features; label and probabilities, or value."""
        if self.classes:
            outputs = (
                TensorSpec(LABEL, Datatype.INT64, (BATCH,)),
                TensorSpec(PROBABILITIES, Datatype.FP32, (BATCH, self.classes)),
            )
            return Signature(feature_specs(self.features), outputs)
        return Signature(feature_specs(self.features), (TensorSpec(VALUE, Datatype.FP32, (BATCH, self.outputs)),))


def booster_run(
    artifact: LocalArtifact, ensemble: Ensemble, matrix: Matrix, score: Callable[[NDArray[Any]], NDArray[Any]]
) -> Run:
    """The `run` of a boosted ensemble; `score` gives probabilities (class 1's alone where binary) or values.

    A label is the arg-max, ties to the lower class; for two classes that is p > 0.5, as both libraries have it.
    """
    signature = artifact.signature
    check_outputs(signature, ensemble.offered(), "the ensemble")
    labels = class_labels(artifact)
    if labels is not None and len(labels) != ensemble.classes:
        raise InvalidInput(f"the option 'classes' names {len(labels)} classes, the ensemble has {ensemble.classes}")

    def run(tensors: Tensors) -> Sequence[NDArray[Any]]:
        scores = score(matrix(tensors))
        if not ensemble.classes:
            return [shaped(spec, scores) for spec in signature.outputs]
        if scores.ndim == 1:
            scores = np.column_stack([1 - scores, scores])
        return [shaped(spec, _classified(spec.name, scores, labels)) for spec in signature.outputs]

    return run


def _classified(output: str, probabilities: NDArray[Any], labels: NDArray[Any] | None) -> NDArray[Any]:
    if output == PROBABILITIES:
        return probabilities
    numbers = (probabilities[:, 1] > 0.5).astype(np.int64) if probabilities.shape[1] == 2 else probabilities.argmax(1)
    return numbers if labels is None else labels[numbers]
