"""Texts of the command line into values. Each parser raises InvalidInput that shows how to write it."""

from __future__ import annotations

import math
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from modelyard.domain.errors import InvalidInput, NotFound

Choice = TypeVar("Choice", bound=StrEnum)
_SHARE = re.compile(r"[0-9]*\.?[0-9]+")
_RATE = re.compile(r"[0-9]*\.?[0-9]+(e[0-9]{1,2})?")

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modelyard.domain.artifacts import Target
    from modelyard.domain.study import Knob


def words(given: Sequence[str]) -> tuple[str, ...]:
    """`--to a,b --to c` -> ("a", "b", "c"); blanks around the words are dropped, empty words refused."""
    text = ",".join(given)
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise InvalidInput(f"'{text}' has an empty entry", hint="write a comma-separated list, e.g. a,b")
    return parts


def counts(given: Sequence[str], option: str) -> tuple[int, ...]:
    """`1,8,32` -> (1, 8, 32), each at least 1."""
    values = tuple(int(word) if word.isdecimal() else 0 for word in words(given))
    if min(values) < 1:
        raise InvalidInput(f"{option} {','.join(given)} is not a list of counts", hint=f"write e.g. {option} 1,8,32")
    return values


def rates(given: Sequence[str], option: str) -> tuple[float, ...]:
    """`50,200` -> (50.0, 200.0), each above 0."""
    values = tuple(float(word) if _RATE.fullmatch(word) else 0.0 for word in words(given))
    if min(values) <= 0:
        raise InvalidInput(f"{option} {','.join(given)} is not a list of rates", hint=f"write e.g. {option} 50,200")
    return values


def choices(given: Sequence[str], kind: type[Choice], option: str) -> tuple[Choice, ...]:
    """`grpc,http-binary` -> members of `kind`."""
    known = ", ".join(kind)
    for word in words(given):
        if word not in list(kind):
            raise InvalidInput(f"{option} has no '{word}'", hint=f"choose from {known}")
    return tuple(kind(word) for word in words(given))


def targets(given: Sequence[str]) -> tuple[Target, ...]:
    """`onnx,onnx:int8-static` -> targets."""
    from modelyard.domain.artifacts import Target

    return tuple(Target.parse(word) for word in words(given))


def size(text: str, option: str) -> int:
    """`2GiB`, `500MB`, `1048576` -> bytes."""
    from modelyard.domain.sizes import parse_size

    try:
        return parse_size(text)
    except InvalidInput as error:
        raise InvalidInput(f"{option}: {error}", hint=error.hint) from error


def ports(http: int, grpc: int) -> None:
    """Raise InvalidInput where both ports are the same one."""
    if http and http == grpc:
        raise InvalidInput(
            f"--port and --grpc-port are both {http}", hint="give two ports, or leave one out: a free one is taken"
        )


def shares(texts: list[str]) -> dict[str, float]:
    """`digits:4=0.1` of each --canary -> {"digits:4": 0.1}; shares are above 0 and at most 1."""
    found: dict[str, float] = {}
    for ref, text in (_pair(text, "--canary", "digits:4=0.1") for text in texts):
        share = float(text) if _SHARE.fullmatch(text) else 0.0
        if not 0.0 < share <= 1.0:
            raise InvalidInput(
                f"--canary {ref}={text}: '{text}' is not a share",
                hint="write a number above 0 and at most 1, e.g. --canary digits:4=0.1",
            )
        _once(found, ref, "--canary")
        found[ref] = share
    return found


def labels(texts: list[str]) -> dict[str, str]:
    """`next=digits:4` of each --label -> {"next": "digits:4"}."""
    from modelyard.domain.versions import check_name

    found: dict[str, str] = {}
    for name, ref in (_pair(text, "--label", "next=digits:4") for text in texts):
        _once(found, check_name(name, "label"), "--label")
        found[name] = ref
    return found


def knobs(texts: list[str]) -> dict[str, Knob]:
    """`initial=8`, `xi=0.01`, `kind=sobol` of each --set: whole numbers, other numbers, else words."""
    found: dict[str, Knob] = {}
    for name, text in (_pair(text, "--set", "initial=8") for text in texts):
        _once(found, name, "--set")
        found[name] = _knob(text)
    return found


def _knob(text: str) -> Knob:
    if re.fullmatch(r"[-+]?\d+", text):
        return int(text)
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) else text


def _pair(text: str, option: str, example: str) -> tuple[str, str]:
    left, equals, right = (part.strip() for part in text.rpartition("="))
    if not (left and equals and right):
        raise InvalidInput(f"{option} {text} has not two sides", hint=f"write e.g. {option} {example}")
    return left, right


def _once(found: Mapping[str, object], key: str, option: str) -> None:
    if key in found:
        raise InvalidInput(f"{option} {key} is given twice", hint="give it once")


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
