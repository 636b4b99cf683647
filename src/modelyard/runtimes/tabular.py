"""What the runtimes for tabular models share: the naming convention of inputs and outputs.

Inputs: one 2-D tensor `(batch, features)` of any name, or one tensor per column, `(batch)` or `(batch, 1)`, named as
the columns. Outputs, any subset in any order:

- `label`: the predicted class, `(batch)`, INT64, BYTES or a float type;
- `probabilities`: one column per class, `(batch, classes)`, FP32 or FP64;
- `scores`: a scikit-learn classifier's decision function or a booster's raw margin;
- `value`: a regressor's, ranker's or transformer's result, `(batch, 1)`, `(batch)` or `(batch, k)`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import BackendFailed, InvalidInput
from modelyard.domain.tensors import Datatype, Signature, Tensors, TensorSpec
from modelyard.runtimes.strings import to_bytes

LABEL: Final = "label"
PROBABILITIES: Final = "probabilities"
SCORES: Final = "scores"
VALUE: Final = "value"
FEATURES: Final = "features"
BATCH: Final = "batch"

Matrix: TypeAlias = Callable[[Tensors], NDArray[Any]]


def check_outputs(signature: Signature, offered: Sequence[str], what: str) -> None:
    """Raise InvalidInput if the signature names an output that the model does not have."""
    for spec in signature.outputs:
        if spec.name not in offered:
            raise InvalidInput(
                f"{what} has no output '{spec.name}'", hint=f"name the outputs after what it has: {', '.join(offered)}"
            )


def feature_specs(columns: int, datatype: Datatype = Datatype.FP32) -> tuple[TensorSpec, ...]:
    """The default input: all features as one matrix."""
    return (TensorSpec(FEATURES, datatype, (BATCH, columns)),)


def matrix(signature: Signature, columns: int | None, names: Sequence[str] | None) -> Matrix:
    """How to make the `(batch, features)` array of numbers from the inputs.

    `columns` is how many features the model takes, `names` their names, where known. Named columns are put in the
    order of `names` if it has all of them, else in the signature's. Raises InvalidInput if the signature does not fit.
    """
    specs = signature.inputs
    if any(spec.datatype is Datatype.BYTES for spec in specs):
        raise InvalidInput("boosted trees take numbers, and the signature has a BYTES input")
    if len(specs) == 1 and len(specs[0].shape) == 2 and specs[0].shape[1] != 1:
        check_columns(specs[0].shape[1], columns)
        only = specs[0].name
        return lambda tensors: tensors[only]
    ordered = column_order([spec.name for spec in specs], names)
    check_column_specs(specs)
    check_columns(len(specs), columns)
    return lambda tensors: np.column_stack([tensors[name].reshape(-1) for name in ordered])


def column_order(names: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """`names` in the order of `wanted` if both have the same members, else as they are."""
    return list(wanted) if wanted is not None and set(wanted) == set(names) else list(names)


def check_column_specs(specs: Sequence[TensorSpec]) -> None:
    """Raise InvalidInput unless each spec is one column: `(batch)` or `(batch, 1)`."""
    for spec in specs:
        if len(spec.shape) not in (1, 2) or (len(spec.shape) == 2 and spec.shape[1] != 1):
            raise InvalidInput(
                f"input '{spec.name}' has shape [{', '.join(map(str, spec.shape))}]",
                hint="give one input [batch, features], or one input [batch] per column",
            )


def check_columns(got: int | str, expected: int | None) -> None:
    """Raise InvalidInput if the signature's number of features is not the model's, where both are known."""
    if expected is not None and isinstance(got, int) and got != expected:
        raise InvalidInput(
            f"the signature has {got} features, the model takes {expected}", hint="correct the inputs in the manifest"
        )


def shaped(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    """An output as its spec has it: datatype, and `(batch)` or `(batch, 1)`. Raises BackendFailed if it cannot be."""
    if spec.datatype is Datatype.BYTES:
        array = to_bytes(array)
    elif array.dtype != spec.datatype.numpy:
        array = _cast(spec, array)
    if array.ndim == len(spec.shape):
        return array
    if array.ndim == 1 and len(spec.shape) == 2:
        return array.reshape(-1, 1)
    if array.ndim == 2 and array.shape[1] == 1 and len(spec.shape) == 1:
        return array.reshape(-1)
    raise BackendFailed(
        f"output '{spec.name}' came out with shape {list(array.shape)}", hint=f"the signature says {spec}"
    )


def _cast(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind in "biuf" and np.can_cast(array.dtype, spec.datatype.numpy, casting="same_kind"):
        return array.astype(spec.datatype.numpy)
    # Labels: class numbers are kept as floats by some models, and floats must not lose a fraction silently.
    try:
        cast = array.astype(spec.datatype.numpy)
    except (TypeError, ValueError):
        cast = None
    if cast is None or not np.array_equal(cast, array):
        raise BackendFailed(
            f"output '{spec.name}' is {Datatype.of(array.dtype)}",
            why=f"its values do not fit {spec.datatype}",
            hint="correct the datatype in the manifest's outputs",
        )
    return cast


def class_labels(artifact: LocalArtifact) -> NDArray[Any] | None:
    """The class names of a classifier whose file has only class numbers: the option `classes`, a JSON list."""
    text = artifact.options.get("classes")
    if text is None:
        return None
    try:
        classes = json.loads(text)
    except ValueError as error:
        raise InvalidInput("the option 'classes' is not a JSON list", why=str(error)) from error
    if not isinstance(classes, list) or not classes:
        raise InvalidInput("the option 'classes' is not a JSON list of class names")
    return np.array(classes)
