"""Real rows of a version: for the readiness probe, for load, and for the first prediction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelyard.domain.errors import InvalidInput, Unsupported
from modelyard.domain.ragged import RowGroup, group_rows, typical
from modelyard.domain.tensors import Datatype, Dim, Signature, Tensor, Tensors, TensorSpec
from modelyard.domain.versions import DatasetSpec, Version
from modelyard.hub import Hub
from modelyard.manifest.steps import Phase, Pipeline

MAX_ROWS = 256
"""Distinct rows kept for load: enough that a service does not see one tensor over and over."""
FREE_DIM = 16
"""Size given to a symbolic dimension other than the batch when inputs are generated."""


@dataclass(frozen=True)
class Rows:
    """Where rows come from: the version's dataset where it covers the service's inputs, else a seeded generator."""

    hub: Hub

    def outer_signature(self, version: Version) -> Signature:
        """The signature clients see: the model's, changed by its pre- and postprocessing steps."""
        definition = version.definition
        if not definition.preprocess and not definition.postprocess:
            return definition.signature
        directory = self.hub.versions.checkout(version)
        signature = definition.signature
        for steps, phase in ((definition.preprocess, Phase.BEFORE), (definition.postprocess, Phase.AFTER)):
            signature = Pipeline.build(steps, directory, phase).outer_signature(signature)
        return signature

    def groups(self, version: Version, most: int = MAX_ROWS) -> list[Tensors]:
        """Up to `most` rows as clients send them, in groups of equal shape (`domain.ragged`); mostly there is one.

        Where the signature is not batched a group is one request's tensors. With preprocessing: the dataset's raw
        inputs if it has them, else the model's inputs with the steps undone.
        """
        definition, signature = version.definition, self.outer_signature(version)
        model_inputs = {spec.name: spec for spec in definition.signature.inputs}
        # a dataset array called like a model input is what the model takes, not what the steps take
        raw = all(model_inputs.get(spec.name, spec) == spec for spec in signature.inputs)
        if not definition.preprocess or (raw and _covers(definition.dataset, signature)):
            return [group.tensors for group in self._groups(version, signature, most)]
        before = Pipeline.build(definition.preprocess, self.hub.versions.checkout(version), Phase.BEFORE)
        try:
            return [before.undo(group.tensors) for group in self._groups(version, definition.signature, most)]
        except Unsupported:  # a Python step cannot be undone
            return [generated_rows(signature, min(most, 64))]

    def model_rows(self, version: Version, most: int = MAX_ROWS) -> Tensors:
        """Up to `most` rows as the model itself takes them, after the preprocessing steps; of their typical size."""
        return typical(self._groups(version, version.definition.signature, most)).tensors

    def _groups(self, version: Version, signature: Signature, most: int) -> tuple[RowGroup, ...]:
        dataset = version.definition.dataset
        if dataset is not None and _covers(dataset, signature):
            return dataset_rows(dataset, self.hub.versions.checkout(version), signature, most)
        return (RowGroup(generated_rows(signature, min(most, 64)), np.arange(min(most, 64))),)

    def sample(self, version: Version) -> Tensors:
        """One row: the smallest real request."""
        signature = self.outer_signature(version)
        rows = self.groups(version, 1)[0]
        return {n: t[:1] for n, t in rows.items()} if signature.batched else rows


def _covers(dataset: DatasetSpec | None, signature: Signature) -> bool:
    """Whether the dataset has an array for every input of `signature`."""
    return dataset is not None and all(spec.name in dataset.inputs for spec in signature.inputs)


def dataset_rows(dataset: DatasetSpec, directory: Path, signature: Signature, most: int) -> tuple[RowGroup, ...]:
    """The first `most` rows of the dataset as tensors of `signature`'s inputs, in groups of equal shape.

    Where the signature is not batched: one group, the tensors of the first row.
    """
    with np.load(directory / dataset.path, allow_pickle=False) as file:
        names = [*(dataset.inputs[s.name] for s in signature.inputs), *dataset.lengths.values()]
        missing = [name for name in names if name not in file.files]
        if missing:
            raise InvalidInput(f"{dataset.path} has no array '{missing[0]}'", hint="mend the manifest's dataset")
        arrays = {s.name: file[dataset.inputs[s.name]][:most] for s in signature.inputs}
        lengths = {dim: file[name][:most] for dim, name in dataset.lengths.items()}
    groups = group_rows({s.name: _cast(arrays[s.name], s) for s in signature.inputs}, signature.inputs, lengths)
    if signature.batched:
        return groups
    return (RowGroup({name: array[0] for name, array in groups[0].tensors.items()}, groups[0].index[:1]),)


def generated_rows(signature: Signature, rows: int, seed: int = 0) -> dict[str, Tensor]:
    """Seeded inputs for `signature`: standard normal floats, small non-negative integers, short digit strings."""
    rng = np.random.default_rng(seed)
    return {spec.name: _generate(spec, rows, rng) for spec in signature.inputs}


def _cast(array: Tensor, spec: TensorSpec) -> Tensor:
    if spec.datatype is Datatype.BYTES:
        out = np.empty(array.size, dtype=object)
        out[:] = [v if isinstance(v, bytes) else str(v).encode() for v in array.ravel().tolist()]
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
