"""The real `yard profile`: a sweep that is killed, a trace, a scenario, cells that fail. No number is judged here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import small_model

PATIENCE_S = 120.0


@pytest.fixture
def registered(tmp_path: Path) -> dict[str, str]:
    """A home with a small model in it; the environment of `yard` there."""
    small_model.write(tmp_path)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MODELYARD_")}
    environment = {**kept, "MODELYARD_HOME": str(tmp_path / "home"), "COLUMNS": "100", "NO_COLOR": "1"}
    assert yard(environment, "register", str(tmp_path / "model.yaml")).returncode == 0
    return environment


def yard(environment: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modelyard", *argv]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)


def ids(environment: dict[str, str]) -> list[str]:
    return [m["id"] for m in json.loads(yard(environment, "measurements", "ls", "small", "--json").stdout)["data"]]


def test_a_sweep_killed_in_the_middle_goes_on_with_what_is_missing(registered, tmp_path):
    axes = ["--closed", "1,2,3", "--threads", "1,64"]
    # three blocks of a second each: a cell lasts longer than progress is silent, so that each cell is told
    length = ["--blocks", "3", "--duration", "1", "--requests", "1000000"]
    sweep = ["profile", "small", *axes, *length, "--json"]
    command = [sys.executable, "-m", "modelyard", *sweep]
    process = subprocess.Popen(command, env=registered, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = iter(process.stderr)
    told = [next(lines)]
    while "cell 2/3" not in told[-1]:
        told.append(next(lines))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    before = ids(registered)
    assert 1 <= len(before) < 3
    done = yard(registered, *sweep)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["data"]
    assert [m["workload"]["concurrency"] for m in measured] == [1, 2, 3]
    assert [m["id"] for m in measured[: len(before)]] == before
    assert sorted(ids(registered)) == sorted(m["id"] for m in measured)
    assert "skipped" in done.stderr  # 64 threads
    deadline = time.monotonic() + PATIENCE_S
    while _left(tmp_path):
        assert time.monotonic() < deadline, "a service of the killed sweep is still there"
        time.sleep(0.05)


def _left(tmp_path: Path) -> list[int]:
    home = str(tmp_path / "home")
    running = psutil.process_iter(["pid", "cmdline"])
    return [process.pid for process in running if home in " ".join(process.info["cmdline"] or ())]


def test_a_trace_is_replayed_from_a_file_and_again_without_it(registered, tmp_path):
    (tmp_path / "log.csv").write_text("id,timestamp\n" + "".join(f"{k},{1700000000 + k / 50}\n" for k in range(200)))
    argv = ("profile", "small", "--blocks", "2", "--requests", "60", "--json")
    first = yard(registered, *argv, "--trace", str(tmp_path / "log.csv"), "--rate", "25")
    assert first.returncode == 0, first.stderr
    assert "read as timestamps: 200 requests in 3.98 s" in first.stderr
    (measured,) = json.loads(first.stdout)["data"]
    assert measured["workload"]["rate_rps"] == 25
    assert measured["client"]["scheduled_rps"] == pytest.approx(25, rel=0.1)
    (tmp_path / "log.csv").unlink()
    digest = measured["workload"]["trace"]["digest"][:12]
    again = yard(registered, *argv, "--trace", digest, "--rate", "25")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["data"][0]["id"] == measured["id"]  # known, so reused
    gone = yard(registered, *argv, "--trace", str(tmp_path / "log.csv"))
    assert gone.returncode == 3
    shown = yard(registered, "measurements", "show", measured["id"])
    assert measured["workload"]["trace"]["digest"] in shown.stdout.replace("\n", "").replace(" ", "")


def test_a_scenario_names_its_number(registered):
    done = yard(registered, "profile", "small", "--scenario", "multi-stream", "--blocks", "2", "--requests", "400")
    assert done.returncode == 0, done.stderr
    assert "multi-stream: closed 1 x8 http-binary" in done.stdout
    text = " ".join(done.stdout.split())
    assert "early stopping: p99 <= " in text
    assert "at 99% confidence" in text


def test_a_sweep_whose_cells_fail_is_exit_code_1_with_each_of_them(registered):
    done = yard(registered, "profile", "small", "--device", "gpu:63", "--closed", "1,2", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["data"] == []
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["what"] == "2 of 2 cells failed"
    assert "gpu:63" in error["why"]
    assert done.stderr.count(": starting ") == 1  # it does not start for the second load either
