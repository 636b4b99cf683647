"""Steps on numbers: cast, scale, reshape; and on scores: softmax, argmax, top_k. Rows are along the first axis."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, TensorSpec
from modelyard.manifest.folder import Folder
from modelyard.manifest.step import Arrays, OneTensor, Specs, clipped, contiguous, irreversible, pick
from modelyard.manifest.step_options import Argmax, Cast, Reshape, Scale, Softmax, TopK

_FLOATS = (Datatype.FP16, Datatype.FP32, Datatype.FP64)


class CastStep(OneTensor):
    """Numbers of one datatype to another, exactly in range or not at all."""

    def __init__(self, options: Cast) -> None:
        super().__init__(options.kind, options.tensor)
        self._from, self._to = Datatype(options.from_), Datatype(options.to)
        if Datatype.BYTES in (self._from, self._to):
            raise InvalidInput("BYTES cannot be cast", hint="use a python step")

    def before(self, spec: TensorSpec) -> TensorSpec:
        _require(spec, (self._to,), "makes")
        return replace(spec, datatype=self._from)

    def after(self, spec: TensorSpec) -> TensorSpec:
        _require(spec, (self._from,), "takes")
        return replace(spec, datatype=self._to)

    def change(self, array: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(all="ignore"):  # overflow and NaN are found by comparing, below
            result = array.astype(self._to.numpy)
        if not _kept(array, result):
            raise InvalidInput(f"a value does not fit {self._to}", hint=f"send values in the range of {self._to}")
        return result

    def restore(self, array: NDArray[Any]) -> NDArray[Any]:
        return clipped(array, self._from.numpy)


def _kept(array: NDArray[Any], result: NDArray[Any]) -> bool:
    if array.size == 0 or result.dtype.kind == "b":
        return True
    if result.dtype.kind == "f":
        return array.dtype.kind != "f" or bool((np.isfinite(array) == np.isfinite(result)).all())
    if array.dtype.kind == "b":
        return True
    limits = np.iinfo(result.dtype)
    low, high = array.min(), array.max()
    if array.dtype.kind == "f":
        # Fractions are cut. The largest INT64 has no float of its own, hence `< max + 1`; the smallest has one.
        return bool((low > limits.min - 1.0 or low == limits.min) and high < limits.max + 1.0)
    return int(low) >= limits.min and int(high) <= limits.max


class ScaleStep(OneTensor):
    """x * factor + offset, in the tensor's own datatype."""

    def __init__(self, options: Scale) -> None:
        super().__init__(options.kind, options.tensor)
        self._factor, self._offset = options.factor, options.offset

    def before(self, spec: TensorSpec) -> TensorSpec:
        _require(spec, _FLOATS, "takes")
        return spec

    after = before

    def change(self, array: NDArray[Any]) -> NDArray[Any]:
        # Python floats do not widen a numpy array (NEP 50), so the datatype stays.
        return array * self._factor + self._offset

    def restore(self, array: NDArray[Any]) -> NDArray[Any]:
        if self._factor == 0:
            raise irreversible(self.kind, array)
        return (array - self._offset) / self._factor


class ReshapeStep(OneTensor):
    """Rows of one shape to rows of another of as many elements."""

    def __init__(self, options: Reshape) -> None:
        super().__init__(options.kind, options.tensor)
        self._from, self._to = tuple(options.from_), tuple(options.to)
        if prod(self._from) != prod(self._to):
            raise InvalidInput(
                f"rows of shape {list(self._from)} do not fill {list(self._to)}",
                hint="'from' and 'to' are without the batch dimension and have as many elements",
            )

    def before(self, spec: TensorSpec) -> TensorSpec:
        if spec.shape[1:] != self._to:
            raise InvalidInput(f"it makes rows of shape {list(self._to)}, but {spec} follows")
        return replace(spec, shape=(spec.shape[0], *self._from))

    def change(self, array: NDArray[Any]) -> NDArray[Any]:
        if array.shape[1:] != self._from:
            raise InvalidInput(f"rows have shape {list(array.shape[1:])}", hint=f"send {list(self._from)}")
        return contiguous(array.reshape(array.shape[0], *self._to))

    def restore(self, array: NDArray[Any]) -> NDArray[Any]:
        return contiguous(array.reshape(array.shape[0], *self._from))


class SoftmaxStep(OneTensor):
    """Scores along the last axis to probabilities, shifted by the maximum so that nothing overflows."""

    def __init__(self, options: Softmax) -> None:
        super().__init__(options.kind, options.tensor)

    def after(self, spec: TensorSpec) -> TensorSpec:
        _require(spec, _FLOATS, "takes")
        return _scores(spec)

    def change(self, array: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore"):  # in FP16 the difference may be -inf, whose exponential is 0 all the same
            exponentials = np.exp(array - array.max(axis=-1, keepdims=True))
        return exponentials / exponentials.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]


class ArgmaxStep:
    """The index of the highest score along the last axis; the first of equals."""

    def __init__(self, options: Argmax) -> None:
        self.kind = options.kind
        self._options = options

    def specs_before(self, specs: Specs) -> Specs:
        raise InvalidInput(f"argmax cannot run before the model ({', '.join(specs)})")

    def specs_after(self, specs: Specs) -> Specs:
        name = pick(self._options.tensor, specs)
        spec = _scores(specs[name])
        found = TensorSpec(self._options.name or name, Datatype.INT64, spec.shape[:-1])
        return _replace(specs, name, {found.name: found}, self._options.keep)

    def apply(self, arrays: Arrays) -> Arrays:
        name = pick(self._options.tensor, arrays)
        found = arrays[name].argmax(axis=-1).astype(np.int64)
        return _replace(arrays, name, {self._options.name or name: found}, self._options.keep)

    def undo(self, arrays: Arrays) -> Arrays:
        raise irreversible(self.kind, arrays)


class TopKStep:
    """The k highest scores of a row, best first, equals by class; with labels also their names."""

    def __init__(self, options: TopK, labels: list[bytes] | None) -> None:
        self.kind = options.kind
        self._options = options
        self._labels = None if labels is None else _objects(labels)

    def specs_before(self, specs: Specs) -> Specs:
        raise InvalidInput(f"top_k cannot run before the model ({', '.join(specs)})")

    def specs_after(self, specs: Specs) -> Specs:
        name = pick(self._options.tensor, specs)
        spec, k = _scores(specs[name]), self._options.k
        classes = spec.shape[-1]
        if isinstance(classes, int) and k > classes:
            raise InvalidInput(f"k is {k}, but there are {classes} classes", hint=f"set k to at most {classes}")
        if self._labels is not None and isinstance(classes, int) and len(self._labels) != classes:
            raise InvalidInput(f"there are {len(self._labels)} labels for {classes} classes")
        shape = (*spec.shape[:-1], k)
        found = {"classes": TensorSpec("classes", Datatype.INT64, shape)}
        found["scores"] = TensorSpec("scores", spec.datatype, shape)
        if self._labels is not None:
            found["labels"] = TensorSpec("labels", Datatype.BYTES, shape)
        return _replace(specs, name, found, self._options.keep)

    def apply(self, arrays: Arrays) -> Arrays:
        name = pick(self._options.tensor, arrays)
        scores = arrays[name]
        order = scores if scores.dtype.kind == "f" else scores.astype(np.float64)
        classes = np.argsort(-order, axis=-1, kind="stable")[..., : self._options.k]
        found = {"classes": contiguous(classes.astype(np.int64))}
        found["scores"] = np.take_along_axis(scores, classes, axis=-1)
        if self._labels is not None:
            found["labels"] = self._labels[classes]
        return _replace(arrays, name, found, self._options.keep)

    def undo(self, arrays: Arrays) -> Arrays:
        raise irreversible(self.kind, arrays)


def read_labels(options: TopK, directory: Path) -> list[bytes] | None:
    """The labels of a top_k step, from its list or its file (one per line). Raises InvalidInput."""
    if options.labels is not None and options.labels_file is not None:
        raise InvalidInput("'labels' and 'labels_file' are both given", hint="keep one of them")
    if options.labels_file is None:
        return None if options.labels is None else [label.encode() for label in options.labels]
    _, path = Folder(directory).file(options.labels_file)
    return path.read_bytes().rstrip(b"\r\n").replace(b"\r\n", b"\n").split(b"\n")


def _replace(tensors: dict[str, Any], name: str, found: dict[str, Any], keep: bool) -> dict[str, Any]:
    """Put what a step found in the place of the tensor it read."""
    result: dict[str, Any] = {}
    for key, value in tensors.items():
        if key != name or (keep and name not in found):
            result[key] = value
        if key == name:
            result |= found
    return result


def _objects(values: list[bytes]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _scores(spec: TensorSpec) -> TensorSpec:
    if spec.datatype in (Datatype.BYTES, Datatype.BOOL) or len(spec.shape) < 2:
        raise InvalidInput(f"it takes scores [batch, classes], but gets {spec}")
    return spec


def _require(spec: TensorSpec, datatypes: tuple[Datatype, ...], verb: str) -> None:
    if spec.datatype not in datatypes:
        raise InvalidInput(f"it {verb} {' or '.join(datatypes)}, but the tensor is {spec}")
