"""Tensors on the wire: JSON values and little-endian bytes to numpy and back, with the protocol's checks.

Unless told otherwise, decoders return arrays that the caller owns (writable, aligned): a view into the request's body
is neither, and runtimes and pre-processing steps may rely on both.
"""

from __future__ import annotations

import json
import struct
from math import prod
from typing import Any, Final

import msgspec
import numpy as np

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Tensor, from_bf16, to_bf16

NUMPY: dict[str, np.dtype[Any]] = {str(d): d.numpy for d in Datatype}
"""The dtype in memory by datatype."""
WIRE_BYTES: dict[str, int] = {str(d): d.wire_bytes for d in Datatype}
"""Bytes of one element on the wire; 0 for BYTES."""
BF16: Final = "BF16"
_encode = msgspec.json.Encoder().encode
_U32 = struct.Struct("<I")
_MAX_ELEMENTS = 2**40


def elements(name: str, shape: tuple[int, ...]) -> int:
    """The number of elements of `shape`; raises InvalidInput for negative or absurd dimensions."""
    if any(d < 0 for d in shape):
        raise InvalidInput(f"invalid shape {list(shape)} for input '{name}'", why="a dimension is negative")
    count = prod(shape)
    if count > _MAX_ELEMENTS or len(shape) > 32:
        raise InvalidInput(f"invalid shape {list(shape)} for input '{name}'", why="more elements than a body can hold")
    return count


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Tensor:
    """Make a tensor of a JSON array, flat or nested, or of a typed buffer that the large-body parser made."""
    count = elements(name, shape)
    if isinstance(data, np.ndarray):
        tensor = _cast(name, datatype, data)
    elif datatype == "BYTES":
        tensor = _strings(name, data)
    else:
        tensor = _numbers(name, datatype, data)
    if datatype == BF16:
        tensor = from_bf16(to_bf16(tensor))  # as a client of binary tensors would have sent it
    if tensor.size != count:
        raise InvalidInput(
            f"input '{name}' has {tensor.size} elements, but its shape {list(shape)} needs {count}",
            hint="make data and shape agree",
        )
    return tensor.reshape(shape)


def _numbers(name: str, datatype: str, data: object) -> Tensor:
    if not isinstance(data, list):
        raise InvalidInput(f"unable to parse 'data' of input '{name}'", why="it must be an array")
    try:
        raw = np.array(data) if data else np.empty(0, NUMPY[datatype])
        if raw.dtype.kind == "f" and datatype in ("UINT64", "INT64") and not _has(float, data):
            raw = np.array(data, NUMPY[datatype])  # numpy mixes int64 and uint64 to float64, which loses digits
        elif raw.dtype.kind == "O" and datatype != "BOOL" and _all_numbers(data):  # whole numbers beyond 64 bits
            raw = np.array(data, np.float64 if NUMPY[datatype].kind == "f" else NUMPY[datatype])
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"unable to parse 'data' of input '{name}'", why=str(error)) from None
    if raw.dtype.kind in "fiu" and _has(bool, data):  # numpy takes true among numbers for 1
        raise InvalidInput(f"unable to parse 'data' of input '{name}'", why="a truth value is among the numbers")
    return _cast(name, datatype, raw)


def _has(kind: type, data: list[Any]) -> bool:
    return any(_has(kind, v) if isinstance(v, list) else isinstance(v, kind) for v in data)


def _all_numbers(data: list[Any]) -> bool:
    return all(_all_numbers(v) if isinstance(v, list) else type(v) in (int, float) for v in data)


def _cast(name: str, datatype: str, raw: Tensor) -> Tensor:
    """Cast what JSON gave (bool, int64, uint64 or float64) to `datatype` where no value changes its meaning."""
    want = NUMPY[datatype]
    if raw.dtype == want:
        return raw
    kind = raw.dtype.kind
    if want.kind == "f" and kind in "fiu":
        return raw.astype(want)
    if want.kind in "iu" and kind in "iu":
        cast = raw.astype(want)
        if not np.array_equal(cast, raw):
            raise InvalidInput(f"a value of input '{name}' does not fit {datatype}")
        return cast
    if want.kind == "b" and kind in "iu" and bool(((raw == 0) | (raw == 1)).all()):
        return raw.astype(want)
    raise InvalidInput(
        f"unable to parse 'data' of input '{name}'", why=f"expected {datatype} values, got {_kind_name(raw)}"
    )


def _kind_name(raw: Tensor) -> str:
    return {"f": "fractional numbers", "b": "booleans", "U": "strings", "O": "mixed values"}.get(
        raw.dtype.kind, "integers"
    )


def _strings(name: str, data: object) -> Tensor:
    flat: list[bytes] = []
    stack: list[Any] = [data]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            flat.append(value.encode())
        elif isinstance(value, list):
            stack.extend(reversed(value))
        else:
            raise InvalidInput(f"unable to parse 'data' of input '{name}'", why="expected BYTES as JSON strings")
    return object_array(flat)


def object_array(values: list[bytes]) -> Tensor:
    """A flat BYTES tensor. Built by slice assignment: `np.array` would turn it into fixed-width strings."""
    tensor = np.empty(len(values), dtype=object)
    tensor[:] = values
    return tensor


def from_bytes(
    name: str,
    datatype: str,
    shape: tuple[int, ...],
    body: bytes | bytearray | memoryview,
    start: int,
    size: int,
    *,
    copy: bool = True,
) -> Tensor:
    """Make a tensor of `size` bytes of `body` from `start`: raw little-endian, or length-prefixed for BYTES.

    Without `copy` it may be a view of `body`, read-only and not aligned: executors copy such where a runtime needs it.
    """
    count = elements(name, shape)
    if datatype == "BYTES":
        return _byte_strings(name, count, memoryview(body)[start : start + size]).reshape(shape)
    if size != count * WIRE_BYTES[datatype]:
        raise InvalidInput(
            f"input byte size mismatch for input '{name}'. Expected {count * WIRE_BYTES[datatype]}, got {size}",
        )
    if datatype == BF16:
        return from_bf16(np.frombuffer(body, np.uint16, count, start)).reshape(shape)
    view = np.frombuffer(body, NUMPY[datatype], count, start).reshape(shape)
    return view.copy() if copy else view


def _byte_strings(name: str, count: int, view: memoryview) -> Tensor:
    values: list[bytes] = []
    raw, at, start = bytes(view), 0, 0
    end = len(raw)
    while at <= end - 4:
        start = at + 4
        at = start + int.from_bytes(raw[at:start], "little")
        values.append(raw[start:at])
    if at > end:
        raise InvalidInput(f"incomplete string data for input '{name}'", why=f"expected {at - start} bytes")
    if at < end:
        raise InvalidInput(f"incomplete string length indicator for input '{name}'")
    if len(values) != count:
        raise InvalidInput(f"expected {count} strings for input '{name}', got {len(values)}")
    return object_array(values)


def to_bytes(tensor: Tensor, datatype: str = "") -> bytes:
    """The wire bytes of a tensor, row-major; BYTES elements are length-prefixed; BF16 where `datatype` says so."""
    if tensor.dtype.kind != "O":
        return to_bf16(tensor).tobytes() if datatype == BF16 else tensor.tobytes()
    parts: list[bytes] = []
    for value in tensor.ravel().tolist():
        parts.append(_U32.pack(len(value)))
        parts.append(value)
    return b"".join(parts)


def json_array(name: str, tensor: Tensor, datatype: str = "") -> bytes:
    """The flat JSON array of a tensor's values.

    NaN and infinities are bare `NaN`, `Infinity`, `-Infinity`, as Triton and TF Serving write them (docs/adr/0037).
    BYTES must be UTF-8: raises InvalidInput otherwise.
    """
    if datatype == BF16:
        tensor = from_bf16(to_bf16(tensor))
    values = to_json(name, tensor)
    text = _encode(values)
    # msgspec writes null for what is not finite; looking for it costs less than asking every number
    return json.dumps(values, separators=(",", ":")).encode() if b"n" in text and tensor.dtype.kind == "f" else text


def to_json(name: str, tensor: Tensor) -> list[Any]:
    """The flat list of a tensor's values. BYTES must be UTF-8: raises InvalidInput otherwise."""
    if tensor.dtype.kind != "O":
        return tensor.ravel().tolist()
    try:
        return [value.decode() for value in tensor.ravel().tolist()]
    except UnicodeDecodeError:
        raise InvalidInput(
            f"output '{name}' is not UTF-8 text", hint="request it as binary (parameters: {binary_data: true})"
        ) from None


def normalised(tensor: Any) -> Tensor:
    """A runtime's output as a C-contiguous array of a protocol datatype; strings become BYTES."""
    array = np.asarray(tensor)
    kind = array.dtype.kind
    if kind in "OSU":
        flat = [v if isinstance(v, bytes) else str(v).encode() for v in array.ravel().tolist()]
        return object_array(flat).reshape(array.shape)
    if array.dtype.name == "bfloat16":  # ml_dtypes', as JAX gives it
        array = array.astype(np.float32)
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array
