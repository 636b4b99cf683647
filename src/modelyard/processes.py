"""Trees of processes and their memory, read from /proc: cheap enough to be asked beside what is measured.

A walk over all processes of the machine, as `psutil.Process.children` makes it, takes 0.5 ms with 60 of them and grows
with their number; asked ten times a second it was the p99 of a service of 0.2 ms that shared its core.
"""

from __future__ import annotations

import os
import resource
from functools import cache
from pathlib import Path
from typing import Final

import psutil

_PAGE: Final = resource.getpagesize()


def process_tree(pid: int) -> list[int]:
    """`pid` and all its descendants that live now; `pid` alone once it is gone."""
    if not _lists_children():
        return _by_parents(pid)
    found, queue = [], [pid]
    while queue:
        current = queue.pop()
        found.append(current)
        for task in tasks(current):
            try:
                queue += map(int, Path(f"/proc/{current}/task/{task}/children").read_bytes().split())
            except OSError:  # the thread has ended
                continue
    return found


def tasks(pid: int) -> list[int]:
    """Ids of a process's threads; none once it is gone."""
    try:
        return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 once it is gone. Shared pages count in every process that has them."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


@cache
def _lists_children() -> bool:
    """Whether the kernel was built to (CONFIG_PROC_CHILDREN)."""
    return Path(f"/proc/self/task/{os.getpid()}/children").exists()


def _by_parents(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [pid]
