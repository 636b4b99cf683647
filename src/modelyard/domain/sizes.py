"""Sizes in bytes as people write them."""

from __future__ import annotations

import re
from typing import Final

from modelyard.domain.errors import InvalidInput

_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?b?|b)?", re.IGNORECASE)
_UNIT: Final = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_BINARY_UNIT: Final = {"k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


MOST_BYTES: Final = 64 * 1024**4
"""No machine has more memory; a larger size is a slip of the pen, and some systems' numbers end at 2**63."""


def parse_size(text: str) -> int:
    """`2GiB`, `500MB`, `1048576` -> bytes, from 1 to `MOST_BYTES`. Raises InvalidInput."""
    match = _SIZE.fullmatch(text.strip())
    unit = (match[2] or "").lower().rstrip("b") if match else ""
    factor = _BINARY_UNIT[unit[0]] if unit.endswith("i") else _UNIT[unit]
    value = float(match[1]) * factor if match else 0.0
    if value > MOST_BYTES:
        raise InvalidInput(f"'{text}' is more than any machine has", hint="write at most 64TiB")
    if value < 1:
        raise InvalidInput(f"'{text}' is not a size", hint="write e.g. 2GiB")
    return int(value)
