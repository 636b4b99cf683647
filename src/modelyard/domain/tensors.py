"""Tensors by their Open Inference Protocol names, and the signature of a model.

A tensor in memory is a numpy array; `BYTES` is an object array whose elements are `bytes`. `BF16`, which numpy lacks,
is a float32 array: two bytes per element on the wire, rounded to the nearest, ties to even (docs/adr/0036).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput

Tensor: TypeAlias = NDArray[np.generic]
Tensors: TypeAlias = Mapping[str, Tensor]
Dim: TypeAlias = int | str


class Datatype(StrEnum):
    """Element type of a tensor, named as in the Open Inference Protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BF16 = "BF16"
    BYTES = "BYTES"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The numpy dtype of a tensor of this datatype in memory (`object` for `BYTES`, float32 for `BF16`)."""
        return _NUMPY[self]

    @property
    def wire_bytes(self) -> int:
        """Bytes of one element on the wire; 0 for `BYTES`, whose elements have a length of their own."""
        return _WIRE_BYTES[self]

    @classmethod
    def of(cls, dtype: np.dtype[np.generic]) -> Datatype:
        """The datatype of a numpy dtype; any string or object dtype is `BYTES`. float32 is `FP32`, never `BF16`.

        Raises InvalidInput for dtypes that no protocol carries (complex, datetime, structured).
        """
        if dtype.kind in "OSU":
            return cls.BYTES
        try:
            return _BY_NUMPY[dtype.newbyteorder("=").str[1:]]
        except KeyError:
            raise InvalidInput(
                f"numpy dtype {dtype} has no tensor datatype",
                hint=f"use one of {', '.join(cls)}",
            ) from None


_NUMPY: dict[Datatype, np.dtype[np.generic]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype(np.uint8),
    Datatype.UINT16: np.dtype(np.uint16),
    Datatype.UINT32: np.dtype(np.uint32),
    Datatype.UINT64: np.dtype(np.uint64),
    Datatype.INT8: np.dtype(np.int8),
    Datatype.INT16: np.dtype(np.int16),
    Datatype.INT32: np.dtype(np.int32),
    Datatype.INT64: np.dtype(np.int64),
    Datatype.FP16: np.dtype(np.float16),
    Datatype.FP32: np.dtype(np.float32),
    Datatype.FP64: np.dtype(np.float64),
    Datatype.BF16: np.dtype(np.float32),
    Datatype.BYTES: np.dtype(np.object_),
}
_BY_NUMPY = {
    dtype.str[1:]: datatype for datatype, dtype in _NUMPY.items() if datatype not in (Datatype.BYTES, Datatype.BF16)
}
_WIRE_BYTES = {datatype: dtype.itemsize for datatype, dtype in _NUMPY.items()} | {Datatype.BYTES: 0, Datatype.BF16: 2}


def to_bf16(tensor: Tensor) -> NDArray[np.uint16]:
    """The bfloat16 bits of float32 numbers, same shape: rounded to the nearest, ties to even; NaN stays NaN.

    bfloat16 is the upper half of a float32; too large a number becomes infinity, as IEEE 754 rounds.
    """
    bits = np.ascontiguousarray(tensor, np.float32).reshape(tensor.shape).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)  # rounding a NaN up could make an infinity of it
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(nan, quiet, rounded).astype(np.uint16)


def from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 numbers, same shape, that these bfloat16 bits are; exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, datatype and shape of one input or output; a `str` dimension is symbolic (`batch`, `sequence`)."""

    name: str
    datatype: Datatype
    shape: tuple[Dim, ...]

    @property
    def batched(self) -> bool:
        """Whether the first dimension is symbolic, so that requests can be joined along it."""
        return bool(self.shape) and isinstance(self.shape[0], str)

    def __str__(self) -> str:
        return f"{self.name}: {self.datatype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """The named input and output tensors of a model, in the model's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def batched(self) -> bool:
        """Whether requests can be joined into one batch: every input and output starts with the same symbol."""
        tensors = (*self.inputs, *self.outputs)
        return all(t.batched for t in tensors) and len({t.shape[0] for t in tensors}) == 1

    @property
    def sent_as(self) -> dict[str, str]:
        """Inputs that clients must send as another datatype than that of their arrays: numpy has no BF16."""
        return {spec.name: spec.datatype for spec in self.inputs if spec.datatype is Datatype.BF16}

    def check_inputs(self, tensors: Tensors) -> int:
        """Check names, datatypes, ranks and dimensions of `tensors`; return the number of rows (1 if not batched).

        A symbolic dimension must have the same size wherever its name occurs. Raises InvalidInput.
        """
        known = {spec.name: spec for spec in self.inputs}
        for name in tensors:
            if name not in known:
                raise InvalidInput(
                    f"unexpected input '{name}'", hint=f"the model takes {', '.join(map(str, self.inputs))}"
                )
        sizes: dict[str, int] = {}
        for name, spec in known.items():
            if name not in tensors:
                raise InvalidInput(
                    f"input '{name}' is missing", hint=f"the model takes {', '.join(map(str, self.inputs))}"
                )
            _check(spec, tensors[name], sizes)
        return sizes.get(str(self.inputs[0].shape[0]), 1) if self.batched else 1


def _check(spec: TensorSpec, tensor: Tensor, sizes: dict[str, int]) -> None:
    if spec.datatype.numpy != tensor.dtype:
        raise InvalidInput(
            f"input '{spec.name}' is {Datatype.of(tensor.dtype)}", hint=f"the model takes {spec.datatype} there"
        )
    shape = tensor.shape
    wrong = len(shape) != len(spec.shape)
    for want, got in zip(spec.shape, shape, strict=False):
        wrong |= got != (sizes.setdefault(want, got) if isinstance(want, str) else want)
    if wrong:
        raise InvalidInput(
            f"input '{spec.name}' has shape {list(shape)}",
            hint=f"the model takes [{', '.join(map(str, spec.shape))}]",
        )
