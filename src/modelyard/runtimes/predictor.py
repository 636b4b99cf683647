"""The one implementation of the Predictor contract: frameworks only supply a `run` function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import BackendFailed, ModelyardError, Unavailable
from modelyard.domain.tensors import Datatype, Signature, Tensors, TensorSpec
from modelyard.runtimes.loading import summary

Run: TypeAlias = Callable[[Tensors], Sequence[NDArray[Any]]]
"""Takes inputs that fit the signature, returns one array per output of the signature, in its order."""


class CheckedPredictor:
    """Wraps a framework's `run`: checks inputs and outputs against the signature, names failures, refuses after close.

    Thread-safe as far as `run` is. The checks are the price of never feeding a framework that converts silently
    (tests/unit/runtimes/test_predictor.py has what they catch).
    """

    def __init__(
        self,
        runtime: str,
        signature: Signature,
        run: Run,
        settings: Mapping[str, str],
        interrupt: Callable[[], None] | None = None,
    ) -> None:
        self.signature = signature
        self.settings = dict(settings)
        self._runtime = runtime
        self._run: Run | None = run
        self._interrupt = interrupt
        self._inputs = tuple(_InputCheck(spec) for spec in signature.inputs)
        self._outputs = tuple((spec, spec.datatype.numpy, _fixed(spec)) for spec in signature.outputs)

    def predict(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        run = self._run
        if run is None:
            raise Unavailable("the model was unloaded", hint="load it again")
        if not self._conform(inputs):
            self.signature.check_inputs(inputs)  # slower, and says what is wrong
        try:
            outputs = run(inputs)
        except ModelyardError:
            raise
        except Exception as error:  # boundary to foreign code: a model may raise anything
            raise BackendFailed(f"{self._runtime} failed to run the model", why=summary(error)) from error
        named: dict[str, NDArray[Any]] = {}  # a loop: a comprehension would be a call of its own
        for (spec, dtype, fixed), output in zip(self._outputs, outputs, strict=True):
            named[spec.name] = self._checked(spec, dtype, fixed, output)
        return named

    def interrupt(self) -> bool:
        """End running `predict` calls (see `ports.Interruptible`); False where the framework has no way to."""
        if self._interrupt is None:
            return False
        self._interrupt()
        return True

    def close(self) -> None:
        self._run = None

    def _conform(self, inputs: Tensors) -> bool:
        """Whether the inputs are surely right, decided fast; False means: look closer."""
        if len(inputs) != len(self._inputs):
            return False
        rows: dict[str, int] | None = None  # only several inputs can contradict each other
        for check in self._inputs:
            tensor = inputs.get(check.name)
            if tensor is None or tensor.dtype != check.dtype or check.batch is None:
                return False
            shape = tensor.shape
            if not shape or shape[1:] != check.tail:
                return False
            if len(inputs) > 1:
                rows = rows or {}
                if rows.setdefault(check.batch, shape[0]) != shape[0]:
                    return False
        return True

    def _checked(
        self, spec: TensorSpec, dtype: np.dtype[np.generic], fixed: tuple[int, ...] | None, output: NDArray[Any]
    ) -> NDArray[Any]:
        if output.shape[1:] != fixed and not _fits(spec, output.shape):
            raise BackendFailed(
                f"output '{spec.name}' is declared {spec.datatype}[{', '.join(map(str, spec.shape))}], "
                f"the model gives {Datatype.of(output.dtype)}[{', '.join(map(str, output.shape))}]",
                hint="correct the shape in the manifest's outputs",
            )
        if output.dtype != dtype:
            raise BackendFailed(
                f"output '{spec.name}' came out as {Datatype.of(output.dtype)}",
                why=f"the signature says {spec.datatype}",
                hint="correct the datatype in the manifest's outputs",
            )
        if output.flags.c_contiguous:
            return output
        # `ascontiguousarray` would turn a scalar into a vector; scalars are always contiguous, so none comes here.
        return np.ascontiguousarray(output)


def _fixed(spec: TensorSpec) -> tuple[int, ...] | None:
    """What must follow the batch dimension of an output, where that is all there is to check; else None."""
    tail = tuple(dim for dim in spec.shape[1:] if isinstance(dim, int))
    return tail if spec.batched and len(tail) == len(spec.shape) - 1 else None


def _fits(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    """Whether a shape has the rank and the fixed dimensions of a spec."""
    return len(shape) == len(spec.shape) and all(
        isinstance(want, str) or want == have for want, have in zip(spec.shape, shape, strict=True)
    )


class _InputCheck:
    """An input spec taken apart for the fast check; `batch` is None if only the full check can decide."""

    __slots__ = ("batch", "dtype", "name", "tail")

    def __init__(self, spec: TensorSpec) -> None:
        self.name = spec.name
        self.dtype = spec.datatype.numpy
        tail = spec.shape[1:]
        plain = spec.batched and all(isinstance(dim, int) for dim in tail)
        self.batch = str(spec.shape[0]) if plain else None
        self.tail = tail
