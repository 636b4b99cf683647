"""Real rows of a version, for warm-up, load and the first prediction: from its dataset, else generated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Dim, Signature, Tensor, Tensors, TensorSpec
from modelyard.domain.versions import DatasetSpec

MAX_ROWS = 256
"""Distinct rows kept for load: enough that no cache of a runtime sees the same tensor twice in a row."""
FREE_DIM = 16
"""Size given to a symbolic dimension other than the batch when inputs are generated."""


def dataset_rows(dataset: DatasetSpec, directory: Path, signature: Signature, rows: int = MAX_ROWS) -> Tensors:
    """The first `rows` rows of the dataset as tensors of `signature`'s inputs. Raises InvalidInput."""
    with np.load(directory / dataset.path, allow_pickle=False) as file:
        missing = [spec.name for spec in signature.inputs if spec.name not in dataset.inputs]
        if missing:
            raise InvalidInput(
                f"the dataset has no array for input '{missing[0]}'", hint="name it under dataset: inputs:"
            )
        return {spec.name: _cast(file[dataset.inputs[spec.name]][:rows], spec) for spec in signature.inputs}


def generated_rows(signature: Signature, rows: int, seed: int = 0) -> Tensors:
    """Seeded inputs for `signature`: standard normal floats, small non-negative integers, short strings."""
    rng = np.random.default_rng(seed)
    return {spec.name: _generate(spec, rows, rng) for spec in signature.inputs}


def take(tensors: Tensors, batch: int, index: int, signature: Signature) -> Tensors:
    """Request number `index` of `batch` rows, walking round the rows of `tensors`."""
    if not signature.batched:
        return dict(tensors)
    count = min(len(t) for t in tensors.values())
    at = (index * batch + np.arange(batch)) % count
    return {name: np.ascontiguousarray(tensor[at]) for name, tensor in tensors.items()}


def requests(tensors: Tensors, batch: int, signature: Signature, most: int = 64) -> list[Tensors]:
    """Up to `most` different requests of `batch` rows."""
    if not signature.batched:
        return [dict(tensors)]
    count = max(1, min(most, min(len(t) for t in tensors.values()) // batch))
    return [take(tensors, batch, k, signature) for k in range(count)]


def _cast(array: Tensor, spec: TensorSpec) -> Tensor:
    if spec.datatype is Datatype.BYTES:
        flat = [v if isinstance(v, bytes) else str(v).encode() for v in array.ravel().tolist()]
        out = np.empty(len(flat), dtype=object)
        out[:] = flat
        return out.reshape(array.shape)
    return np.ascontiguousarray(array.astype(spec.datatype.numpy, copy=False))


def _generate(spec: TensorSpec, rows: int, rng: np.random.Generator) -> Tensor:
    shape = _sizes(spec.shape, rows)
    if spec.datatype is Datatype.BYTES:
        return _cast(rng.integers(0, 10, shape).astype(str), spec)
    if spec.datatype is Datatype.BOOL:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if spec.datatype.numpy.kind == "f":
        return rng.standard_normal(shape).astype(spec.datatype.numpy)
    return rng.integers(0, 10, shape).astype(spec.datatype.numpy)


def _sizes(shape: tuple[Dim, ...], rows: int) -> tuple[int, ...]:
    first = [rows if isinstance(d, str) else d for d in shape[:1]]
    return (*first, *(FREE_DIM if isinstance(d, str) else d for d in shape[1:]))


def describe(tensors: Mapping[str, Tensor]) -> str:
    """One line on tensors for logs: `image FP32[1, 1, 8, 8]`."""
    return ", ".join(f"{n} {Datatype.of(t.dtype)}{list(t.shape)}" for n, t in tensors.items())
