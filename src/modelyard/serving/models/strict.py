"""JSON that operators write: a key that nothing reads is an error, because a misspelt setting has no effect."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, TypeVar

import msgspec

_T = TypeVar("_T")


def decode(data: bytes, kind: type[_T]) -> _T:
    """An object of a dataclass. Raises msgspec.DecodeError, for a key that the dataclass does not have too."""
    decoded = msgspec.json.decode(data, type=kind)
    _compare(msgspec.json.decode(data), msgspec.json.decode(msgspec.json.encode(decoded)), "$")
    return decoded


def _compare(given: Any, taken: Any, path: str) -> None:
    """Both are plain values; what was given has fewer keys, as the rest has defaults."""
    if isinstance(given, dict) and isinstance(taken, dict):
        for key, value in given.items():
            if key not in taken:
                near = get_close_matches(key, taken, n=1)
                hint = f" (did you mean `{near[0]}`?)" if near else ""
                raise msgspec.ValidationError(f"Object contains unknown field `{key}`{hint} - at `{path}`")
            _compare(value, taken[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(taken, list):
        for index, (value, own) in enumerate(zip(given, taken, strict=True)):
            _compare(value, own, f"{path}[{index}]")
