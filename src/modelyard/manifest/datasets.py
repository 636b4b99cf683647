"""Checks a dataset's `.npz` against the signature by its array headers; of the data only row sizes are read.

Nothing is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelyard.domain import ragged
from modelyard.domain.errors import InvalidInput, ModelyardError
from modelyard.domain.tensors import Datatype, TensorSpec
from modelyard.manifest.problems import nearest


@dataclass(frozen=True)
class ArrayHeader:
    """Shape and dtype of one array in an `.npz`."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


def read_headers(path: Path) -> dict[str, ArrayHeader]:
    """Headers of the arrays in an `.npz`, by name. Raises InvalidInput where it is damaged or no `.npz`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                info.filename.removesuffix(".npy"): _header(archive, info)
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise InvalidInput(
            f"'{path.name}' is not a readable .npz file",
            why=str(error),
            hint="write it with numpy.savez(path, x=..., y=...)",
        ) from error


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayHeader:
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return ArrayHeader(shape, dtype)


def check_inputs(
    headers: dict[str, ArrayHeader], arrays: dict[str, str], specs: tuple[TensorSpec, ...]
) -> Iterator[tuple[str, ModelyardError]]:
    """Yield (input name, error) for every input whose array is missing or does not fit its spec.

    An array holds rows along its first axis: the batch dimension where the spec has one, an extra axis where not.
    """
    sizes: dict[str, int] = {}
    for spec in specs:
        name = arrays.get(spec.name)
        if name is None:
            yield spec.name, InvalidInput(f"input '{spec.name}' has no array", hint=f"add {spec.name}: ARRAY")
        elif name not in headers:
            yield spec.name, InvalidInput(f"no array '{name}' in the file{nearest(name, headers)}")
        elif error := _mismatch(spec, name, headers[name], sizes):
            yield spec.name, error


def check_label(headers: dict[str, ArrayHeader], label: str, arrays: dict[str, str]) -> ModelyardError | None:
    """Tell what is wrong with the array of true answers, if anything: missing, or other rows than the inputs."""
    if label not in headers:
        return InvalidInput(f"no array '{label}' in the file{nearest(label, headers)}")
    header = headers[label]
    rows = {headers[name].shape[0] for name in arrays.values() if name in headers and headers[name].shape}
    if not header.shape or (rows and {header.shape[0]} != rows):
        return InvalidInput(
            f"array '{label}' has shape {list(header.shape)}, but the inputs have {sorted(rows)} rows",
            hint="give one answer per row",
        )
    return _object_array(label, header)


def check_lengths(
    path: Path,
    lengths: Mapping[str, str],
    headers: dict[str, ArrayHeader],
    arrays: dict[str, str],
    specs: tuple[TensorSpec, ...],
) -> Iterator[tuple[str, ModelyardError]]:
    """Yield (dimension, error) for every array of row sizes that is missing or does not fit the rows."""
    shapes = {
        spec.name: headers[name].shape
        for spec in specs
        if (name := arrays.get(spec.name, "")) in headers and len(headers[name].shape) == len(spec.shape)
    }
    for dim, name in lengths.items():
        if name not in headers:
            yield dim, InvalidInput(f"no array '{name}' in the file{nearest(name, headers)}")
        elif error := _object_array(name, headers[name]):
            yield dim, error
        else:
            try:
                with np.load(path, allow_pickle=False) as file:
                    ragged.check_lengths(dim, file[name], shapes, specs)
            except InvalidInput as error:
                yield dim, error


def _mismatch(spec: TensorSpec, name: str, header: ArrayHeader, sizes: dict[str, int]) -> ModelyardError | None:
    if error := _object_array(name, header):
        return error
    try:
        datatype = Datatype.of(header.dtype)
    except InvalidInput as error:
        return error
    if datatype is not spec.datatype:
        return InvalidInput(
            f"array '{name}' is {datatype}, but input '{spec.name}' is {spec.datatype}",
            hint=f"save it as {_savable(spec.datatype)}",
        )
    wanted = spec.shape if spec.batched else ("rows", *spec.shape)
    fits = len(wanted) == len(header.shape) and all(
        got == (sizes.setdefault(want, got) if isinstance(want, str) else want)
        for want, got in zip(wanted, header.shape, strict=True)
    )
    if not fits:
        shape = ", ".join(str(sizes.get(d, d)) if isinstance(d, str) else str(d) for d in wanted)
        return InvalidInput(f"array '{name}' has shape {list(header.shape)}, but input '{spec.name}' needs [{shape}]")
    if 0 in header.shape:
        return InvalidInput(f"array '{name}' has no elements", hint="give at least one row")
    return None


def _object_array(name: str, header: ArrayHeader) -> ModelyardError | None:
    if not header.dtype.hasobject:
        return None
    return InvalidInput(
        f"array '{name}' holds Python objects, which only unpickling could read",
        hint="save texts as np.array(values, dtype='U') or dtype='S', numbers as a numeric dtype",
    )


def _savable(datatype: Datatype) -> str:
    return "dtype 'U' or 'S'" if datatype is Datatype.BYTES else f"numpy {datatype.numpy}"
