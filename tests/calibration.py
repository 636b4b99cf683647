"""The server's own cost on this machine, measured once for all tests that search: each home of its own would again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

import modelyard
from modelyard.domain.workload import Protocol
from modelyard.workflow.progress import silent

NewHome: TypeAlias = Callable[[], Path]


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> NewHome:
    """Makes homes that know what the server costs over http-binary, and nothing else."""
    with modelyard.open(modelyard.Settings.read({}, home=tmp_path_factory.mktemp("calibrated"))) as yard:
        yard.tuning.predicting.simulating.overhead([Protocol.HTTP_BINARY], silent)
        known, home = yard.profiling.work_dir / "curves", yard.settings.home

        def new() -> Path:
            made = tmp_path_factory.mktemp("home")
            shutil.copytree(known, made / known.relative_to(home))
            return made

        return new
