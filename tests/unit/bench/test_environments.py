"""Environments of the peers: made from what is pinned, not made twice."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from bench.serving.environments import CannotInstall, python_of
from bench.serving.systems import SYSTEMS


def test_an_environment_with_the_same_requirements_is_used_as_it_is(tmp_path: Path) -> None:
    python = tmp_path / "peer" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("not even a program")
    (tmp_path / "peer" / "requirements.txt").write_text("a==1\nb==2\n")
    assert python_of(tmp_path, "peer", ("a==1", "b==2")) == str(python)
    assert python.read_text() == "not even a program"


def test_an_environment_that_cannot_be_made_says_why_and_is_not_taken_for_made(tmp_path: Path) -> None:
    with pytest.raises(CannotInstall, match="Invalid requirement"):
        python_of(tmp_path, "peer", ("not a requirement",))
    assert not (tmp_path / "peer" / "requirements.txt").exists()


def test_a_system_without_requirements_runs_here(tmp_path: Path) -> None:
    assert python_of(tmp_path, "modelyard", ()) == sys.executable


@pytest.mark.parametrize("name", SYSTEMS)
def test_requirements_are_pinned(name: str) -> None:
    for requirement in SYSTEMS[name].requirements:
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z]+\])?==[0-9][0-9.]*", requirement), requirement
