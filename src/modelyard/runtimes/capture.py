"""Stores a model that lives in memory as safe files, ready to be registered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput, Unsupported
from modelyard.domain.tensors import Tensors
from modelyard.runtimes.capture_tabular import capture_lightgbm, capture_sklearn, capture_xgboost
from modelyard.runtimes.capture_torch import capture_torch
from modelyard.runtimes.captured import CapturedModel


def capture(
    model: object,
    directory: Path,
    *,
    inputs: Tensors | NDArray[Any] | None = None,
    outputs: Sequence[str] | None = None,
    trusted: bool = False,
) -> CapturedModel:
    """Store a PyTorch, scikit-learn, XGBoost or LightGBM model in `directory`, and infer its signature.

    `inputs` are example inputs by name with at least two rows (an array alone is one input; a pandas frame is one input
    per column); PyTorch needs them, the others need them unless their features are a plain matrix of numbers. The
    signature is what the model does on them, with a symbolic first dimension. `outputs` names a PyTorch module's
    outputs (default: the keys of a returned dict, else `output`, or `output_0`, `output_1` ...). `trusted` allows
    scikit-learn pipelines with types of your own. The stored file is loaded again and must agree with the model.

    Raises InvalidInput, Unsupported, Rejected (own types without `trusted`), BackendFailed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kind = _kind(model)
    if kind == "pytorch":
        return capture_torch(model, directory, inputs, outputs)
    if outputs is not None:
        raise InvalidInput("only PyTorch outputs can be named", hint="the others' are label, probabilities and value")
    if kind == "xgboost":
        return capture_xgboost(model, directory, inputs)
    if kind == "lightgbm":
        return capture_lightgbm(model, directory, inputs)
    return capture_sklearn(model, directory, inputs, trusted)


def _kind(model: object) -> str:
    """The framework whose class the model is an instance of; nothing is imported that the model has not imported."""
    classes = {(base.__module__.partition(".")[0], base.__name__) for base in type(model).__mro__}
    for kind, known in (
        ("pytorch", {("torch", "Module")}),
        ("xgboost", {("xgboost", "XGBModel"), ("xgboost", "Booster")}),
        ("lightgbm", {("lightgbm", "LGBMModel"), ("lightgbm", "Booster")}),
        ("sklearn", {("sklearn", "BaseEstimator")}),
    ):
        if classes & known:
            return kind
    raise Unsupported(
        f"a {type(model).__module__}.{type(model).__qualname__} cannot be captured",
        hint="give a torch.nn.Module, a scikit-learn estimator, an XGBoost or a LightGBM model, or register a file",
    )


__all__ = ["CapturedModel", "capture"]
