"""Servers under test as processes: all found, frozen, ended; reasons told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bench.serving.processes import Server, ServerDied, end_leftovers

ROOT = Path(__file__).parents[3]

# a parent whose child starts a session of its own, as some peers' workers do, and outlives it
DETACHED = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"], start_new_session=True)
time.sleep(60)
"""


def started(folder: Path) -> Server:
    server = Server([[sys.executable, "-c", DETACHED]], {}, folder)
    while "up" not in (folder / "server.log").read_text():
        server.check()
    return server


def until(holds: Callable[[], bool]) -> None:
    """The kernel delivers signals in its own time; a state that never comes is the test's timeout."""
    while not holds():
        pass


def test_a_detached_worker_belongs_to_its_server_and_ends_with_it(tmp_path: Path) -> None:
    server = started(tmp_path)
    processes = server.processes()
    assert len(processes) == 2
    server.end()
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def test_a_frozen_server_is_stopped_in_all_its_processes_until_it_is_thawed(tmp_path: Path) -> None:
    server = started(tmp_path)
    try:
        server.freeze()
        until(lambda: {p.status() for p in server.processes()} == {psutil.STATUS_STOPPED})
        server.thaw()
        until(lambda: psutil.STATUS_STOPPED not in {p.status() for p in server.processes()})
    finally:
        server.end()


def test_memory_and_cpu_are_those_of_all_processes(tmp_path: Path) -> None:
    server = started(tmp_path)
    try:
        rss, pss = server.memory_bytes()
        assert rss >= sum(p.memory_info().rss for p in server.processes()) * 0.9
        assert 0 < pss <= rss
        until(lambda: server.cpu_s() > 0)  # the kernel counts in steps of 10 ms
    finally:
        server.end()


def test_a_server_that_ends_tells_its_last_error(tmp_path: Path) -> None:
    server = Server([[sys.executable, "-c", "print('hello'); raise ValueError('no model there')"]], {}, tmp_path)
    server._children[0].wait()
    with pytest.raises(ServerDied, match="exit code 1: ValueError: no model there"):
        server.check()
    server.end()


def test_what_a_killed_run_left_is_found_and_ended_and_nothing_else(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from bench.serving.processes import Server
import os, signal
server = Server([["sleep", "60"]], {{}}, Path({str(tmp_path)!r}))
server.freeze()
print(server.processes()[0].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    left = psutil.Process(int(run.stdout))
    other = started(tmp_path)
    try:
        until(lambda: left.status() == psutil.STATUS_STOPPED)
        assert end_leftovers() >= 1
        until(lambda: not left.is_running() or left.status() == psutil.STATUS_ZOMBIE)
        assert len(other.processes()) == 2
    finally:
        other.end()


def test_a_server_settles_when_its_work_is_done(tmp_path: Path) -> None:
    busy = "import time\nprint('up', flush=True)\nwhile time.process_time() < 0.5: pass\ntime.sleep(60)"
    server = Server([[sys.executable, "-c", busy]], {}, tmp_path)
    try:
        until(lambda: "up" in (tmp_path / "server.log").read_text())
        server.settle()
        assert server.cpu_s() >= 0.5 - 0.02  # the kernel counts in steps of 10 ms
    finally:
        server.end()
