"""`yard tune` on the digits example: one artifact does not start, what was found is deployed, the highest rate."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modelyard.domain.study import Study, TrialState
from modelyard.domain.versions import ModelRef
from modelyard.hub import Hub
from tests.calibration import NewHome

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
PATIENCE_S = 240.0
FITS_ONE = """
knobs:
  artifact: {choice: [pytorch-exported, onnx]}
  threads: {choice: [1]}
  memory_mb: {choice: [200]}
"""
"""Too little for PyTorch, which takes twice as much to start, and enough for ONNX Runtime, which takes half."""
ONE_POINT = """
knobs:
  artifact: {choice: [onnx]}
  threads: {choice: [1]}
"""
SHORT = ("--strategy", "grid", "--blocks", "2", "--duration", "0.2")


@dataclass(frozen=True)
class Yard:
    """Runs `yard` as processes with a home of its own."""

    home: Path
    folder: Path

    def run(self, *argv: str, code: int = 0) -> str:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MODELYARD_")}
        done = subprocess.run(
            [sys.executable, "-m", "modelyard", *argv],
            env={**kept, "MODELYARD_HOME": str(self.home), "COLUMNS": "100", "NO_COLOR": "1"},
            cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout if code in (0, 4) else done.stderr

    def json(self, *argv: str) -> Any:
        return json.loads(self.run(*argv, "--json"))["data"]

    def space(self, text: str) -> str:
        (self.folder / "space.yaml").write_text(text)
        return "space.yaml"

    def study(self) -> Study:
        """The newest."""
        with Hub.open(f"sqlite:///{self.home}/hub.db", str(self.home / "blobs"), self.home / "test-cache") as hub:
            return hub.studies.list(ModelRef("digits", version=1))[-1]


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, calibrated: NewHome) -> Iterator[Yard]:
    folder = tmp_path_factory.mktemp("digits")
    shutil.copy(EXAMPLE / "train.py", folder)
    lines = (EXAMPLE / "model.yaml").read_text().splitlines()
    (folder / "model.yaml").write_text("\n".join(line for line in lines if not line.startswith("metrics:")))
    train = [sys.executable, "-c", "import train; train.EPOCHS = 1; train.main()"]  # speed asks for no accuracy
    subprocess.run(train, cwd=folder, check=True, capture_output=True, timeout=PATIENCE_S)
    made = Yard(calibrated(), folder)
    made.run("register", "model.yaml")
    made.run("convert", "digits:1", "--to", "onnx")
    yield made
    made.run("services", "stop", "--all")


@pytest.fixture(scope="module")
def study(yard: Yard) -> Study:
    aim = ("--aim", "max throughput at 4 concurrent")
    yard.run("tune", "digits", *aim, *SHORT, "--budget", "2", "--space", yard.space(FITS_ONE))
    return yard.study()


def test_an_artifact_that_does_not_start_is_a_trial_and_not_the_end(study: Study) -> None:
    lost, measured, *confirmed = study.trials
    assert (lost.point["artifact"], lost.state) == ("pytorch-exported", TrialState.FAILED)
    assert "memory limit" in lost.detail
    assert (measured.point["artifact"], measured.state) == ("onnx", TrialState.MEASURED)
    assert [t.confirms for t in confirmed] == [measured.number], "the default did not run, so it is not compared with"
    assert study.answer is not None
    assert study.answer.best == confirmed[0].number


def test_every_trial_says_what_was_expected_of_it(study: Study) -> None:
    assert all(t.prediction is not None for t in study.trials)
    assert study.answer is not None
    assert set(study.answer.prediction_error) == {"throughput", "p99"}


def test_each_trial_is_in_the_hub_with_its_measurement(yard: Yard, study: Study) -> None:
    kept = {m["id"] for m in yard.json("measurements", "ls", "digits")}
    named = [t.result.measurements for t in study.trials if t.result is not None]
    assert {name for names in named for name in names} == kept
    assert len(kept) == 2


def test_what_was_found_or_chosen_is_deployed(yard: Yard, study: Study) -> None:
    service = yard.json("deploy", "digits:1", "--from-study", study.id)
    assert service["configuration"]["target"] == {"format": "onnx", "variant": ""}
    assert service["configuration"]["memory_limit_bytes"] == 200 * 2**20
    same = yard.json("deploy", "digits:1", "--from-study", study.id, "--trial", "2", "--name", "second")
    assert same["configuration"] == service["configuration"]


def test_the_highest_rate_is_searched_with_the_blocks_asked_for(yard: Yard) -> None:
    aim = ("--aim", "max rate under p99 <= 2000 ms", "--requests", "300")
    yard.run("tune", "digits", *aim, *SHORT, "--budget", "1", "--space", yard.space(ONE_POINT))
    study = yard.study()
    measured = {m["id"]: m for m in yard.json("measurements", "ls", "digits")}
    tried = [measured[name] for t in study.trials if t.result for name in t.result.measurements]
    assert {m["workload"]["blocks"] for m in tried} == {2}
    assert max(m["workload"]["requests"] / (m["workload"]["rate_rps"] or 1e9) for m in tried) < 1.0
    best = next(t for t in study.trials if study.answer and t.number == study.answer.best)
    assert best.result is not None
    rates = {m["workload"]["rate_rps"] for m in tried if m["id"] in best.result.measurements}
    assert float(f"{best.result.values[0].value:.4g}") in rates
