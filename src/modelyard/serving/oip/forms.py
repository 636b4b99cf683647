"""JSON requests that differ in nothing but the numbers of their one input: only the numbers are parsed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np

from modelyard.domain.tensors import Tensor
from modelyard.serving.oip.plan import InputPlan, Plan

DATA_KEY: Final = b'"data":'
_MOST_BYTES: Final = 2048
"""Of what surrounds the numbers; longer texts are parsed as a whole."""
_floats = msgspec.json.Decoder(list[float]).decode
_wholes = msgspec.json.Decoder(list[int]).decode


class Form:
    """A request's text but for its numbers, and what was understood of it.

    JSON is context-free: where one list of numbers makes a text a valid request, so does any other, and the text around
    it means the same.
    """

    __slots__ = ("_after", "_dtype", "_pack", "_read", "_shape", "before", "plan")

    def __init__(
        self,
        plan: Plan,
        item: InputPlan,
        pack: Callable[..., bytes],
        before: bytes,
        after: bytes,
        read: Callable[[bytes], list[float] | list[int]],
    ) -> None:
        self.plan = plan
        self.before = before
        self._after = after
        self._read = read
        self._pack = pack
        self._shape = item.shape
        self._dtype = item.dtype

    def tensor(self, body: bytes, at: int) -> Tensor | None:
        """The tensor of a body that begins with `before` (`at`: its length); None: it is not of this form."""
        end = body.find(b"]", at) + 1
        if body[end:] != self._after:
            return None
        try:
            return np.ndarray(self._shape, self._dtype, self._pack(*self._read(body[at:end])))
        except (msgspec.DecodeError, UnicodeDecodeError, struct.error, OverflowError):
            return None  # nested, no numbers, not as many as the shape says, beyond the datatype: the general way says


def form_of(plan: Plan, item: InputPlan, data: list[float] | list[int], body: bytes) -> Form | None:
    """The form of a body whose one input was found to be `data`; None where it cannot be told for sure.

    The key must be there once and nothing be escaped: then these bytes can stand nowhere but before the input's data.
    """
    at = body.find(DATA_KEY) + len(DATA_KEY)
    end = body.find(b"]", at) + 1
    long = at > _MOST_BYTES or len(body) - end > _MOST_BYTES
    if at < len(DATA_KEY) or not end or long or body.count(DATA_KEY[:-1]) != 1 or b"\\" in body or item.pack is None:
        return None
    read = _floats if item.dtype.kind == "f" else _wholes
    try:
        if read(body[at:end]) != data:
            return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return Form(plan, item, item.pack, body[:at], body[end:], read)
