"""What a step is: it maps tensors forward, and tensor specs in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput, Unsupported
from modelyard.domain.tensors import TensorSpec

Specs = dict[str, TensorSpec]
Arrays = dict[str, NDArray[Any]]


class Step(Protocol):
    """One step. Specs raise InvalidInput where the step does not fit; `apply` where the data does not."""

    @property
    def kind(self) -> str:
        """The step's name in the manifest."""

    def specs_before(self, specs: Specs) -> Specs:
        """Given what must come out of the step, what must go in."""

    def specs_after(self, specs: Specs) -> Specs:
        """Given what goes in, what comes out."""

    def apply(self, arrays: Arrays) -> Arrays:
        """Run the step on a batch."""

    def undo(self, arrays: Arrays) -> Arrays:
        """A batch that the step would turn into about `arrays`. Raises Unsupported where there is no telling."""


class OneTensor:
    """Base of the steps that change one tensor in place: subclasses say how its spec and its array change."""

    def __init__(self, kind: str, tensor: str | None) -> None:
        self.kind = kind
        self._tensor = tensor

    def specs_before(self, specs: Specs) -> Specs:
        name = pick(self._tensor, specs)
        return {**specs, name: self.before(specs[name])}

    def specs_after(self, specs: Specs) -> Specs:
        name = pick(self._tensor, specs)
        return {**specs, name: self.after(specs[name])}

    def apply(self, arrays: Arrays) -> Arrays:
        name = pick(self._tensor, arrays)
        return {**arrays, name: self.change(arrays[name])}

    def undo(self, arrays: Arrays) -> Arrays:
        name = pick(self._tensor, arrays)
        return {**arrays, name: self.restore(arrays[name])}

    def before(self, spec: TensorSpec) -> TensorSpec:
        raise InvalidInput(f"{self.kind} cannot run before the model ({spec})")

    def after(self, spec: TensorSpec) -> TensorSpec:
        raise InvalidInput(f"{self.kind} cannot run after the model ({spec})")

    def change(self, array: NDArray[Any]) -> NDArray[Any]:
        raise NotImplementedError

    def restore(self, array: NDArray[Any]) -> NDArray[Any]:
        raise irreversible(self.kind, array)


def pick(wanted: str | None, tensors: Mapping[str, object]) -> str:
    """The tensor a step works on: the one it names, or the only one. Raises InvalidInput."""
    if wanted is not None and wanted in tensors:
        return wanted
    known = ", ".join(tensors)
    if wanted is not None:
        raise InvalidInput(f"there is no tensor '{wanted}'", hint=f"there is {known}")
    if len(tensors) != 1:
        raise InvalidInput("there are several tensors", hint=f"add 'tensor:' to the step, one of {known}")
    return next(iter(tensors))


def irreversible(kind: str, given: object) -> Unsupported:
    """The error of a step that cannot be undone."""
    return Unsupported(f"step {kind} cannot be undone", why=f"its input cannot be told from {type(given).__name__}")


def clipped(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """`array` in `dtype`, rounded and held within its range where it is an integer type."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        array = np.clip(np.nan_to_num(np.rint(array.astype(np.float64))), limits.min, limits.max)
    return array.astype(dtype)


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """C-contiguous, as predictors take it."""
    return np.ascontiguousarray(array)
