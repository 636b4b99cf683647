"""A space's YAML document: read with the line of every mistake, and written back."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from modelyard.domain.errors import InvalidInput, ModelyardError
from modelyard.domain.study import Knob
from modelyard.manifest import yaml_text
from modelyard.manifest.problems import KeyPath, Problems, describe, nearest
from modelyard.manifest.yaml_text import Plain
from modelyard.tune.expressions import Constraint, Expression
from modelyard.tune.knobs import Choice, Dimension, Integer, Real, When

RESERVED: Final = frozenset([*keyword.kwlist, "min", "max"])
"""Words that an expression reads as something else than a name."""

Parts: TypeAlias = tuple[dict[str, Dimension], list[str], dict[str, Knob]]
"""Knobs, constraints and constants: what a Space is made of."""

_SECTIONS: Final = ("knobs", "constraints", "constants")
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "integer": ("integer", "log2", "step", "when"),
    "real": ("real", "log", "step", "when"),
    "choice": ("choice", "when"),
}
_HINT: Final = "write integer: [1, 8], real: [0.3, 0.9] or choice: [onnx, openvino]"


def problems(name: str) -> Problems:
    """Collects what is wrong with the space of that name, its file's where it has one."""
    return Problems(name, check="yard tune REF --space FILE --dry-run")


def located(text: str, name: str) -> Problems:
    """Collects what is wrong with the space in a text that was read before; knows its lines."""
    found = problems(name)
    yaml_text.read(text, found)
    return found


def read(text: str, constants: dict[str, Knob], problems: Problems) -> Parts:
    """The parts of the space in a YAML text. Raises InvalidInput with every problem found, each with its line.

    `problems` then knows the lines, for what is found later.
    """
    value = yaml_text.read(text, problems).value
    problems.raise_if_any()
    if not isinstance(value, dict):
        raise InvalidInput(
            f"{problems.source_name} is not a space", why=f"it is {describe(value)}", hint="it needs a key 'knobs'"
        )
    for key in value:
        if key not in _SECTIONS:
            problems.add((key,), "unknown key" + nearest(key, _SECTIONS))
    reader = _Reader(problems, constants)
    reader.hide_constants(value.get("knobs"))
    reader.read_constants(value.get("constants"))
    knobs = reader.knobs(value.get("knobs"))
    constraints = reader.constraints(value.get("constraints"), reader.names | frozenset(reader.constants))
    problems.raise_if_any()
    return knobs, constraints, reader.constants


def write(knobs: Mapping[str, Dimension], constraints: Sequence[str], constants: Mapping[str, Knob]) -> str:
    """The space as YAML text, a line for each knob."""
    flow = yaml_text.flow
    lines = ["knobs:", *(f"  {flow(name)}: {flow(_plain(knob))}" for name, knob in knobs.items())]
    if constraints:
        lines += ["constraints:", *(f"  - {flow(text)}" for text in constraints)]
    if constants:
        lines += ["constants:", *(f"  {flow(name)}: {flow(value)}" for name, value in constants.items())]
    return "\n".join(lines) + "\n"


def _plain(knob: Dimension) -> dict[str, Plain]:
    found: dict[str, Plain]
    match knob:
        case Integer():
            found = {"integer": [knob.low, knob.high]}
            found |= {"log2": True} if knob.log2 else {}
            found |= {"step": knob.step} if knob.step != 1 else {}
        case Real():
            found = {"real": [float(knob.low), float(knob.high)]}
            found |= {"log": True} if knob.log else {}
            found |= {"step": float(knob.step)} if knob.step is not None else {}
        case Choice():
            found = {"choice": list(knob.values)}
    if knob.when:
        found["when"] = {name: list(values) for name, values in knob.when.items()}
    return found


class _Reader:
    """Walks the document; what is wrong goes to `problems`."""

    def __init__(self, problems: Problems, constants: dict[str, Knob]) -> None:
        self._problems = problems
        self.constants = constants
        self.names: frozenset[str] = frozenset()
        """Of all knobs, those that could not be read included: what names them is not wrong too."""

    def hide_constants(self, knobs: Plain) -> None:
        """A knob of the document hides a constant of the caller's that has its name."""
        for name in knobs if isinstance(knobs, dict) else ():
            self.constants.pop(name, None)

    def read_constants(self, value: Plain) -> None:
        """Those of the document come before those given by the caller."""
        for name, constant in self._mapping(value, "constants").items():
            if isinstance(constant, bool) or not isinstance(constant, int | float | str):
                self._problems.add(("constants", name), f"expected a number or a text, got {describe(constant)}")
            else:
                self.constants[name] = constant

    def knobs(self, value: Plain) -> dict[str, Dimension]:
        if not value:
            self._problems.add(("knobs",), "a space needs knobs: a mapping of their names to what they may be")
        found: dict[str, Dimension] = {}
        self.names = frozenset(self._mapping(value, "knobs"))
        for name, given in self._mapping(value, "knobs").items():
            path: KeyPath = ("knobs", name)
            if not isinstance(given, dict):
                self._problems.add(path, f"expected a mapping, got {describe(given)} ({_HINT})")
                continue
            try:
                found[name] = self._knob(path, given)
            except ModelyardError as error:
                self._problems.add_error(path, error)
        return found

    def constraints(self, value: Plain, known: frozenset[str]) -> list[str]:
        if value is None:
            return []
        if not isinstance(value, list):
            self._problems.add(("constraints",), f"expected a list, got {describe(value)}")
            return []
        for i, text in enumerate(value):
            try:
                Constraint.parse(_text(text), known)
            except ModelyardError as error:
                self._problems.add_error(("constraints", i), error)
        return [text for text in value if isinstance(text, str)]

    def _knob(self, path: KeyPath, given: dict[str, Plain]) -> Dimension:
        kinds = [kind for kind in _KEYS if kind in given]
        if len(kinds) != 1:
            raise InvalidInput("expected one of integer, real, choice", hint=_HINT)
        kind = kinds[0]
        for key in given:
            if key not in _KEYS[kind]:
                self._problems.add((*path, key), "unknown key" + nearest(key, _KEYS[kind]))
        when = self._when((*path, "when"), given.get("when"))
        if kind == "choice":
            return Choice(_values(given["choice"]), when)
        low, high = self._bounds(kind, given[kind])
        if kind == "real":
            step = given.get("step")
            return Real(low, high, None if step is None else _real(step), _flag(given.get("log")), when)
        return Integer(_whole(low), _whole(high), _flag(given.get("log2")), _whole(given.get("step", 1)), when)

    def _bounds(self, kind: str, value: Plain) -> tuple[float, float]:
        if not isinstance(value, list) or len(value) != 2:
            raise InvalidInput(f"expected two bounds, got {describe(value)}", hint=f"write {kind}: [1, 8]")
        return self._bound(value[0]), self._bound(value[1])

    def _bound(self, value: Plain) -> float:
        """A bound is a number, or an expression over constants: `[1, cores]`."""
        if isinstance(value, str):
            given = Expression.parse(value, frozenset(self.constants)).value(self.constants)
            if isinstance(given, str | bool):
                raise InvalidInput(f"the bound '{value}' is no number")
            return given
        return _real(value)

    def _when(self, path: KeyPath, value: Plain) -> When:
        found: dict[str, tuple[Knob, ...]] = {}
        if value is None:
            return found
        if not isinstance(value, dict):
            raise InvalidInput(f"'when' needs a mapping, got {describe(value)}", hint="write when: {artifact: [onnx]}")
        for name, wanted in value.items():
            try:
                found[name] = _values(wanted if isinstance(wanted, list) else [wanted])
            except ModelyardError as error:
                self._problems.add_error((*path, name), error)
        return found

    def _mapping(self, value: Plain, key: str) -> dict[str, Plain]:
        if value is None or isinstance(value, dict):
            return value or {}
        self._problems.add((key,), f"expected a mapping, got {describe(value)}")
        return {}


def _values(value: Plain) -> tuple[Knob, ...]:
    if not isinstance(value, list):
        raise InvalidInput(f"expected a list of values, got {describe(value)}")
    found: list[Knob] = []
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int | float | str):
            raise InvalidInput(f"expected texts or numbers, got {describe(item)}", hint="put it in quotes")
        found.append(item)
    return tuple(found)


def _text(value: Plain) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"expected a condition, got {describe(value)}")
    return value


def _real(value: Plain) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"expected a number, got {describe(value)}")
    return value


def _whole(value: Plain) -> int:
    found = _real(value)
    if isinstance(found, float) and not found.is_integer():
        raise InvalidInput(f"expected a whole number, got {found:g}")
    return int(found)


def _flag(value: Plain) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise InvalidInput(f"expected true or false, got {describe(value)}")
