"""Refuses `.pt2` files that would run code when `torch.export.load` opens them.

Read from torch 2.13 (`torch/export/pt2_archive/_package.py`, `torch/_export/serde/serialize.py`): loading unpickles
custom and opaque constants, tensors marked `use_pickle`, and, when the safe unpickler refuses, sample inputs too; it
loads compiled libraries; it gives shape expressions to `sympy.sympify`, which evaluates Python; and it resolves
operator names by attribute access, from where any function is within reach. None of that occurs in files of plain
tensors and operators, so what is allowed here is listed, and everything else needs a trusted artifact.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from modelyard.domain.errors import InvalidInput, Rejected

_WANTS_CODE: Final = re.compile(r"GLOBAL (\S+)|an only (?:create new object|build) |call reduce for")
_HINT: Final = "if you trust the author, allow code with `--trust`, or `trust: true` in the manifest's source"
_PLAIN: Final = re.compile(
    r"archive_format|archive_version|version|byteorder|\.data/.*|\.format_version|\.storage_alignment|extra/.*|"
    r"data/weights/weight_\d+|data/constants/tensor_\d+|data/(weights|constants)/\w+_config\.json|models/[\w.-]+\.json|"
    r"serialized_exported_program\.json|extra_files/.*"
)
_TORCH_FILE: Final = re.compile(r"data/(weights|constants|sample_inputs)/[\w.-]+\.pt|serialized_\w+\.pt")
_PROGRAM: Final = re.compile(r"models/[\w.-]+\.json|serialized_exported_program\.json")
_CONFIG: Final = re.compile(r"data/(weights|constants)/\w+_config\.json")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_]\w*")
_SYMBOL: Final = re.compile(r"(s|u|z|f|zf|zuf)\d+|_?[A-Z]{0,2}\d+")
_LITERAL: Final = re.compile(r"Symbol\('\w+'(, [a-z]+=(True|False))*\)|Float\('[\d.e+-]+', precision=\d+\)")
_TARGET: Final = re.compile(r"torch\.ops\.(?!load_library)\w+(\.\w+){1,2}|torch\.sym_\w+|_operator\.\w+|math\.\w+")
# fmt: off
_FUNCTIONS: Final = frozenset(
    {
        "FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv",
        "LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv",
        "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat",
        "Identity", "Max", "Min", "Abs", "Add", "Mul", "Pow", "Integer", "Rational", "Half", "Equality", "Unequality",
        "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And",
        "Or", "Not", "Piecewise", "floor", "ceiling", "sqrt", "true", "false", "True", "False",
    }
)
# fmt: on


def check_exported_program(path: Path, *, trusted: bool) -> None:
    """Raise InvalidInput unless `path` is an exported program's archive, Rejected if loading it could run code and it
    is not trusted."""
    if not zipfile.is_zipfile(path):
        raise InvalidInput(f"'{path.name}' is not an exported program", why="it is no zip archive")
    if trusted:
        return
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            reason = _danger(archive, member)
            if reason:
                raise Rejected(f"'{path.name}' could run code when it is loaded", why=reason, hint=_HINT)


def _danger(archive: zipfile.ZipFile, member: str) -> str:
    name = _inner(member)
    if _CONFIG.fullmatch(name):
        return _config_danger(archive, member)
    if _PROGRAM.fullmatch(name):
        return _program_danger(_json(archive, member))
    if _TORCH_FILE.fullmatch(name):
        return _pickle_danger(name, archive.read(member))
    return "" if _PLAIN.fullmatch(name) else f"it contains {name}"


def _inner(member: str) -> str:
    """A member's path without the archive's own top folder (the old format has none)."""
    head, slash, tail = member.partition("/")
    return tail if slash and head not in ("extra_files",) else member


def _json(archive: zipfile.ZipFile, member: str) -> Any:
    try:
        return json.loads(archive.read(member))
    except ValueError as error:
        raise InvalidInput(f"{member} in the exported program is not JSON", why=str(error)) from error


def _config_danger(archive: zipfile.ZipFile, member: str) -> str:
    folder = member.rsplit("/", 1)[0]
    config = _json(archive, member)
    entries = config.get("config", {}) if isinstance(config, dict) else {}
    for entry in entries.values():
        stored = str(entry.get("path_name", ""))
        if not re.fullmatch(r"(weight|tensor)_\d+", stored):
            return f"the constant {stored} is a pickled object"
        if entry.get("use_pickle"):
            try:
                content = archive.read(f"{folder}/{stored}")
            except KeyError as error:
                raise InvalidInput(f"{stored} is missing in the exported program") from error
            if reason := _pickle_danger(stored, content):
                return reason
    return ""


def _pickle_danger(name: str, content: bytes) -> str:
    """Why the content needs the unsafe unpickler; empty if the safe one reads it."""
    if not content:
        return ""
    import torch

    try:
        torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        return f"{name} needs unpickling ({wants_code(error) or 'it is damaged'})"
    except (RuntimeError, EOFError) as error:
        return f"{name} needs unpickling ({str(error).strip().splitlines()[0][:120]})"
    return ""


def wants_code(error: pickle.UnpicklingError) -> str:
    """What a file asks PyTorch's safe unpickler for that could run code; empty where it is merely damaged.

    PyTorch's own text is not to be shown: it advises to open the file unsafely.
    """
    found = _WANTS_CODE.search(str(error))
    return "" if found is None else found[1] or "an object or a call that is not allowed"


def _program_danger(program: Any) -> str:
    for key, value in _strings(program):
        if key == "expr_str" and not _is_shape_expression(value):
            return f"the shape expression {value[:80]!r} is not arithmetic"
        if key == "target" and value.startswith(("torch", "_operator", "math")) and not _is_operator(value):
            return f"{value[:80]!r} is no operator"
    return ""


def _is_operator(target: str) -> bool:
    return _TARGET.fullmatch(target) is not None and not any(part.startswith("__") for part in target.split(".")[:3])


def _is_shape_expression(text: str) -> bool:
    text = _LITERAL.sub("0", text)
    if not re.fullmatch(r"[\w\s.,()+\-*/<>=&|~%]*", text) or re.search(r"\.\s*[A-Za-z_]", text):
        return False  # quotes, brackets or attribute access
    return all(word in _FUNCTIONS or _SYMBOL.fullmatch(word) for word in _IDENTIFIER.findall(text))


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a JSON document with the key it stands under."""
    stack = [(key, value)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, dict):
            stack.extend((str(k), v) for k, v in value.items())
        elif isinstance(value, list):
            stack.extend((key, v) for v in value)
