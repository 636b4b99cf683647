"""What is wrong with a manifest: each problem names its key, its line and what was expected; all are told together."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from modelyard.domain.errors import InvalidInput, ModelyardError

KeyPath: TypeAlias = tuple[str | int, ...]

_EXPECTED = {
    "string_type": "expected a text",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "list_type": "expected a list",
    "dict_type": "expected a mapping of keys to values",
    "model_type": "expected a mapping of keys to values",
    "model_attributes_type": "expected a mapping of keys to values",
    "finite_number": "expected a finite number",
}


@dataclass
class Problems:
    """Collects problems of one file; `raise_if_any` tells them all in one InvalidInput, in the file's order.

    `check` is the command that checks the file again; empty: that of a manifest.
    """

    source_name: str
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    paths: set[KeyPath] = field(default_factory=set)
    _found: list[tuple[int, str]] = field(default_factory=list)
    check: str = ""

    def add(self, path: KeyPath, message: str, *, line: int | None = None) -> None:
        """Note that the value at `path` is wrong; `message` says what was expected."""
        self.paths.add(path)
        at = line if line is not None else self._line(path)
        text = f"{self.source_name}:{at}: {spell(path)}: {message}" if path else f"{self.source_name}:{at}: {message}"
        if (at, text) not in self._found:
            self._found.append((at, text))

    def add_error(self, path: KeyPath, error: ModelyardError) -> None:
        """Note a domain error raised while the value at `path` was checked."""
        self.add(path, f"{error} ({error.hint})" if error.hint else str(error))

    def add_validation(self, prefix: KeyPath, model: type[BaseModel], error: ValidationError) -> None:
        """Note everything pydantic found in the mapping at `prefix`, in the manifest's own words."""
        for detail in error.errors(include_url=False):
            path = (*prefix, *detail["loc"])
            self.add(path, _message(model, detail))

    def __bool__(self) -> bool:
        return bool(self._found)

    def raise_if_any(self) -> None:
        """Raise InvalidInput with every problem found so far. Does nothing where there is none."""
        if not self._found:
            return
        count = len(self._found)
        raise InvalidInput(
            f"{self.source_name} has {count} problem{'s' if count > 1 else ''}",
            why="\n".join(text for _, text in sorted(self._found, key=lambda found: found[0])),
            hint=f"correct {'these lines' if count > 1 else 'this line'}, "
            f"then check with: {self.check or f'yard register {self.source_name} --dry-run'}",
        )

    def _line(self, path: KeyPath) -> int:
        """The line of the deepest part of `path` that stands in the file."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 1


def spell(path: KeyPath) -> str:
    """Write a key path as a user would: `inputs[0].shape`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known word that `word` resembles most, else the list of known ones."""
    known = list(known)
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
    return f"; did you mean '{folded[close[0]]}'?" if close else f"; expected one of {', '.join(known)}"


def describe(value: object) -> str:
    """Name a YAML value in an error message, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = str(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"'{text}'" if isinstance(value, str) else text


def _message(model: type[BaseModel], detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "extra_forbidden":
        owner = _model_at(model, detail["loc"][:-1])
        return "unknown key" + nearest(str(detail["loc"][-1]), keys_of(owner))
    if kind == "missing":
        return "this key is required"
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    expected = _EXPECTED.get(kind, detail["msg"][:1].lower() + detail["msg"][1:])
    if kind == "string_type" and isinstance(detail["input"], (int, float)):
        return f"{expected}, got {describe(detail['input'])} (put it in quotes)"
    return f"{expected}, got {describe(detail['input'])}"


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys a mapping of this model may have, as written in the manifest."""
    return [info.alias or name for name, info in model.model_fields.items()]


def _model_at(model: type[BaseModel], loc: KeyPath) -> type[BaseModel]:
    """Follow `loc` from `model` to the nested model that it names."""
    for part in loc:
        if isinstance(part, int):
            continue
        info = next((i for n, i in model.model_fields.items() if part in (n, i.alias)), None)
        nested = _model_in(info.annotation) if info else None
        if nested is None:
            break
        model = nested
    return model


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
