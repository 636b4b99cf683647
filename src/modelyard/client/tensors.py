"""Tensors on the wire of the Open Inference Protocol: little-endian bytes or JSON values, to numpy and back.

`BYTES` is an object array of `bytes`. `BF16`, which numpy lacks, is float32 in memory and two bytes on the wire,
rounded to the nearest, ties to even. Decoded arrays belong to the caller: writable, aligned.
Extension: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/extension_binary_data.md
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, Final, TypeAlias

import numpy as np

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Tensor, from_bf16, to_bf16

Buffer: TypeAlias = bytes | memoryview

BF16: Final = "BF16"
BYTES: Final = "BYTES"
_COPIED_BYTES: Final = 64 * 1024
"""Tensors above this are sent from their own memory; below it a copy is cheaper than one more write."""
_U32: Final = struct.Struct("<I")


@lru_cache(64)
def _datatype(dtype: np.dtype[Any]) -> str:
    # ml_dtypes' bfloat16, which JAX and TensorFlow use; known by name, so that nothing need be imported
    return BF16 if dtype.name == "bfloat16" else str(Datatype.of(dtype))


@lru_cache(64)
def _wire_dtype(datatype: str) -> np.dtype[Any]:
    """The little-endian numpy dtype of a datatype's elements on the wire. Raises ValueError for an unknown one."""
    if datatype == BF16:
        return np.dtype("<u2")
    try:
        known = Datatype(datatype)
    except ValueError:
        raise ValueError(f"unknown datatype {datatype[:40]!r}") from None
    return known.numpy.newbyteorder("<")


def datatype_of(name: str, tensor: Tensor, wanted: str | None = None) -> str:
    """The datatype that a tensor is sent as: its own, or BF16 where that is `wanted` of floating-point numbers.

    Raises InvalidInput for a dtype that no protocol carries, and for any other wish that is not its own.
    """
    own = _datatype(tensor.dtype)
    if wanted is None or wanted == own:
        return own
    if wanted == BF16 and tensor.dtype.kind == "f":
        return BF16
    raise InvalidInput(
        f"input '{name}' is {own}, not {wanted}", hint="convert the array; only BF16 is made of floats here"
    )


# --- to the wire


def to_bytes(name: str, tensor: Tensor, datatype: str) -> Buffer:
    """The wire bytes of a tensor, row-major; each element of BYTES has its u32 length before it."""
    if datatype == BYTES:
        parts: list[bytes] = []
        for value in tensor.ravel().tolist():
            element = _element(name, value)
            parts += (_U32.pack(len(element)), element)
        return b"".join(parts)
    if datatype == BF16:
        tensor = to_bf16(tensor)
    if not tensor.dtype.isnative:  # wires and all machines this runs on are little-endian
        tensor = tensor.astype(tensor.dtype.newbyteorder("<"))
    if tensor.nbytes <= _COPIED_BYTES:
        return tensor.tobytes()
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data


def to_json(name: str, tensor: Tensor, datatype: str) -> list[object]:
    """A tensor's values, flat. Raises InvalidInput for what JSON has no words for: NaN, infinity, bytes not UTF-8."""
    if datatype == BYTES:
        try:
            return [_element(name, value).decode() for value in tensor.ravel().tolist()]
        except UnicodeDecodeError as error:
            raise InvalidInput(f"input '{name}' is not text", hint="send it as binary tensors") from error
    if datatype == BF16:
        tensor = from_bf16(to_bf16(tensor))
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        raise InvalidInput(f"input '{name}' has NaN or infinity, which JSON cannot carry", hint="send binary tensors")
    values: list[object] = tensor.ravel().tolist()
    return values


def _element(name: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if value is None:
        raise InvalidInput(f"input '{name}' has None among its strings", hint="say what a missing value is")
    return str(value).encode()


# --- from the wire: ValueError, TypeError or OverflowError where it breaks the protocol


def from_bytes(datatype: str, shape: Sequence[int], content: Buffer) -> Tensor:
    """The tensor in `content`, which is exactly its bytes."""
    count = _count(shape)
    if datatype == BYTES:
        return _objects(_split(content), shape)
    dtype = _wire_dtype(datatype)
    if len(content) != count * dtype.itemsize:
        raise ValueError(f"{len(content)} bytes do not fill {datatype}{list(shape)}")
    raw = np.frombuffer(content, dtype)
    tensor = from_bf16(raw) if datatype == BF16 else raw.copy()
    return tensor.reshape(shape)


def from_json(datatype: str, shape: Sequence[int], data: object) -> Tensor:
    """The tensor of a JSON array, flat or nested; null is NaN in floating-point ones."""
    count = _count(shape)
    if not isinstance(data, list):
        raise TypeError("a tensor has no data")
    if datatype == BYTES:
        return _objects([_text(value) for value in _flat(data)], shape)
    dtype = np.dtype(np.float32) if datatype == BF16 else _wire_dtype(datatype)
    if dtype.kind != "f" and np.array(data).dtype.kind not in ("b" if datatype == Datatype.BOOL else "iu"):
        _check_whole(datatype, data)  # one by one: also ints that numpy mixes to float64, or has no dtype for
    tensor = np.array(data, dtype)
    if tensor.size != count:
        raise ValueError(f"{tensor.size} elements do not fill {datatype}{list(shape)}")
    return tensor.reshape(shape)


def _check_whole(datatype: str, data: list[object]) -> None:
    """numpy would cut fractions off, and take any number for a truth value, without a word."""
    allowed = {bool} if datatype == Datatype.BOOL else {bool, int}
    for value in _flat(data):
        if type(value) not in allowed and not (datatype == Datatype.BOOL and value in (0, 1)):
            raise ValueError(f"{value!r:.40} is no {datatype}")


def _count(shape: Sequence[int]) -> int:
    if any(d < 0 for d in shape):
        raise ValueError(f"shape {list(shape)}")
    return prod(shape)


def _split(content: Buffer) -> list[bytes]:
    elements: list[bytes] = []
    at, end = 0, len(content)
    while at < end:
        if at + 4 > end:
            raise ValueError("the length of a string is cut off")
        (size,) = _U32.unpack_from(content, at)
        at += 4
        if at + size > end:
            raise ValueError("a string is cut off")
        elements.append(bytes(content[at : at + size]))
        at += size
    return elements


def _text(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no string")
    return value.encode()


def _flat(data: list[object]) -> list[object]:
    """The leaves in order, without recursion: an answer may be nested as deep as JSON goes."""
    if not any(isinstance(value, list) for value in data):
        return data
    leaves: list[object] = []
    stack: list[object] = [data]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(reversed(value))
        else:
            leaves.append(value)
    return leaves


def _objects(elements: list[bytes], shape: Sequence[int]) -> Tensor:
    if len(elements) != prod(shape):
        raise ValueError(f"{len(elements)} strings do not fill BYTES{list(shape)}")
    tensor = np.empty(len(elements), np.object_)
    tensor[:] = elements
    return tensor.reshape(shape)
