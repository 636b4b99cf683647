"""The messages between a replica and the process of a model: what lies where in an arena, and failures.

One message per packet (SOCK_SEQPACKET). Tensors stay in the arenas; a message says their shapes and sizes. Neither
side unpickles: model code is other people's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import BackendFailed, ModelyardError, Unavailable
from modelyard.domain.tensors import Signature, Tensor
from modelyard.serving.faults import STATUS
from modelyard.serving.oip import wire

ALIGNMENT: Final = 64
LARGEST: Final = 128 * 1024
"""Bytes of a packet; the kernel's default buffer (net.core.wmem_default) holds one."""
_LONGEST_TEXT: Final = 4000

READY: Final = b"R"
"""The model is loaded; a `Description` as JSON follows."""
RUN: Final = b"I"
"""Run: HEAD with the input's and the output's arena, then the inputs' parts."""
ANSWER: Final = b"O"
"""Outputs: HEAD with 0 and the arena they are in, then their parts."""
FAILURE: Final = b"F"
"""A `Failure` as JSON follows."""
GROW: Final = b"G"
"""The outputs need an arena of so many bytes (the HEAD's first number) in place of the one named second."""
ARENA: Final = b"A"
"""The next packet carries the descriptor of the arena that HEAD names first; the one named second is no longer used."""

HEAD: Final = struct.Struct("<cQI")
_PART: Final = struct.Struct("<BQ")


class ChildSpec(msgspec.Struct, frozen=True):
    """What the process of a model is told on its standard input. `runtime`: `module:attribute`, called without
    arguments. `parent`: the process without which it ends."""

    name: str
    version: int
    runtime: str
    artifact: LocalArtifact
    device: str
    threads: int
    parent: int


class Description(msgspec.Struct, frozen=True):
    """A loaded model, as its process describes it."""

    signature: Signature
    settings: dict[str, str]


class Failure(msgspec.Struct, frozen=True):
    """A ModelyardError on its way to the replica: its class by name, among those that faults.py maps."""

    kind: str
    what: str
    why: str
    hint: str
    retry_after_s: float | None = None


class Part(NamedTuple):
    """Where one tensor lies in an arena."""

    shape: tuple[int, ...]
    offset: int
    size: int


def place(shapes: Sequence[tuple[int, ...]], sizes: Sequence[int]) -> tuple[list[Part], int]:
    """Lay tensors of these sizes (bytes) out one after the other; their parts and the bytes needed in all."""
    parts: list[Part] = []
    at = 0
    for shape, size in zip(shapes, sizes, strict=True):
        parts.append(Part(shape, at, size))
        at += -(-size // ALIGNMENT) * ALIGNMENT
    return parts, max(at, 1)


def pack(parts: Sequence[Part]) -> bytes:
    """The parts as a message's body; offsets follow from the sizes."""
    return b"".join(_PART.pack(len(shape), size) + struct.pack(f"<{len(shape)}Q", *shape) for shape, _, size in parts)


def unpack(body: bytes) -> list[Part]:
    """The parts of a message's body. Raises BackendFailed for one that is cut short."""
    shapes: list[tuple[int, ...]] = []
    sizes: list[int] = []
    at = 0
    try:
        while at < len(body):
            rank, size = _PART.unpack_from(body, at)
            shapes.append(struct.unpack_from(f"<{rank}Q", body, at + _PART.size))
            sizes.append(size)
            at += _PART.size + 8 * rank
    except struct.error as error:
        raise BackendFailed("a message of the model's process is damaged", why=str(error)) from error
    return place(shapes, sizes)[0]


def view(array: Tensor, dtype: np.dtype[np.generic], part: Part) -> Tensor:
    """The tensor at `part` of an arena's bytes. Raises BackendFailed where it does not fit in there or its shape."""
    if part.offset + part.size > array.nbytes or part.size != dtype.itemsize * _count(part.shape):
        raise BackendFailed("a message of the model's process is damaged", why=f"{part} of {array.nbytes} bytes")
    return np.ndarray(part.shape, dtype, array.data, part.offset)


def strings(array: Tensor, part: Part) -> Tensor:
    """The BYTES tensor at `part`, copied out."""
    if part.offset + part.size > array.nbytes:
        raise BackendFailed("a message of the model's process is damaged", why=f"{part} of {array.nbytes} bytes")
    return wire.from_bytes("", "BYTES", part.shape, array.data, part.offset, part.size)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count


def failure(error: ModelyardError) -> bytes:
    """An error as the body of a FAILURE."""
    kind = next(k.__name__ for k in type(error).__mro__ if k in STATUS)
    after = getattr(error, "retry_after_s", None)
    most = _LONGEST_TEXT
    return msgspec.json.encode(Failure(kind, error.what[:most], error.why[:most], error.hint[:most], after))


def raised(body: bytes) -> ModelyardError:
    """The error of a FAILURE's body."""
    try:
        found = msgspec.json.decode(body, type=Failure)
    except msgspec.DecodeError as problem:
        return BackendFailed("a message of the model's process is damaged", why=str(problem))
    kind = next((k for k in STATUS if k.__name__ == found.kind), BackendFailed)
    error = kind(found.what, why=found.why, hint=found.hint)
    if isinstance(error, Unavailable):
        error.retry_after_s = found.retry_after_s
    return error
