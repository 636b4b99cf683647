"""One measurement at a time on this machine: two at once would measure each other."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.2


@contextmanager
def alone(lock: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file while the block runs; wait, and say so once, while another process holds it.

    The lock goes with its process, so a killed one leaves none behind.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        told = False
        while not _taken(file.fileno()):
            if not told:
                file.seek(0)
                report(f"waiting: process {file.read().strip() or '?'} is measuring on this machine")
                told = True
            time.sleep(POLL_S)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def free(lock: Path) -> bool:
    """Whether nobody measures now."""
    try:
        with lock.open("a+") as file:
            return _taken(file.fileno())
    except FileNotFoundError:
        return True


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
