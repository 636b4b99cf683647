"""Tensors from and to files, for `yard predict`: JSON, `.npy`, `.npz`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.domain.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from modelyard.domain.tensors import Signature, Tensor, TensorSpec


def read(source: str, signature: Signature) -> dict[str, Tensor]:
    """Read inputs from a path, or JSON from stdin (`-`), as the datatypes of `signature`.

    JSON is an Open Inference Protocol body (`{"inputs": [{name, shape, datatype, data}]}`) or `{name: nested list}`.
    `.npy` holds the one input of a model that has one; `.npz` one array per input name.
    Raises InvalidInput, NotFound.
    """
    if source == "-":
        return _json(sys.stdin.buffer.read(), "stdin", signature)
    path = Path(source)
    try:
        if path.suffix == ".npy":
            return _single(path, signature)
        if path.suffix == ".npz":
            return _archive(path, signature)
        return _json(path.read_bytes(), source, signature)
    except FileNotFoundError:
        raise NotFound(
            f"there is no file {source}", hint="--input takes a .json, .npy or .npz file, or - for stdin"
        ) from None
    except IsADirectoryError:
        raise InvalidInput(f"{source} is a directory", hint="--input takes a .json, .npy or .npz file") from None


def write(path: Path, outputs: Mapping[str, Tensor]) -> None:
    """Write outputs to `.npz`, or to `.npy` where there is one output; text tensors are stored as UTF-8 strings."""
    import numpy as np

    arrays = {name: _text(array) if array.dtype == object else array for name, array in outputs.items()}
    if path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]  # the stub takes the second keyword for allow_pickle
    elif path.suffix == ".npy" and len(arrays) == 1:
        np.save(path, next(iter(arrays.values())), allow_pickle=False)
    else:
        raise InvalidInput(
            f"cannot write {len(arrays)} outputs to {path.name}",
            hint="--output takes a .npz file, or .npy for one output",
        )


def _load(path: Path) -> np.ndarray | Mapping[str, np.ndarray]:
    import numpy as np

    try:
        loaded: np.ndarray | Mapping[str, np.ndarray] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InvalidInput(
            f"{path} cannot be read as numpy data", why=str(error), hint="arrays of Python objects are not accepted"
        ) from error
    return loaded


def _single(path: Path, signature: Signature) -> dict[str, Tensor]:
    if len(signature.inputs) != 1:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise InvalidInput(
            f"the model has {len(signature.inputs)} inputs ({names}), a .npy holds one", hint="use a .npz"
        )
    spec = signature.inputs[0]
    return {spec.name: _cast(_load(path), spec)}


def _archive(path: Path, signature: Signature) -> dict[str, Tensor]:
    arrays = _load(path)
    known = {spec.name: spec for spec in signature.inputs}
    if hasattr(arrays, "dtype"):
        raise InvalidInput(f"{path} holds one nameless array", hint="name it .npy, or save it with numpy.savez")
    return {name: _cast(arrays[name], _known(name, known)) for name in arrays}


def _json(body: bytes, where: str, signature: Signature) -> dict[str, Tensor]:
    import msgspec

    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{where} is not JSON", why=str(error)) from error
    known = {spec.name: spec for spec in signature.inputs}
    if not isinstance(value, dict):
        raise InvalidInput(f"{where} holds no object", hint='write {"inputs": [...]} or {"NAME": [[...]]}')
    entries = value.get("inputs")
    if (
        isinstance(entries, list)
        and all(isinstance(e, dict) and "data" in e for e in entries)
        and "inputs" not in known
    ):
        return {str(e.get("name")): _entry(e, _known(str(e.get("name")), known)) for e in entries}
    return {name: _cast(data, _known(name, known)) for name, data in value.items()}


def _known(name: str, known: Mapping[str, TensorSpec]) -> TensorSpec:
    if name not in known:
        raise InvalidInput(
            f"the model has no input '{name}'", hint=f"it takes {', '.join(str(spec) for spec in known.values())}"
        )
    return known[name]


def _entry(entry: dict[str, object], spec: TensorSpec) -> Tensor:
    """One tensor of an Open Inference Protocol body; its data may be flat or nested."""
    datatype = entry.get("datatype", spec.datatype)
    if datatype != spec.datatype:
        raise InvalidInput(f"input '{spec.name}' is {datatype}", hint=f"the model takes {spec.datatype} there")
    tensor = _cast(entry["data"], spec)
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(isinstance(dim, int) and dim >= 0 for dim in shape):
        raise InvalidInput(f"input '{spec.name}' has no shape", hint='add "shape": [1, ...]')
    try:
        return tensor.reshape(shape)
    except ValueError:
        raise InvalidInput(
            f"input '{spec.name}' has {tensor.size} elements, its shape {shape} says otherwise"
        ) from None


def _cast(data: object, spec: TensorSpec) -> Tensor:
    """`data` as the datatype of `spec`. Numbers convert only where no value is lost in kind (no 1.5 to INT64)."""
    import numpy as np

    from modelyard.domain.tensors import Datatype

    try:
        array = np.asarray(data)
    except ValueError as error:
        raise InvalidInput(f"input '{spec.name}' is not rectangular", why=str(error)) from error
    if spec.datatype is Datatype.BYTES:
        if array.dtype.kind not in "US":
            raise InvalidInput(f"input '{spec.name}' holds no strings", hint=f"the model takes {spec.datatype} there")
        flat = [v if isinstance(v, bytes) else str(v).encode() for v in array.ravel().tolist()]
        result = np.empty(len(flat), dtype=object)
        result[:] = flat
        return result.reshape(array.shape)
    want = spec.datatype.numpy
    if array.dtype == want:
        return array
    if array.size and (array.dtype.kind not in "biuf" or not _fits(array, want)):
        raise InvalidInput(
            f"input '{spec.name}' holds values that are no {spec.datatype}", hint=f"the model takes {spec}"
        )
    return array.astype(want)


def _fits(array: np.ndarray, want: np.dtype[np.generic]) -> bool:
    if want.kind == "f":
        return array.dtype.kind in "iuf"
    if want.kind == "b":
        return array.dtype.kind == "b"
    if array.dtype.kind not in "iu":
        return False
    # exact integers, since no numpy dtype holds both the most negative INT64 and the largest UINT64
    bits = want.itemsize * 8
    low, high = (0, 2**bits - 1) if want.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return low <= int(array.min()) and int(array.max()) <= high


def _text(array: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.array([v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in array.ravel()]).reshape(
        array.shape
    )
