"""docs/tuning.md in lockstep with spaces, aims, strategies and standings."""

from __future__ import annotations

import re
import textwrap
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from modelyard.domain.study import Aim, Goal, Standing
from modelyard.tune.space import Space
from modelyard.tune.strategies.registry import built_in
from modelyard.workflow.spaces import KNOBS

PAGE = (Path(__file__).parents[3] / "docs" / "tuning.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]


def test_every_option_is_documented_with_its_default_and_no_other() -> None:
    written = {(row[1].strip("`"), row[0].strip("`")): row[2] for row in ROWS if len(row) == 4}
    written.pop(("of", "option"))
    known = {
        (kind.name, f.name): str(f.default) for kind in built_in() for f in fields(kind.options) if f.default != MISSING
    }
    assert written == known


def test_every_strategy_standing_and_knob_is_documented() -> None:
    first = {word for row in ROWS for word in re.findall(r"`([^`]+)`", row[0])}
    assert {kind.name for kind in built_in()} <= first
    assert {str(standing) for standing in Standing} <= first
    assert set(KNOBS) <= first


def test_the_aims_of_the_page_are_read_and_all_goals_are_shown() -> None:
    aims = [Aim.parse(row[0].strip("`")) for row in ROWS if re.match(r"`(min|max) ", row[0])]
    assert {o.goal for aim in aims for o in aim.objectives} == set(Goal)
    assert [str(aim) for aim in aims] == [row[0].strip("`") for row in ROWS if re.match(r"`(min|max) ", row[0])]


def test_the_space_of_the_page_is_read() -> None:
    block = re.search(r"^    knobs:\n(?:    .*\n)+", PAGE, re.MULTILINE)
    assert block is not None
    space = Space.parse(textwrap.dedent(block[0]), {"cores": 4, "memory": 4000})
    assert set(space.knobs) <= set(KNOBS)


@pytest.mark.parametrize("row", [row for row in ROWS if re.match(r"`(integer|real|choice):", row[0])], ids=str)
def test_the_knobs_of_the_page_are_read(row: list[str]) -> None:
    keys = ", ".join(re.findall(r"`([^`]+)`", row[0]))
    levels = Space.parse(f"knobs: {{k: {{{keys}}}}}").knobs["k"].levels
    named = re.match(r"([\d, ]+?)(?:, \.\.\. (\d+))?:", row[1])
    if named:
        assert levels is not None
        assert [str(x) for x in levels][: named[1].count(",") + 1] == named[1].split(", ")
