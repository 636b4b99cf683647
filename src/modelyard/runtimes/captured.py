"""What capturing needs for any framework: example inputs as arrays, and the captured model itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.artifacts import SKLEARN, LocalArtifact, Precision, Target
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Dim, Signature, Tensors, TensorSpec
from modelyard.domain.versions import SourceSpec
from modelyard.runtimes.strings import to_bytes
from modelyard.runtimes.tabular import BATCH


@dataclass(frozen=True, slots=True)
class CapturedModel:
    """A model stored as files: what a manifest would say of it. `files` maps paths in the version to local ones."""

    framework: str
    source: SourceSpec
    signature: Signature
    files: Mapping[str, Path]


def example_arrays(inputs: Any, default: str) -> dict[str, NDArray[Any]]:
    """Example inputs by name as contiguous arrays, strings as BYTES."""
    if inputs is None:
        return {}
    if hasattr(inputs, "columns") and hasattr(inputs, "iloc"):  # a pandas frame, without importing pandas
        inputs = {str(name): inputs[name].to_numpy() for name in inputs.columns}
    if not isinstance(inputs, Mapping):
        inputs = {default: inputs}
    examples: dict[str, NDArray[Any]] = {}
    for name, value in inputs.items():
        array = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
        array = to_bytes(array) if array.dtype.kind in "OSU" else np.ascontiguousarray(array)
        Datatype.of(array.dtype)  # refuses what no protocol carries
        examples[str(name)] = array
    return examples


def row_count(examples: Tensors) -> int:
    """The rows of the first input. Raises InvalidInput below two."""
    first = next(iter(examples.values()))
    rows = int(first.shape[0]) if first.ndim else 0
    if rows < 2:
        raise InvalidInput(
            "the example inputs have fewer than two rows", hint="with one row, the batch dimension cannot be told apart"
        )
    return rows


def is_batched(array: NDArray[Any], rows: int) -> bool:
    """Whether the first dimension is the batch."""
    return array.ndim > 0 and array.shape[0] == rows


def observed_spec(name: str, array: NDArray[Any], rows: int) -> TensorSpec:
    """The spec of an array seen with `rows` rows."""
    shape: tuple[Dim, ...] = array.shape
    if is_batched(array, rows):
        shape = (BATCH, *array.shape[1:])
    return TensorSpec(name, Datatype.of(array.dtype), shape)


def local_artifact(
    directory: Path,
    entry: str,
    fmt: str,
    signature: Signature,
    *,
    options: Mapping[str, str] | None = None,
    trusted: bool = False,
) -> LocalArtifact:
    """What was just stored in `directory`, as a runtime loads it."""
    wide = any(spec.datatype is Datatype.FP64 for spec in signature.inputs) and fmt == SKLEARN
    precision = Precision.FP64 if wide else Precision.FP32
    return LocalArtifact(str(directory), entry, Target(fmt), precision, signature, options or {}, trusted)
