"""Texts of the command line into values. Each parser raises InvalidInput that shows how to write it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from modelyard.domain.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from modelyard.domain.artifacts import Target

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?b?|b)?", re.IGNORECASE)
_UNIT: Final = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_BINARY_UNIT: Final = {"k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def words(text: str) -> tuple[str, ...]:
    """`a,b` -> ("a", "b"); blanks around the words are dropped, empty words refused."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise InvalidInput(f"'{text}' has an empty entry", hint="write a comma-separated list, e.g. a,b")
    return parts


def counts(text: str, option: str) -> tuple[int, ...]:
    """`1,8,32` -> (1, 8, 32), each at least 1."""
    values = tuple(int(word) if word.isdecimal() else 0 for word in words(text))
    if min(values) < 1:
        raise InvalidInput(f"{option} {text} is not a list of counts", hint=f"write e.g. {option} 1,8,32")
    return values


def targets(text: str) -> tuple[Target, ...]:
    """`onnx,onnx:int8-static` -> targets."""
    from modelyard.domain.artifacts import Target

    return tuple(Target.parse(word) for word in words(text))


def size(text: str, option: str) -> int:
    """`2GiB`, `500MB`, `1048576` -> bytes."""
    match = _SIZE.fullmatch(text.strip())
    unit = (match[2] or "").lower().rstrip("b") if match else ""
    factor = _BINARY_UNIT[unit[0]] if unit.endswith("i") else _UNIT[unit]
    value = int(float(match[1]) * factor) if match else 0
    if value < 1:
        raise InvalidInput(f"{option} {text} is not a size", hint=f"write e.g. {option} 2GiB")
    return value


def ports(http: int, grpc: int) -> None:
    """Raise InvalidInput where both ports are the same one."""
    if http and http == grpc:
        raise InvalidInput(
            f"--port and --grpc-port are both {http}", hint="give two ports, or leave one out: a free one is taken"
        )


def service_name(text: str | None) -> str | None:
    """The name given for a service, checked before any work is done for it."""
    from modelyard.domain.versions import check_name

    return text if text is None else check_name(text, "service")


def manifest_or_ref(text: str) -> Path | str:
    """A manifest's path (also the folder that holds `model.yaml`), or a reference such as `digits:3`."""
    path = Path(text)
    if path.is_dir() and (path / "model.yaml").is_file():
        return path / "model.yaml"
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or "/" in text:
        raise NotFound(
            f"there is no manifest {text}", hint="give the path of a model.yaml, or a model such as digits:3"
        )
    return text


def manifest(text: str) -> Path:
    """A manifest's path, or the folder that holds `model.yaml`."""
    found = manifest_or_ref(text)
    if isinstance(found, str):
        raise NotFound(
            f"there is no manifest {text}", hint="give the path of a model.yaml; docs/manifest.md describes it"
        )
    return found
