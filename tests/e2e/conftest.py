"""The command line as a user runs it: a home of its own, examples trained once, nothing left running."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
Trained = Callable[[str], Path]
"""An example's manifest by its folder's name, once it is trained."""


def answer_of(curl: str) -> dict[str, np.ndarray]:
    done = subprocess.run(shlex.split(curl), capture_output=True, text=True, timeout=60, check=True)
    return {o["name"]: np.array(o["data"]).reshape(o["shape"]) for o in json.loads(done.stdout)["outputs"]}


@dataclass(frozen=True)
class YardCli:
    """Runs `yard` with a home of its own."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELYARD_")}
        return {**kept, "MODELYARD_HOME": str(self.home), "NO_COLOR": "1", "COLUMNS": "100"}

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "modelyard", *args]

    def run(self, *args: str, timeout_s: float = 280) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*args), env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def ok(self, *args: str) -> str:
        done = self.run(*args)
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def json(self, *args: str) -> Any:
        return json.loads(self.ok(*args, "--json"))["data"]

    def processes(self) -> list[psutil.Process]:
        """Every process of this home that exists."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.home) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[YardCli]:
    cli = YardCli(tmp_path / "home")
    yield cli
    cli.run("services", "stop", "--all")
    left = cli.processes()
    for process in left:
        process.kill()
    assert not left, f"left running: {left}"


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples; `trained` makes one ready."""
    folder = tmp_path_factory.mktemp("examples")
    ignored = shutil.ignore_patterns("*.pt2", "*.npz", "*.ubj", "*.skops", "*.safetensors", "__pycache__")
    shutil.copytree(EXAMPLES, folder / "examples", ignore=ignored)
    return folder / "examples"


@pytest.fixture(scope="session")
def trained(examples: Path) -> Any:
    """trained("digits") -> its manifest, after its training script has run once."""

    def train(name: str) -> Path:
        manifest = examples / name / "model.yaml"
        if not (examples / name / ".trained").exists():
            (script,) = [p for p in (examples / name / "train.py", examples / name / "make.py") if p.exists()]
            subprocess.run([sys.executable, str(script)], check=True, timeout=200)
            (examples / name / ".trained").touch()
        return manifest

    return train
