"""Large JSON arrays of numbers, from simdjson's tape straight into numpy."""

from __future__ import annotations

from math import prod
from typing import Any, Final, Literal

import numpy as np
import simdjson

from modelyard.domain.tensors import Tensor

_BEYOND: Final = ("BIGINT_ERROR", "NUMBER_ERROR", "Number out of range")
"""How simdjson and msgspec refuse numbers beyond 64 bits, which JSON allows (JavaScript writes 1e20 as 21 digits)."""
_CODES: Final[dict[str, Literal["d", "i", "u"]]] = {"f": "d", "i": "i", "u": "u"}


def nested_shape(data: simdjson.Array) -> tuple[int, ...] | None:
    """The shape of nested arrays, by the lengths of all of them; None where they are no rectangle.

    Whether the innermost arrays hold only numbers is not looked at.
    """
    shape: list[int] = []
    level: list[Any] = [data]
    while True:
        lengths = {len(item) for item in level}
        if len(lengths) != 1:
            return None
        shape.append(lengths.pop())
        if not shape[-1] or not isinstance(level[0][0], simdjson.Array):
            return tuple(shape)
        level = [inner for item in level for inner in item]
        if not all(isinstance(inner, simdjson.Array) for inner in level):
            return None


def numbers(data: simdjson.Array, dtype: np.dtype[Any]) -> tuple[Tensor, tuple[int, ...]] | None:
    """The numbers of an array, flat and of 64 bits of the kind of `dtype`, and its nested shape.

    None where it holds anything else or is no rectangle, so that only the general way can say what is wrong.
    """
    code = _CODES.get(dtype.kind)
    shape = nested_shape(data) if code is not None else None
    if code is None or shape is None:
        return None
    try:
        buffer = np.frombuffer(data.as_buffer(of_type=code), f"{'f' if code == 'd' else code}8")
    except (TypeError, ValueError):
        return None
    return (buffer, shape) if buffer.size == prod(shape) else None


def python_may_read(body: bytes | bytearray, error: Exception) -> bool:
    """Whether JSON that a fast parser refused with `error` may be numbers that only Python's parser takes.

    They are bare NaN and Infinity, and numbers beyond 64 bits.
    """
    return b"NaN" in body or b"Infinity" in body or str(error).startswith(_BEYOND)


def arrays_in(shape: tuple[int, ...]) -> int:
    """How many JSON arrays, and so opening brackets, an array of `shape` has."""
    return 1 + sum(prod(shape[: i + 1]) for i in range(len(shape) - 1))
