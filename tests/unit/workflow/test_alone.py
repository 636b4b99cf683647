"""Two measurements never run at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from modelyard.workflow.alone import alone, free

HOLDER = """
import sys
from pathlib import Path
from modelyard.workflow.alone import alone
with alone(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_waits_and_says_for_whom(tmp_path: Path) -> None:
    lock = tmp_path / "work" / "measuring.lock"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert not free(lock)
    told: list[str] = []

    def tell(message: str) -> None:
        told.append(message)
        holder.stdin.close()  # type: ignore[union-attr]

    with alone(lock, tell):
        assert told == [f"waiting: process {holder.pid} is measuring on this machine"]
        assert lock.read_text() == str(os.getpid())
    assert holder.wait(30) == 0
    assert free(lock)


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    lock = tmp_path / "measuring.lock"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait(30)
    told: list[str] = []
    with alone(lock, told.append):
        assert told == []
