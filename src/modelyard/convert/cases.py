"""The inputs on which source and artifact are compared: given samples, dataset rows, generated edge cases.

Every case is a full set of inputs. Generated rows are drawn from the dataset or samples where there are any (they are
the only honest picture of the input), else from a seeded generator: standard normal floats, integers 0 or 1, one of a
few short strings. Extremes have the size of the example case, so that an artifact with a baked-in batch dimension is
told from a numerically wrong one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.convert import tensorfile
from modelyard.domain.artifacts import Tolerance
from modelyard.domain.errors import InvalidInput
from modelyard.domain.ragged import RowGroup, group_rows, typical
from modelyard.domain.tensors import Datatype, Signature, Tensor, Tensors, TensorSpec
from modelyard.domain.versions import DatasetSpec

EXAMPLE_ROWS = 2
"""Rows of the example that exporters see; they specialise on 0 and 1."""
_BATCH_N = 7
_SAMPLE_ROWS = 64
_CHUNK_ROWS = 32
_MAX_BYTES = 128 << 20  # of dataset rows: 217 images of 3x224x224
_MIN_ROWS = 64
_DEFAULT_SIZE = 8  # of a symbolic dimension other than the batch, when no data shows one
_RESIZED = 5


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the proof may use beside generated inputs.

    `samples`: npz with one array per input, rows along the batch. `dataset`: npz described by `dataset_spec`; its
    arrays must be model inputs (after the manifest's preprocessing steps). `metrics`: names to compare by; empty picks
    one by the task if there are labels. `tolerance` replaces the default of every precision.
    """

    samples: Path | None = None
    dataset: Path | None = None
    dataset_spec: DatasetSpec | None = None
    metrics: tuple[str, ...] = ()
    tolerance: Tolerance | None = None
    task: str = ""
    seed: int = 0
    max_rows: int = 1024
    """Dataset rows at most; a larger dataset gives a random subset (also bounded by 128 MiB)."""


class Kind(StrEnum):
    """What a case is for; low precisions are judged on `EXTREME` only by shape and finiteness."""

    EXAMPLE = "example"
    BATCH = "batch"
    EXTREME = "extreme"
    SAMPLE = "sample"
    DATASET = "dataset"


@dataclass(frozen=True, slots=True)
class Case:
    """One set of inputs. `rows` is its batch size (0 where the model has no batch dimension)."""

    name: str
    kind: Kind
    inputs: Tensors
    rows: int


@dataclass(frozen=True, slots=True)
class Cases:
    """All cases, dataset chunks last, and the dataset's labels (None without)."""

    cases: tuple[Case, ...]
    truth: Tensor | None = None
    """In the order of the dataset chunks."""
    data: tuple[RowGroup, ...] = ()
    total_rows: int = 0
    """Rows of the whole dataset, of which the chunks may be a random part."""

    @property
    def example(self) -> Case:
        return self.cases[0]

    @property
    def first_dataset(self) -> int:
        """Index of the first dataset chunk; the number of cases where there is none."""
        return next((i for i, case in enumerate(self.cases) if case.kind is Kind.DATASET), len(self.cases))


def build(signature: Signature, evidence: Evidence) -> Cases:
    """Make the cases for a model of `signature`. Raises InvalidInput where samples or dataset do not fit it."""
    samples = _read_samples(signature, evidence.samples)
    data, truth, lengths = _read_dataset(signature, evidence)
    total = len(next(iter(data.values()))) if data else 0
    groups: tuple[RowGroup, ...] = ()
    if data:
        rows = _subset(data, evidence)
        groups = group_rows(
            {name: tensor[rows] for name, tensor in data.items()},
            signature.inputs,
            {dim: length[rows] for dim, length in lengths.items()},
        )
        truth = None if truth is None else truth[rows[np.concatenate([group.index for group in groups])]]
    known = typical(groups).tensors if groups else samples
    maker = _Maker(signature, known, np.random.default_rng(evidence.seed))
    cases = maker.generated()
    if samples:
        cases.append(maker.case("samples", Kind.SAMPLE, _rows(samples, 0, _SAMPLE_ROWS, signature)))
    for group in groups:
        cases += _chunks(maker, group, signature)
    return Cases(tuple(cases), truth, groups, total)


def conform(spec: TensorSpec, tensor: Tensor, where: str) -> Tensor:
    """`tensor` in the datatype of `spec`, where that loses nothing but float width. Raises InvalidInput."""
    want = spec.datatype.numpy
    if tensor.dtype == want:
        return tensor
    if (spec.datatype is Datatype.BYTES) == (tensor.dtype.kind == "O") and tensor.dtype.kind != "O":
        kinds = tensor.dtype.kind + want.kind
        if (kinds[0] in "iubf" and want.kind == "f") or (
            kinds[0] in "iub" and want.kind in "iu" and _fits(tensor, want)
        ):
            return tensor.astype(want)
    raise InvalidInput(
        f"{where} holds {tensor.dtype} for input '{spec.name}'", hint=f"the model takes {spec.datatype} there"
    )


def _fits(tensor: Tensor, want: np.dtype[np.generic]) -> bool:
    if tensor.size == 0 or tensor.dtype.kind == "b":
        return True
    info: Any = np.iinfo(want.name)
    values: Any = tensor
    return bool(int(values.min()) >= info.min and int(values.max()) <= info.max)


class _Maker:
    """Generates inputs of a signature from known rows or a seeded generator."""

    def __init__(self, signature: Signature, known: Tensors, rng: np.random.Generator) -> None:
        self._signature = signature
        self._known = known
        self._rng = rng
        self._batch = _batch_symbol(signature)
        self._sizes = _sizes(signature, known)

    def case(self, name: str, kind: Kind, inputs: Tensors) -> Case:
        rows = len(inputs[self._signature.inputs[0].name]) if self._batch else 0
        return Case(name, kind, inputs, rows)

    def generated(self) -> list[Case]:
        example = self._draw(EXAMPLE_ROWS)
        cases = [self.case("example", Kind.EXAMPLE, example)]
        if self._batch:
            cases.append(self.case("batch-1", Kind.BATCH, self._draw(1)))
            cases.append(self.case(f"batch-{_BATCH_N}", Kind.BATCH, self._draw(_BATCH_N)))
        if set(self._sizes) - {self._batch}:
            cases.append(self.case("resized", Kind.BATCH, self._draw(EXAMPLE_ROWS, resized=True)))
        seen: list[Tensors] = [example]
        for name in ("zeros", "ones", "negative", "large", "small"):
            inputs = {spec.name: self._extreme(spec, example[spec.name], name) for spec in self._signature.inputs}
            if not any(_equal(inputs, other) for other in seen):
                seen.append(inputs)
                cases.append(self.case(name, Kind.EXTREME, inputs))
        return cases

    def _draw(self, rows: int, *, resized: bool = False) -> dict[str, Tensor]:
        if self._known and not resized:
            count = len(next(iter(self._known.values())))
            if self._batch and count:
                index = self._rng.integers(0, count, size=rows)
                return {name: tensor[index] for name, tensor in self._known.items()}
            if not self._batch:
                return _fixed(self._signature, self._known, 0)
        sizes = {s: (_RESIZED if resized and s != self._batch else n) for s, n in self._sizes.items()}
        if self._batch:
            sizes[self._batch] = rows
        return {spec.name: self._random(spec, sizes) for spec in self._signature.inputs}

    def _random(self, spec: TensorSpec, sizes: Mapping[str, int]) -> Tensor:
        shape = tuple(sizes[d] if isinstance(d, str) else d for d in spec.shape)
        known = self._known.get(spec.name)
        if known is not None and known.size:
            return np.asarray(self._rng.choice(known.reshape(-1), size=shape), dtype=known.dtype)
        if spec.datatype is Datatype.BYTES:
            return tensorfile.plain(self._rng.choice(np.array([b"a", b"b", b"word"]), size=shape))
        if spec.datatype is Datatype.BOOL:
            return self._rng.integers(0, 2, size=shape).astype(np.bool_)
        if spec.datatype.numpy.kind == "f":
            return self._rng.standard_normal(shape).astype(spec.datatype.numpy)
        return self._rng.integers(0, 2, size=shape).astype(spec.datatype.numpy)

    def _extreme(self, spec: TensorSpec, like: Tensor, name: str) -> Tensor:
        """An extreme of one input. Integers stay within what the data shows: outside it they may be no valid index."""
        if spec.datatype is Datatype.BYTES:
            return like
        if spec.datatype is Datatype.BOOL:
            return np.full(like.shape, name != "zeros", dtype=np.bool_)
        if spec.datatype.numpy.kind == "f":
            return self._extreme_float(spec, like, name)
        known: Any = self._known.get(spec.name, np.array([0, 1]))
        low, high = (int(known.min()), int(known.max())) if known.size else (0, 1)
        values = {"zeros": min(max(0, low), high), "ones": min(max(1, low), high), "negative": low, "small": low}
        return np.full(like.shape, values.get(name, high), dtype=like.dtype)

    @staticmethod
    def _extreme_float(spec: TensorSpec, like: Tensor, name: str) -> Tensor:
        values = like.astype(np.float64)
        made = {
            "zeros": np.zeros_like(values),
            "ones": np.ones_like(values),
            "negative": -np.abs(values) - 0.1,
            "large": values * 1e3,
            "small": values * 1e-4,
        }[name]
        top = float(np.finfo(spec.datatype.numpy.name).max) / 4
        return np.clip(made, -top, top).astype(spec.datatype.numpy)


def _batch_symbol(signature: Signature) -> str:
    """The symbol shared by the first dimension of all inputs, or '' where inputs cannot be cut into rows."""
    firsts = {spec.shape[0] if spec.shape else 0 for spec in signature.inputs}
    first = next(iter(firsts))
    return first if len(firsts) == 1 and isinstance(first, str) else ""


def _sizes(signature: Signature, known: Tensors) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for spec in signature.inputs:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str):
                tensor = known.get(spec.name)
                sizes.setdefault(dim, tensor.shape[axis] if tensor is not None else _DEFAULT_SIZE)
    return sizes


def _equal(a: Tensors, b: Tensors) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


def _rows(tensors: Tensors, start: int, stop: int, signature: Signature) -> dict[str, Tensor]:
    if not _batch_symbol(signature):
        return dict(tensors)
    return {name: tensor[start:stop] for name, tensor in tensors.items()}


def _read_samples(signature: Signature, path: Path | None) -> dict[str, Tensor]:
    if path is None:
        return {}
    given = tensorfile.load(path)
    missing = [spec.name for spec in signature.inputs if spec.name not in given]
    if missing:
        raise InvalidInput(f"samples lack input '{missing[0]}'", hint=f"{path.name} holds {tensorfile.names(given)}")
    samples = {spec.name: conform(spec, given[spec.name], "the samples") for spec in signature.inputs}
    signature.check_inputs(samples)
    return samples


def _read_dataset(
    signature: Signature, evidence: Evidence
) -> tuple[dict[str, Tensor], Tensor | None, dict[str, Tensor]]:
    """The dataset's inputs, labels and row sizes by dimension."""
    if evidence.dataset is None:
        return {}, None, {}
    arrays = tensorfile.load(evidence.dataset)
    spec = evidence.dataset_spec or DatasetSpec(evidence.dataset.name, {s.name: s.name for s in signature.inputs})
    data = {}
    for tensor in signature.inputs:
        key = spec.inputs.get(tensor.name, tensor.name)
        if key not in arrays:
            raise InvalidInput(
                f"the dataset has no array '{key}' for input '{tensor.name}'",
                hint=f"{evidence.dataset.name} holds {tensorfile.names(arrays)}; map it under dataset.inputs",
            )
        data[tensor.name] = conform(tensor, arrays[key], "the dataset")
    named = [(spec.label, "labels", "label")] if spec.label else []
    named += [(name, f"lengths along '{dim}'", "lengths") for dim, name in spec.lengths.items()]
    for name, what, key in named:
        if name not in arrays:
            raise InvalidInput(
                f"the dataset has no array '{name}' of {what}",
                hint=f"{evidence.dataset.name} holds {tensorfile.names(arrays)}; set dataset.{key}",
            )
    truth = arrays[spec.label] if spec.label else None
    _check_dataset(signature, data, truth)
    return data, truth, {dim: arrays[name] for dim, name in spec.lengths.items()}


def _check_dataset(signature: Signature, data: Tensors, truth: Tensor | None) -> None:
    counts = {name: len(tensor) for name, tensor in data.items()} | (
        {"labels": len(truth)} if truth is not None else {}
    )
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InvalidInput(
            "the dataset's arrays do not have the same number of rows",
            why=", ".join(f"{name}: {n}" for name, n in counts.items()),
            hint="every array of the dataset has one row per example",
        )
    signature.check_inputs(
        _rows(data, 0, EXAMPLE_ROWS, signature) if _batch_symbol(signature) else _fixed(signature, data, 0)
    )


def _fixed_rows(signature: Signature) -> int:
    """Rows per call of a model whose first dimension is a number."""
    first = signature.inputs[0].shape[0] if signature.inputs[0].shape else 1
    return first if isinstance(first, int) else 1


def _fixed(signature: Signature, data: Tensors, start: int) -> dict[str, Tensor]:
    rows = _fixed_rows(signature)
    return {name: tensor[start : start + rows] for name, tensor in data.items()}


def _subset(data: Tensors, evidence: Evidence) -> NDArray[np.int64]:
    """Which rows of the dataset to run. In random order if not all: datasets are often sorted by class, and the run
    may end early on its time budget."""
    total = len(next(iter(data.values())))
    row_bytes = sum(tensor.nbytes // total for tensor in data.values())
    rows = min(total, evidence.max_rows, max(_MIN_ROWS, _MAX_BYTES // max(1, row_bytes)))
    if rows == total:
        return np.arange(total)
    return np.random.default_rng(evidence.seed).permutation(total)[:rows]


def _chunks(maker: _Maker, group: RowGroup, signature: Signature) -> list[Case]:
    total = len(group)
    batched = bool(_batch_symbol(signature))
    step = _CHUNK_ROWS if batched else _fixed_rows(signature)
    stop = total if batched else total - total % step
    chunks = []
    for start in range(0, stop, step):
        rows = {name: tensor[start : min(start + step, stop)] for name, tensor in group.tensors.items()}
        chunks.append(maker.case(f"dataset-{group.index[start]}", Kind.DATASET, rows))
    return chunks
