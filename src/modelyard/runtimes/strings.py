"""`BYTES` tensors are object arrays of `bytes`; frameworks want `str`. UTF-8 in between, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Tensor


def to_text(name: str, tensor: Tensor) -> NDArray[Any]:
    """An object array of `str` from one of UTF-8 `bytes`. Raises InvalidInput for anything else."""
    out = np.empty(tensor.shape, dtype=object)
    flat = out.reshape(-1)
    for i, item in enumerate(tensor.reshape(-1)):
        if isinstance(item, bytes):
            try:
                flat[i] = item.decode()
            except UnicodeDecodeError as error:
                raise InvalidInput(f"element {i} of input '{name}' is not UTF-8 text", why=error.reason) from error
        elif isinstance(item, str):
            flat[i] = str(item)
        else:
            raise InvalidInput(
                f"element {i} of input '{name}' is {type(item).__name__}", hint="BYTES tensors hold bytes objects"
            )
    return out


def to_bytes(tensor: NDArray[Any]) -> NDArray[np.object_]:
    """An object array of `bytes` from strings of any numpy kind (`U`, `S`, or objects)."""
    out = np.empty(tensor.shape, dtype=object)
    flat = out.reshape(-1)
    for i, item in enumerate(tensor.reshape(-1).tolist()):
        flat[i] = item if isinstance(item, bytes) else str(item).encode()
    return out
