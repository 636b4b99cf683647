"""The real `yard tune` on a small XGBoost model: killed and gone on with, answered, deployed, reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from modelyard.domain.study import Study
from modelyard.domain.versions import ModelRef
from modelyard.hub import Hub
from tests import small_model
from tests.calibration import NewHome

PATIENCE_S = 240.0
CURVES = "work/curves"
SPACE = """
knobs:
  threads: {integer: [1, 2]}
  max_batch: {choice: [1, 8, 16]}
"""
TUNE = (
    *("tune", "small:1", "--space", "space.yaml", "--aim", "max throughput at 4 concurrent", "--strategy", "random"),
    *("--budget", "3", "--blocks", "2", "--duration", "0.3"),
)


@dataclass(frozen=True)
class Yard:
    """Runs `yard` as processes with a home of its own."""

    home: Path
    folder: Path

    def start(self, *argv: str) -> subprocess.Popen[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MODELYARD_")}
        return subprocess.Popen(
            [sys.executable, "-m", "modelyard", *argv],
            env={**kept, "MODELYARD_HOME": str(self.home), "COLUMNS": "100", "NO_COLOR": "1"},
            cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, *argv: str, code: int = 0) -> str:
        with self.start(*argv) as process:
            out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == code, f"exit {process.returncode}\n{out[-2000:]}\n{err[-4000:]}"
        return out if code == 0 else err

    def json(self, *argv: str) -> Any:
        return json.loads(self.run(*argv, "--json"))["data"]

    def hub(self) -> Hub:
        return Hub.open(f"sqlite:///{self.home}/hub.db", str(self.home / "blobs"), self.home / "test-cache")

    def studies(self) -> list[Study]:
        with self.hub() as hub:
            return hub.studies.list(ModelRef("small", version=1))

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.home) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, calibrated: NewHome) -> Iterator[Yard]:
    folder, home = tmp_path_factory.mktemp("model"), calibrated()
    small_model.write(folder)
    (folder / "space.yaml").write_text(SPACE)
    made = Yard(home, folder)
    made.run("register", "model.yaml")
    yield made
    made.run("services", "stop", "--all")


@pytest.fixture(scope="module")
def killed(yard: Yard) -> Study:
    """What the hub has of a study whose process, and all that it started, was killed after its first trial."""
    with yard.start(*TUNE) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not any(study.trials for study in yard.studies()):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline, "no trial has ended"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    (study,) = yard.studies()
    assert study.answer is None
    return study


@pytest.fixture(scope="module")
def answered(yard: Yard, killed: Study) -> Study:
    yard.run(*TUNE)
    (study,) = yard.studies()
    return study


def test_a_dry_run_keeps_nothing(yard: Yard) -> None:
    before = len(yard.studies())
    plan = yard.json(*TUNE, "--dry-run", "--seed", "9")
    assert (plan["size"], plan["study"]["budget"], plan["study"]["seed"]) == (6, 3, 9)
    assert plan["first"] is not None
    assert len(yard.studies()) == before


def test_what_is_wrong_in_a_space_names_its_file_and_line(yard: Yard) -> None:
    (yard.folder / "wrong.yaml").write_text("knobs:\n  thread: {integer: [1, 2]}\n  artifact: {choice: [onx]}\n")
    told = yard.run("tune", "small:1", "--space", "wrong.yaml", "--dry-run", code=2)
    assert "wrong.yaml:2: knobs.thread: no configuration has a knob 'thread'" in told
    assert "wrong.yaml:3: knobs.artifact: 'onx' is no artifact that can be served" in told


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--strategy", "bayes"), 5, "there is no strategy 'bayes'; did you mean 'bayesian'?"),
        (("--strategy", "tpe", "--set", "start=3"), 2, "the strategy 'tpe' has no option 'start'"),
    ],
)
def test_a_wrong_strategy_is_told_before_anything_is_calibrated(
    yard: Yard, tmp_path: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    new = Yard(tmp_path / "home", yard.folder)
    new.run("register", "model.yaml")
    assert told in new.run("tune", "small:1", *words, code=code)
    assert not (new.home / CURVES).exists()
    assert (yard.home / CURVES).exists()


def test_after_kill_9_the_same_command_goes_on_with_the_same_study(killed: Study, answered: Study) -> None:
    assert answered.id == killed.id
    assert answered.trials[: len(killed.trials)] == killed.trials
    assert sum(t.confirms is None for t in answered.trials) == 3
    assert len({t.point for t in answered.trials if t.confirms is None}) == 3
    assert answered.answer is not None


def test_the_same_command_again_measures_nothing(yard: Yard, answered: Study) -> None:
    found = yard.json(*TUNE)
    assert found["id"] == answered.id
    assert yard.studies() == [answered]


def test_what_was_found_is_deployed_as_it_was_measured(yard: Yard, answered: Study) -> None:
    assert answered.answer is not None
    best = next(t for t in answered.trials if t.number == answered.answer.best)
    assert best.result is not None
    measured = yard.json("measurements", "show", best.result.measurements[0])
    service = yard.json("deploy", "small:1", "--from-study", answered.id[:12])
    assert service["configuration"] == measured["configuration"]
    assert service["configuration"]["threads"] == best.point["threads"]
    assert service["configuration"]["batching"]["max_size"] == best.point["max_batch"]
    yard.run("services", "stop", "small")


def test_a_study_is_shown_listed_and_reported(yard: Yard, answered: Study) -> None:
    assert "Deploy it:" in yard.run("studies", "show", answered.id[:12])
    assert [s["id"] for s in yard.json("studies", "ls", "small")] == [answered.id]
    yard.run("studies", "show", answered.id, "--html", "study.html")
    assert "What was found" in (yard.folder / "study.html").read_text()


def test_nothing_of_a_killed_search_stays(yard: Yard, answered: Study) -> None:
    yard.run("gc")
    assert yard.processes() == []
    with yard.hub() as hub:
        for name in {m for trial in answered.trials if trial.result for m in trial.result.measurements}:
            assert hub.measurements.samples(hub.measurements.get(name)).stat().st_size


def test_what_nobody_can_meet_is_exit_code_4_and_cannot_be_deployed(yard: Yard) -> None:
    argv = list(TUNE)
    argv[argv.index("max throughput at 4 concurrent")] = "min cost under p99 <= 0.001 ms at 500 rps"
    yard.run(*argv, "--requests", "500", "--duration", "2", "--budget", "1", code=4)
    study = yard.studies()[-1]
    assert study.answer is not None
    assert study.answer.best is None
    assert study.id[:12] in yard.run("deploy", "small:1", "--from-study", study.id, code=4)
