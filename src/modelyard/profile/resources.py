"""Memory and CPU of a service's processes while a block runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Self

import psutil

from modelyard.processes import process_tree, resident_bytes

_INTERVAL_S = 0.1
_TREE_EVERY = 10
"""Polls between two looks for new processes."""
_IDLE_CHECK_S = 0.03
"""Three ticks of the kernel's CPU accounting, for systems where only ticks are read."""
_IDLE_SHARE = 0.03
"""Of one core: an idle server's timers and threads that wake now and then stay below it, a spinning thread does not."""
_CPUCLOCK_SCHED = 2
"""Clock of the time that the scheduler gave to all threads of a process, ended ones too (linux/posix-timers.h)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Peak of the summed resident memory, CPU seconds used, and whether the set of replicas changed meanwhile."""

    rss_bytes: int
    cpu_s: float
    replicas_changed: bool


class UsageMeter:
    """Context manager: measures the process trees of `replica_pids()` from entry to exit; then `usage` is set.

    RSS counts pages shared between replicas once for each: it is what the kernel's accounting of each process says. The
    thread that watches it runs on `cpus` (empty: anywhere): on the core of a replica it would be part of its tail.
    """

    usage: Usage

    def __init__(self, replica_pids: Callable[[], Sequence[int]], cpus: Sequence[int] = ()) -> None:
        self._pids, self._cpus = replica_pids, cpus
        self._stop = threading.Event()
        self._peak = 0

    def __enter__(self) -> Self:
        self._first = set(self._pids())
        self._before = cpu_seconds(self._first)
        self._thread = threading.Thread(target=self._watch, name="usage-meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        last = set(self._pids())
        after = cpu_seconds(last)
        used = sum(max(0.0, seconds - self._before.get(key, 0.0)) for key, seconds in after.items())
        self._peak = max(self._peak, sum(map(resident_bytes, _trees(last))))
        self.usage = Usage(self._peak, used, replicas_changed=last != self._first)

    def _watch(self) -> None:
        if self._cpus:
            os.sched_setaffinity(0, self._cpus)  # of this thread alone
        for poll in count():
            if poll % _TREE_EVERY == 0:
                tree = _trees(self._first)
            self._peak = max(self._peak, sum(map(resident_bytes, tree)))
            if self._stop.wait(_INTERVAL_S):
                return


def wait_until_idle(pids: Sequence[int], most_s: float = 0.5) -> None:
    """Wait until the trees use next to no CPU, at most `most_s`.

    Thread pools spin for up to 200 ms after their last work (libiomp5's default); the canary must not take that for a
    noisy neighbour.
    """
    deadline = time.monotonic() + most_s
    used = sum(cpu_seconds(pids).values())
    while time.monotonic() < deadline:
        time.sleep(_IDLE_CHECK_S)
        before, used = used, sum(cpu_seconds(pids).values())
        if used - before <= _IDLE_SHARE * _IDLE_CHECK_S:
            return


def cpu_seconds(pids: Sequence[int] | set[int]) -> dict[tuple[int, float], float]:
    """CPU seconds of each process of the trees, by (pid, start time): a reused pid is another process."""
    seconds = {}
    for pid in _trees(pids):
        try:
            process = psutil.Process(pid)
            seconds[process.pid, process.create_time()] = _process_cpu_s(process)
        except psutil.Error:  # it ended between listing and reading
            continue
    return seconds


def _process_cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process, from its CPU clock in nanoseconds.

    /proc counts in ticks of 10 ms, which is a few per cent of a light block and all of a very light one; it is read
    where the system has no clocks of other processes. The clock's number is MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED).
    """
    try:
        return time.clock_gettime_ns((~process.pid << 3) | _CPUCLOCK_SCHED) / 1e9
    except OSError:
        times = process.cpu_times()
        return times.user + times.system


def _trees(pids: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(process for pid in pids for process in process_tree(pid)))
