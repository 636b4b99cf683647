"""TensorProto to numpy and back, and TF Serving's names for datatypes."""

from __future__ import annotations

from math import prod
from typing import Any, Final

import numpy as np

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Tensor, TensorSpec, from_bf16, to_bf16
from modelyard.serving.oip import wire
from modelyard.serving.tfs.messages import DATA_TYPES

DT: Final = {
    Datatype.BOOL: "DT_BOOL", Datatype.UINT8: "DT_UINT8", Datatype.UINT16: "DT_UINT16", Datatype.UINT32: "DT_UINT32",
    Datatype.UINT64: "DT_UINT64", Datatype.INT8: "DT_INT8", Datatype.INT16: "DT_INT16", Datatype.INT32: "DT_INT32",
    Datatype.INT64: "DT_INT64", Datatype.FP16: "DT_HALF", Datatype.FP32: "DT_FLOAT", Datatype.FP64: "DT_DOUBLE",
    Datatype.BF16: "DT_BFLOAT16", Datatype.BYTES: "DT_STRING",
}  # fmt: skip
"""TF Serving's name of each datatype."""
DATATYPES: Final = {DATA_TYPES[name]: datatype for datatype, name in DT.items()}
"""Our datatype by the number of TF's."""

_FIELDS: Final = {
    Datatype.BOOL: "bool_val", Datatype.UINT8: "int_val", Datatype.UINT16: "int_val", Datatype.UINT32: "uint32_val",
    Datatype.UINT64: "uint64_val", Datatype.INT8: "int_val", Datatype.INT16: "int_val", Datatype.INT32: "int_val",
    Datatype.INT64: "int64_val", Datatype.FP16: "half_val", Datatype.FP32: "float_val", Datatype.FP64: "double_val",
    Datatype.BF16: "half_val", Datatype.BYTES: "string_val",
}  # fmt: skip
"""The typed field of a datatype (tensorflow/core/framework/tensor.proto); halves travel as their 16 bits."""
_HALVES: Final = (Datatype.FP16, Datatype.BF16)
_PACKED_TAGS: Final = {Datatype.FP32: b"\x2a", Datatype.FP64: b"\x32"}
"""Field number and wire type of the packed fields whose bytes are those of the array."""


def shape_of(name: str, proto: Any) -> tuple[int, ...]:
    """The shape that a TensorProto states. Raises InvalidInput where it is unknown or negative."""
    shape = proto.tensor_shape
    if shape.unknown_rank:
        raise InvalidInput(f"the shape of input '{name}' is unknown", hint="send a tensor of known shape")
    return tuple(dim.size for dim in shape.dim)


def from_proto(spec: TensorSpec, proto: Any) -> Tensor:
    """The tensor of an input. A single value stands for all elements, as TensorFlow has it. Raises InvalidInput."""
    shape = shape_of(spec.name, proto)
    count = wire.elements(spec.name, shape)
    content = proto.tensor_content
    if spec.datatype is Datatype.BYTES:
        return _filled(spec, count, wire.object_array(list(proto.string_val))).reshape(shape)
    if content:
        return wire.from_bytes(spec.name, str(spec.datatype), shape, content, 0, len(content))
    values = getattr(proto, _FIELDS[spec.datatype])
    try:
        if spec.datatype in _HALVES:
            bits = np.array(values, np.uint16)
            flat: Tensor = from_bf16(bits) if spec.datatype is Datatype.BF16 else bits.view(np.float16)
        else:
            flat = np.array(values, spec.datatype.numpy)
    except OverflowError:
        raise InvalidInput(f"a value of input '{spec.name}' does not fit {DT[spec.datatype]}") from None
    return _filled(spec, count, flat).reshape(shape)


def _filled(spec: TensorSpec, count: int, flat: Tensor) -> Tensor:
    """All elements: as they are, or the only one repeated."""
    if flat.size == count:
        return flat
    if flat.size == 1 and count > 1:
        return np.repeat(flat, count)
    raise InvalidInput(
        f"input '{spec.name}' has {flat.size} values in {_FIELDS[spec.datatype]}, its shape needs {count}",
        hint="send as many values as the shape has elements, one value for all, or tensor_content",
    )


def into_proto(proto: Any, datatype: Datatype, tensor: Tensor) -> None:
    """Write a tensor into an empty TensorProto, in the typed field, as TF Serving does by default."""
    proto.dtype = DATA_TYPES[DT[datatype]]
    for size in tensor.shape:
        proto.tensor_shape.dim.add(size=size)
    tag = _PACKED_TAGS.get(datatype)
    if tag is not None:
        raw = tensor.tobytes()
        proto.MergeFromString(tag + _varint(len(raw)) + raw)
    elif datatype in _HALVES:
        bits = to_bf16(tensor) if datatype is Datatype.BF16 else np.ascontiguousarray(tensor).view(np.uint16)
        proto.half_val.extend(bits.ravel().tolist())
    else:
        getattr(proto, _FIELDS[datatype]).extend(tensor.ravel().tolist())


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def nested_shape(data: object) -> tuple[int, ...]:
    """The shape of nested JSON arrays, by their first elements."""
    shape: list[int] = []
    while isinstance(data, list):
        shape.append(len(data))
        if not data:
            break
        data = data[0]
    return tuple(shape)


def is_rectangular(data: object, shape: tuple[int, ...]) -> bool:
    """Whether nested JSON arrays have exactly `shape`."""
    if not shape:
        return not isinstance(data, list)
    if not isinstance(data, list) or len(data) != shape[0]:
        return False
    if len(shape) == 1:
        return not any(isinstance(value, list) for value in data)
    return all(is_rectangular(value, shape[1:]) for value in data)


def element_count(shape: tuple[int, ...]) -> int:
    """Elements of a shape."""
    return prod(shape)
