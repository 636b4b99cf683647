"""Finds the external data files of an ONNX model by walking its protobuf, without onnx and without loading tensors.

Field numbers are those of onnx.proto3: ModelProto.graph=7, GraphProto.node=1 / initializer=5 / sparse_initializer=15,
NodeProto.attribute=5, AttributeProto.t=5 / g=6 / tensors=10 / graphs=11, SparseTensorProto.values=1 / indices=2,
TensorProto.external_data=13, StringStringEntryProto.key=1 / value=2; ModelProto.functions=25, FunctionProto.node=7.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from modelyard.domain.errors import InvalidInput

_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
_LENGTH_DELIMITED = 2


def external_files(path: Path) -> list[str]:
    """Names of the external data files an ONNX file refers to, relative to its folder, each once.

    Raises InvalidInput where the file is truncated or no ONNX model.
    """
    found: dict[str, None] = {}
    has_graph = False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        stack = [("model", 0, len(data))]
        try:
            while stack:
                kind, start, end = stack.pop()
                if kind == "external":
                    entry = {number: bytes(data[a:b]) for number, a, b in _fields(data, start, end)}
                    if entry.get(1) == b"location":
                        found[entry.get(2, b"").decode("utf-8")] = None
                    continue
                for number, a, b in _fields(data, start, end):
                    child = _CHILDREN[kind].get(number)
                    has_graph |= child == "graph" and kind == "model"
                    if child:
                        stack.append((child, a, b))
        except (IndexError, ValueError) as error:
            raise InvalidInput(
                f"'{path.name}' is not a readable ONNX model",
                why="it is truncated or not protobuf",
                hint="export or download it again",
            ) from error
    if not has_graph:
        raise InvalidInput(f"'{path.name}' is not an ONNX model", why="it holds no graph", hint="export it again")
    return sorted(found)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (field number, start, end) of the length-delimited fields of one message; skip the others."""
    at = start
    while at < end:
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            _, at = _varint(data, at)
        elif wire == 1:
            at += 8
        elif wire == _LENGTH_DELIMITED:
            size, at = _varint(data, at)
            if at + size > end:
                raise ValueError("field runs over its message")
            yield key >> 3, at, at + size
            at += size
        elif wire == 5:
            at += 4
        else:
            raise ValueError(f"wire type {wire}")
    if at != end:
        raise ValueError("field runs over its message")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("varint is too long")
