"""How much memory the process of a model has and may have.

RLIMIT_AS is no option: frameworks reserve tens of GiB of address space that they never touch. RLIMIT_DATA counts only
private writable memory (since Linux 4.7, setrlimit(2)), so what exceeds it is refused at once and inside the process:
the model fails with out of memory, or dies. Resident memory is watched besides, for what the limit does not count.
"""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path
from typing import Final, Protocol

from modelyard.processes import resident_bytes
from modelyard.serving.instances.watchdog import Watchdog

_SHARE: Final = 0.9
"""Of the replica's memory limit, what it and its models' processes may use: at the limit the engine ends them all."""
_PAGE: Final = resource.getpagesize()


def data_bytes(pid: int) -> int:
    """Private writable memory of a process, touched or not; 0 once it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[5]) * _PAGE
    except (OSError, IndexError):
        return 0


def bound(pid: int, limit_bytes: int) -> None:
    """Let a process that is resident with less than `limit_bytes` add no more private memory than what is left."""
    most = data_bytes(pid) + max(limit_bytes - resident_bytes(pid), 0)
    resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))


class Bounded(Protocol):
    """A process of a model, as the watch sees it."""

    limit_bytes: int | None
    loaded_bytes: int
    """Resident memory once the model was loaded."""

    @property
    def pid(self) -> int: ...

    def kill(self, reason: str) -> None: ...


class MemoryWatch:
    """Holds the processes of a replica's models to their limits, and all of them together to the replica's.

    Thread-safe. Where all together use too much, the one that has grown most since it was loaded is ended.
    """

    def __init__(self, watchdog: Watchdog, replica_limit_bytes: int | None) -> None:
        self._watchdog = watchdog
        self._most = None if replica_limit_bytes is None else int(replica_limit_bytes * _SHARE)
        self._lock = threading.Lock()
        self._processes: tuple[Bounded, ...] = ()

    def limit_bytes(self, own: int | None) -> int | None:
        """What a process that starts now may use, `own` being its model's limit; None: as much as it likes."""
        if self._most is None:
            return own
        left = self._most - self._used()
        return left if own is None else min(own, left)

    def watch(self, process: Bounded) -> None:
        """Look at a process from now on."""
        with self._lock:
            if not self._processes:
                self._watchdog.watch(self.check)
            self._processes = (*self._processes, process)

    def forget(self, process: Bounded) -> None:
        """Look at it no more."""
        with self._lock:
            self._processes = tuple(p for p in self._processes if p is not process)
            if not self._processes:
                self._watchdog.forget(self.check)

    def check(self) -> None:
        """At every tick of the watchdog."""
        for process in self._processes:
            limit = process.limit_bytes
            if limit is not None and (used := resident_bytes(process.pid)) > limit:
                process.kill(f"out of memory: it used {used >> 20} MiB and may use {limit >> 20}")
        if self._most is not None and (used := self._used()) > self._most and self._processes:
            grown = max(self._processes, key=lambda p: resident_bytes(p.pid) - p.loaded_bytes)
            grown.kill(f"out of memory: the replica used {used >> 20} MiB and may use {self._most >> 20}")

    def _used(self) -> int:
        return resident_bytes(os.getpid()) + sum(resident_bytes(p.pid) for p in self._processes)
