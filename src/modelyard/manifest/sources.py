"""What a source file is, told from its suffix and content. Nothing is unpickled and no framework is imported."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from modelyard.domain.artifacts import (
    LIGHTGBM,
    ONNX,
    OPENVINO,
    PYTORCH_EAGER,
    PYTORCH_EXPORTED,
    SKLEARN,
    TORCHSCRIPT,
    XGBOOST,
)
from modelyard.domain.errors import InvalidInput
from modelyard.manifest.onnx_files import external_files
from modelyard.manifest.problems import nearest

FORMATS = (PYTORCH_EAGER, PYTORCH_EXPORTED, TORCHSCRIPT, ONNX, OPENVINO, SKLEARN, XGBOOST, LIGHTGBM)
_PICKLES = (".joblib", ".pkl", ".pickle")
_BY_SUFFIX = {
    ".pt2": PYTORCH_EXPORTED,
    ".safetensors": PYTORCH_EAGER,
    ".onnx": ONNX,
    ".xml": OPENVINO,
    ".skops": SKLEARN,
    ".ubj": XGBOOST,
    ".json": XGBOOST,
    ".txt": LIGHTGBM,
    **dict.fromkeys(_PICKLES, SKLEARN),
}
_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ts")


def is_pickle(path: Path) -> bool:
    """Whether the file is a pickle by its name: loading it runs code."""
    return path.suffix.lower() in _PICKLES


def detect_format(path: Path, *, factory: bool, declared: str | None = None) -> str:
    """Tell the format of a source file, and check its content against it. Raises InvalidInput.

    `factory`: the manifest names a function that builds the module, so the file holds weights only.
    `declared`: the manifest's own `format`; it decides where the suffix says nothing.
    """
    if declared is not None and declared not in FORMATS:
        raise InvalidInput(f"unknown format '{declared}'{nearest(declared, FORMATS)}")
    found = _by_suffix(path, factory)
    if declared is not None and found is not None and found != declared:
        raise InvalidInput(f"'{path.name}' is {found}, not {declared}", hint="leave 'format' out or correct the path")
    result = declared or found
    if result is None:
        raise InvalidInput(
            f"the format of '{path.name}' cannot be told from its name",
            hint=f"add 'format:' to the source, one of {', '.join(FORMATS)}",
        )
    if factory != (result == PYTORCH_EAGER):
        if factory:
            raise InvalidInput(f"'factory' goes with weights, but '{path.name}' is {result}", hint="remove 'factory'")
        raise InvalidInput(
            f"'{path.name}' holds weights only",
            hint="add factory: 'module:function' that builds the module, or save it with torch.export.save (.pt2)",
        )
    _CONTENT[result](path)
    return result


def companions(path: Path, name: str, format_: str) -> list[str]:
    """Names (relative to the manifest) of the files that belong to the source: `.bin`, ONNX external data."""
    parent = PurePosixPath(name).parent
    if format_ == OPENVINO:
        return [str(PurePosixPath(name).with_suffix(".bin"))]
    if format_ == ONNX:
        return [str(parent / location) for location in external_files(path)]
    return []


def _by_suffix(path: Path, factory: bool) -> str | None:
    suffix = path.suffix.lower()
    if suffix in _TORCH_SUFFIXES:
        names = _zip_names(path)
        if names is None:
            return PYTORCH_EAGER if factory else None
        if _is_torchscript(names):
            return TORCHSCRIPT
        return PYTORCH_EXPORTED if _is_exported(names) else PYTORCH_EAGER
    return _BY_SUFFIX.get(suffix)


def _zip_names(path: Path) -> list[str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return None


def _is_torchscript(names: list[str]) -> bool:
    return any("/code/" in n for n in names) and any(n.endswith("/constants.pkl") for n in names)


def _is_exported(names: list[str]) -> bool:
    # torch >= 2.8 writes models/NAME.json in an archive; before, serialized_exported_program.json at the top.
    return any("/models/" in n and n.endswith(".json") for n in names) or any(
        n.endswith("serialized_exported_program.json") for n in names
    )


def _wrong(path: Path, wanted: str, hint: str) -> InvalidInput:
    return InvalidInput(f"'{path.name}' is not {wanted}", why="its content is damaged or of another kind", hint=hint)


def _head(path: Path, size: int = 4096) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _check_exported(path: Path) -> None:
    if not _is_exported(_zip_names(path) or []):
        raise _wrong(path, "an exported program", "write it with torch.export.save")


def _check_torchscript(path: Path) -> None:
    if not _is_torchscript(_zip_names(path) or []):
        raise _wrong(path, "TorchScript", "write it with torch.jit.save")


def _check_weights(path: Path) -> None:
    if path.suffix.lower() != ".safetensors":
        return  # a torch.save file; it is only ever read with weights_only=True
    head = _head(path, 9)
    # safetensors: 8-byte little-endian length of a JSON header, then the header.
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:9] != b"{" or length + 8 > path.stat().st_size:
        raise _wrong(path, "a safetensors file", "write it with safetensors.torch.save_file")


def _check_onnx(path: Path) -> None:
    external_files(path)


def _check_openvino(path: Path) -> None:
    if b"<net" not in _head(path):
        raise _wrong(path, "an OpenVINO model", "write it with openvino.save_model")


def _check_sklearn(path: Path) -> None:
    if not is_pickle(path) and "schema.json" not in (_zip_names(path) or []):
        raise _wrong(path, "a skops file", "write it with skops.io.dump")


def _check_xgboost(path: Path) -> None:
    head = _head(path, 256)
    if not head.lstrip().startswith(b"{") or b"learner" not in head:
        raise _wrong(path, "an XGBoost model", "write it with save_model('model.ubj')")


def _check_lightgbm(path: Path) -> None:
    if not _head(path, 16).startswith(b"tree"):
        raise _wrong(path, "a LightGBM model", "write it with booster.save_model('model.txt')")


_CONTENT: dict[str, Callable[[Path], None]] = {
    PYTORCH_EAGER: _check_weights,
    PYTORCH_EXPORTED: _check_exported,
    TORCHSCRIPT: _check_torchscript,
    ONNX: _check_onnx,
    OPENVINO: _check_openvino,
    SKLEARN: _check_sklearn,
    XGBOOST: _check_xgboost,
    LIGHTGBM: _check_lightgbm,
}
