"""Named tensors in an `.npz` without pickle: how parent and children exchange inputs and outputs.

Numeric tensors are stored as they are. `BYTES` has no pickle-free numpy form, so it becomes three arrays: the bytes
joined, where each element ends, and the shape.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Tensor, Tensors

_JOINED, _ENDS, _SHAPE = "|joined", "|ends", "|shape"


def save(path: Path, tensors: Tensors) -> None:
    """Write `tensors` to `path`."""
    arrays: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if tensor.dtype.kind in "OSU":
            elements = [as_bytes(element) for element in tensor.reshape(-1).tolist()]
            arrays[name + _JOINED] = np.frombuffer(b"".join(elements), dtype=np.uint8)
            arrays[name + _ENDS] = np.cumsum([len(e) for e in elements], dtype=np.int64)
            arrays[name + _SHAPE] = np.array(tensor.shape, dtype=np.int64)
        else:
            arrays[name] = np.asarray(tensor)
    with path.open("wb") as file:  # given a file, numpy adds no suffix
        np.savez(file, **arrays)


def load(path: Path) -> dict[str, Tensor]:
    """Read what `save` wrote, or any npz of plain arrays (string arrays become `BYTES`).

    Raises InvalidInput where the file is missing, damaged or holds pickled objects, which are never opened.
    """
    tensors: dict[str, Tensor] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                if key.endswith((_ENDS, _SHAPE)):
                    continue
                if key.endswith(_JOINED):
                    name = key.removesuffix(_JOINED)
                    tensors[name] = _split(archive[key], archive[name + _ENDS], archive[name + _SHAPE])
                else:
                    tensors[key] = plain(archive[key])
    except FileNotFoundError as error:
        raise InvalidInput(f"{path.name} does not exist", hint="check the path in the manifest") from error
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidInput(
            f"{path.name} is not a readable .npz file",
            why=str(error),
            hint="write it with numpy.savez; store strings as numpy.array([...], dtype='S'), not as objects",
        ) from error
    return tensors


def nest(tensors: Tensors) -> list[dict[str, Tensor]]:
    """Undo `flatten`: keys `<index>/<name>` become a list of tensor dicts, ordered by index."""
    cases: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition("/")
        cases.setdefault(int(index), {})[name] = tensor
    return [cases[index] for index in sorted(cases)]


def flatten(cases: list[Tensors] | list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join several dicts of tensors into one with keys `<index>/<name>`."""
    return {f"{index}/{name}": tensor for index, case in enumerate(cases) for name, tensor in case.items()}


def plain(array: NDArray[Any]) -> Tensor:
    """`array` as a tensor: numpy strings become an object array of `bytes`."""
    if array.dtype.kind not in "OSU":
        return array
    out = np.empty(array.shape, dtype=np.object_)
    out.reshape(-1)[:] = [as_bytes(element) for element in array.reshape(-1).tolist()]
    return out


def as_bytes(element: object) -> bytes:
    """A string element as `bytes` (UTF-8)."""
    return element if isinstance(element, bytes) else str(element).encode()


def _split(joined: Tensor, ends: Tensor, shape: Tensor) -> Tensor:
    data, stops = joined.tobytes(), ends.tolist()
    starts = [0, *stops][: len(stops)]
    out = np.empty(len(stops), dtype=np.object_)
    out[:] = [data[a:b] for a, b in zip(starts, stops, strict=True)]
    return out.reshape(tuple(int(n) for n in shape.tolist()))


def names(tensors: Mapping[str, Tensor]) -> str:
    """The names of `tensors` for a message."""
    return ", ".join(tensors) or "none"
