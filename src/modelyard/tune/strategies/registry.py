"""All strategies by name: the built-in ones, and what other packages register under the entry points group."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Final, get_type_hints

from modelyard.domain.errors import Conflict, InvalidInput, Unsupported
from modelyard.domain.study import Knob
from modelyard.manifest.problems import nearest
from modelyard.tune.ports import Kind, Search, Strategy
from modelyard.tune.simulate_verify import SIMULATE_VERIFY
from modelyard.tune.strategies.bayesian import BAYESIAN
from modelyard.tune.strategies.epsilon_greedy import EPSILON_GREEDY
from modelyard.tune.strategies.grid import GRID
from modelyard.tune.strategies.random_search import RANDOM
from modelyard.tune.strategies.tpe import TPE

ENTRY_POINTS: Final = "modelyard.strategies"
"""Group of entry points whose objects, called without arguments, give a Kind."""

DEFAULT: Final = SIMULATE_VERIFY.name
"""The strategy of a search that names none."""


class Strategies:
    """The strategies this installation knows."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._by_name: dict[str, Kind] = {}
        self._broken: dict[str, str] = {}
        for kind in kinds:
            if kind.name in self._by_name:
                raise Conflict(
                    f"two strategies are named '{kind.name}'",
                    hint=f"uninstall the package that registers it under {ENTRY_POINTS}",
                )
            self._by_name[kind.name] = kind

    @classmethod
    def discover(cls) -> Strategies:
        """The built-in strategies and those of installed packages; one that cannot be imported is an error when it is
        asked for, so that the others keep working."""
        plugins, broken = [], {}
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
            try:
                kind: Kind = entry.load()()
            except Exception as error:  # noqa: BLE001 - boundary to foreign code: a plug-in's import may raise anything
                broken[entry.name] = f"{type(error).__name__}: {error}"
            else:
                plugins.append(kind)
        found = cls([*built_in(), *plugins])
        found._broken = broken
        return found

    def get(self, name: str) -> Kind:
        """The strategy of that name. Raises Unsupported naming the nearest."""
        if name in self._broken:
            raise Unsupported(f"the strategy '{name}' cannot be imported", why=self._broken[name])
        if name not in self._by_name:
            raise Unsupported(f"there is no strategy '{name}'" + nearest(name, self._by_name))
        return self._by_name[name]

    def check(self, name: str, options: Mapping[str, Knob]) -> None:
        """Raise what `make` would of a name or of options, without a search."""
        read_options(self.get(name), options)

    def make(self, name: str, search: Search, options: Mapping[str, Knob] | None = None) -> Strategy:
        """The strategy for a search. Raises Unsupported for an unknown name, InvalidInput for wrong options."""
        kind = self.get(name)
        return kind.make(search, read_options(kind, options or {}))

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._by_name.values())


def built_in() -> list[Kind]:
    """Those that come with this package."""
    return [SIMULATE_VERIFY, GRID, RANDOM, EPSILON_GREEDY, BAYESIAN, TPE]


def read_options(kind: Kind, options: Mapping[str, Knob]) -> object:
    """The typed settings of a strategy. Raises InvalidInput for an unknown option or a value of another type."""
    types = get_type_hints(kind.options)
    known = [f.name for f in fields(kind.options)]
    typed: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            wrong = nearest(name, known) if known else "; it has none"
            raise InvalidInput(f"the strategy '{kind.name}' has no option '{name}'{wrong}")
        typed[name] = _typed(kind, name, value, types[name])
    made: object = kind.options(**typed)
    return made


def _typed(kind: Kind, name: str, value: Knob, wanted: type) -> Knob:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, wanted) and not isinstance(value, bool):
        return value
    words = {int: "a whole number", float: "a number", str: "a text"}.get(wanted, "something else")
    raise InvalidInput(f"the option '{name}' of the strategy '{kind.name}' is {words}, not '{value}'")
