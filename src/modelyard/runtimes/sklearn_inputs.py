"""How scikit-learn estimators get their features from named tensors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Tensors, TensorSpec
from modelyard.runtimes.strings import to_text
from modelyard.runtimes.tabular import check_column_specs, check_columns, column_order


def feature_builder(estimator: Any, specs: tuple[TensorSpec, ...]) -> Callable[[Tensors], Any]:
    """How to make what the estimator takes from the inputs: an array, or a pandas frame if it was fitted with one and
    pandas is installed. Look before `forget_names_without_pandas`: the order of the columns is in the names.

    One 2-D input is the matrix; one 1-D BYTES input is a list of texts; other inputs are columns, by name. Raises
    InvalidInput if the signature does not fit the estimator.
    """
    names = getattr(estimator, "feature_names_in_", None)
    known = getattr(estimator, "n_features_in_", None)
    columns = None if known is None else int(known)
    only = specs[0]
    if len(specs) == 1 and len(only.shape) == 2 and (names is None or only.shape[1] != 1):
        check_columns(only.shape[1], columns)
        if names is None or not has_pandas():
            return lambda tensors: _decoded(only, tensors)
        return lambda tensors: _frame(list(names), list(_decoded(only, tensors).T))
    if len(specs) == 1 and len(only.shape) == 1 and only.datatype is Datatype.BYTES and names is None:
        return lambda tensors: _decoded(only, tensors)
    check_column_specs(specs)
    check_columns(len(specs), columns)
    return _column_builder(specs, None if names is None else [str(name) for name in names])


def has_pandas() -> bool:
    """Whether pandas is installed; it is not imported."""
    return importlib.util.find_spec("pandas") is not None


def _column_builder(specs: tuple[TensorSpec, ...], names: list[str] | None) -> Callable[[Tensors], Any]:
    by_name = {spec.name: spec for spec in specs}
    ordered = column_order(list(by_name), names)
    if names is not None and set(ordered) != set(names):
        raise InvalidInput(
            f"the estimator was fitted with columns {', '.join(names)}",
            hint="name the inputs after them, or give one input [batch, features]",
        )

    def columns(tensors: Tensors) -> list[NDArray[Any]]:
        return [_decoded(by_name[name], tensors).reshape(-1) for name in ordered]

    if names is not None and has_pandas():
        return lambda tensors: _frame(ordered, columns(tensors))
    if any(spec.datatype is Datatype.BYTES for spec in specs):
        return lambda tensors: np.array([column.astype(object) for column in columns(tensors)], dtype=object).T
    return lambda tensors: np.column_stack(columns(tensors))


def _decoded(spec: TensorSpec, tensors: Tensors) -> NDArray[Any]:
    tensor = tensors[spec.name]
    return to_text(spec.name, tensor) if spec.datatype is Datatype.BYTES else tensor


def _frame(names: list[str], columns: list[NDArray[Any]]) -> Any:
    import pandas  # type: ignore[import-not-found, import-untyped, unused-ignore]

    return pandas.DataFrame(dict(zip(names, columns, strict=True)))
