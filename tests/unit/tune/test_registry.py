"""Strategies by name, their options, and plug-ins."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

import pytest

from modelyard.domain.errors import Conflict, InvalidInput, Unsupported
from modelyard.domain.study import Knob
from modelyard.tune.ports import Kind
from modelyard.tune.strategies import DEFAULT, ENTRY_POINTS, Strategies
from modelyard.tune.strategies.grid import GRID, Grid
from modelyard.tune.strategies.registry import read_options
from tests.unit.tune import scripted

SEARCH = scripted.search(scripted.TINY, scripted.FAST)


def test_the_design_s_strategies_are_there() -> None:
    names = {kind.name for kind in Strategies.discover()}
    assert names >= {"simulate-verify", "grid", "random", "epsilon-greedy", "bayesian", "tpe"}
    assert DEFAULT == "simulate-verify"


def test_an_unknown_strategy_is_told_with_the_nearest() -> None:
    with pytest.raises(Unsupported, match="no strategy 'baysian'; did you mean 'bayesian'"):
        Strategies.discover().make("baysian", SEARCH)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("bayesian", {"initail": 3}, "no option 'initail'; did you mean 'initial'"),
        ("random", {"levels": 3}, "the strategy 'random' has no option 'levels'; it has none"),
        ("grid", {"levels": "many"}, "'levels' of the strategy 'grid' is a whole number, not 'many'"),
        ("grid", {"levels": 2.5}, "is a whole number"),
        ("grid", {"levels": 0}, "at least one level"),
        ("epsilon-greedy", {"epsilon": 1.5}, "epsilon is from 0 to 1"),
        ("bayesian", {"xi": -1}, "at least 0"),
        ("tpe", {"startup": 0}, "at least 1"),
    ],
)
def test_wrong_options_are_told(name: str, options: dict[str, Knob], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Strategies.discover().make(name, SEARCH, options)


def test_a_whole_number_will_do_for_a_number() -> None:
    kind = Strategies.discover().get("epsilon-greedy")
    assert read_options(kind, {"epsilon": 1, "decay": 0.5}) == kind.options(epsilon=1.0, decay=0.5)


@dataclass(frozen=True)
class Entry:
    """An entry point of an installed package."""

    name: str
    found: object

    def load(self) -> object:
        if isinstance(self.found, Exception):
            raise self.found
        return lambda: self.found


def test_packages_add_strategies_and_broken_ones_are_told_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [Entry("mine", Kind("mine", GRID.options, Grid)), Entry("bad", ImportError("no module named x"))]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries if group == ENTRY_POINTS else [])
    found = Strategies.discover()
    assert isinstance(found.make("mine", SEARCH), Grid)
    with pytest.raises(Unsupported, match="'bad' cannot be imported: ImportError: no module named x"):
        found.get("bad")
    assert found.get("grid") is GRID


def test_two_strategies_of_one_name_are_a_conflict() -> None:
    with pytest.raises(Conflict, match="two strategies are named 'grid'"):
        Strategies([GRID, GRID])
