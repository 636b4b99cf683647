"""Tensors into an arena and out of it, with what depends on their shapes only worked out once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from modelyard.domain.errors import BackendFailed
from modelyard.domain.tensors import Tensor, TensorSpec
from modelyard.serving.instances.arena import Arena
from modelyard.serving.instances.frames import Part, pack, place, strings, unpack, view
from modelyard.serving.oip import wire

_PLANS_KEPT: Final = 256
"""Shapes remembered per direction; ragged inputs would fill memory."""


class _Plan(NamedTuple):
    body: bytes
    views: list[Tensor]


class Writer:
    """Copies tensors of one side of a signature into arenas. Not thread-safe."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = tuple(specs)
        self._dtypes = tuple(spec.datatype.numpy for spec in specs)
        self._strings = any(dtype.kind == "O" for dtype in self._dtypes)
        self._plans: dict[object, _Plan] = {}
        self.needed = 0
        """Bytes that the last `write` which returned None needs."""

    def write(self, tensors: Sequence[Tensor], arena: Arena) -> bytes | None:
        """Copy tensors into an arena; the message's body that describes them, None where they do not fit.

        Raises BackendFailed for a tensor of another datatype than the signature's.
        """
        if self._strings:
            return self._write_strings(tensors, arena)
        key = (arena.number, *[t.shape for t in tensors])
        plan = self._plans.get(key)
        if plan is None:
            sizes = [dtype.itemsize * t.size for dtype, t in zip(self._dtypes, tensors, strict=True)]
            parts, self.needed = place([t.shape for t in tensors], sizes)
            if self.needed > arena.size:
                return None
            views = [view(arena.array, dtype, part) for dtype, part in zip(self._dtypes, parts, strict=True)]
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            plan = self._plans[key] = _Plan(pack(parts), views)
        try:
            for place_, tensor in zip(plan.views, tensors, strict=True):
                np.copyto(place_, tensor, "no")
        except TypeError:
            raise self._mismatch(tensors) from None
        return plan.body

    def _write_strings(self, tensors: Sequence[Tensor], arena: Arena) -> bytes | None:
        blobs: list[Tensor] = []
        for dtype, tensor in zip(self._dtypes, tensors, strict=True):
            if (dtype.kind == "O") != (tensor.dtype.kind == "O"):
                raise self._mismatch(tensors)
            if dtype.kind == "O":
                blobs.append(np.frombuffer(wire.to_bytes(tensor), np.uint8))
            else:
                blobs.append(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8))
        parts, self.needed = place([t.shape for t in tensors], [b.size for b in blobs])
        if self.needed > arena.size:
            return None
        for (_, offset, size), blob in zip(parts, blobs, strict=True):
            arena.array[offset : offset + size] = blob
        return pack(parts)

    def _mismatch(self, tensors: Sequence[Tensor]) -> BackendFailed:
        for spec, dtype, tensor in zip(self._specs, self._dtypes, tensors, strict=True):
            if tensor.dtype != dtype:
                return BackendFailed(f"'{spec.name}' is {tensor.dtype}", why=f"not {dtype}")
        return BackendFailed("the tensors do not have the signature's datatypes")

    def forget(self) -> None:
        """Let go of every arena."""
        self._plans.clear()


class Reader:
    """Reads tensors of one side of a signature from arenas. Not thread-safe."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._dtypes = tuple(spec.datatype.numpy for spec in specs)
        self._strings = any(dtype.kind == "O" for dtype in self._dtypes)
        self._views: dict[tuple[int, bytes], list[Tensor]] = {}

    def views(self, body: bytes, arena: Arena) -> list[Tensor]:
        """The tensors that a message describes, in place; BYTES are copied. The views are kept for the next time."""
        if self._strings:
            return self._fresh(body, arena)
        key = (arena.number, body)
        found = self._views.get(key)
        if found is None:
            if len(self._views) >= _PLANS_KEPT:
                self._views.clear()
            found = self._views[key] = self._fresh(body, arena)
        return found

    def lent(self, body: bytes, arena: Arena) -> list[Tensor]:
        """The tensors in place, as views whose base is `arena.array`: its reference count says when they are gone."""
        tensors: list[Tensor] = []
        for dtype, part in zip(self._dtypes, self._parts(body), strict=True):
            if dtype.kind == "O":
                tensors.append(strings(arena.array, part))
                continue
            view(arena.array, dtype, part)  # checks
            tensors.append(arena.array[part.offset : part.offset + part.size].view(dtype).reshape(part.shape))
        return tensors

    def _fresh(self, body: bytes, arena: Arena) -> list[Tensor]:
        return [
            strings(arena.array, part) if dtype.kind == "O" else view(arena.array, dtype, part)
            for dtype, part in zip(self._dtypes, self._parts(body), strict=True)
        ]

    def _parts(self, body: bytes) -> list[Part]:
        parts = unpack(body)
        if len(parts) != len(self._dtypes):
            raise BackendFailed(f"the model's process named {len(parts)} tensors", why=f"not {len(self._dtypes)}")
        return parts

    def forget(self) -> None:
        """Let go of every arena."""
        self._views.clear()
