"""A cap on the cores of a replica: by a cgroup's quota, or for whole cores by CPU affinity.

A quota counts the CPU time of all threads of the replica, so any fraction of a core can be one. Affinity needs no
rights, but holds whole cores only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Final, Protocol

from modelyard.dispatch.engines.cgroups import Group
from modelyard.dispatch.ports import Throttling
from modelyard.domain.errors import Unsupported

_PERIOD_US: Final = 10_000
"""The kernel's default is 100 ms, whose stalls are a multiple of most latency targets: measured in ADR 0049."""
_LEAST_QUOTA_US: Final = 5_000
"""Above the tick at which the kernel looks (4 ms at 250 Hz): below it a replica gets less than its share (ADR 0049)."""


def quota_period_us(cores: float) -> int:
    """The period of a quota of so many cores: 10 ms, longer below half a core."""
    return max(_PERIOD_US, ceil(_LEAST_QUOTA_US / cores))


class CpuLimit(Protocol):
    """Holds one replica's process tree to a number of cores."""

    enforcement: str
    """How: `cgroup-v2`, `cgroup-v1`, `affinity`."""

    def join(self) -> None:
        """Put the calling process under the limit (called in the child, before it runs the replica)."""

    def applied_cores(self, pid: int) -> float:
        """The limit in force on `pid`, read back from the kernel."""

    @property
    def group(self) -> str:
        """The group's directory, with the counters of `throttling`; empty where there is none."""


class CpuQuota:
    """CPU time per period, of a group of its own: the kernel stops the replica until the next period beyond it."""

    def __init__(self, parent: str, name: str, cores: float, period_us: int | None = None) -> None:
        """Make the group and write the quota. Raises OSError where that is not allowed."""
        group = Group(parent, name)
        self._group, self.enforcement = group, group.enforcement
        self.group = str(group.path)
        period_us = period_us or quota_period_us(cores)
        quota_us = round(cores * period_us)
        if group.v2:
            (group.path / "cpu.max").write_text(f"{quota_us} {period_us}")
        else:
            (group.path / "cpu.cfs_period_us").write_text(str(period_us))
            (group.path / "cpu.cfs_quota_us").write_text(str(quota_us))

    def join(self) -> None:
        """Move the calling process into the group."""
        self._group.join()

    def applied_cores(self, pid: int) -> float:  # noqa: ARG002 - the group knows its processes
        """What the kernel says the quota is."""
        if self._group.v2:
            quota, period = (self._group.path / "cpu.max").read_text().split()
        else:
            quota, period = (
                (self._group.path / name).read_text() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        return int(quota) / int(period)


class Affinity:
    """Some cores of this machine, and no others."""

    enforcement = "affinity"
    group = ""

    def __init__(self, cores: Sequence[int]) -> None:
        self._cores = tuple(cores)

    def join(self) -> None:
        """Bind the calling process, and what it will start, to the cores."""
        os.sched_setaffinity(0, self._cores)

    def applied_cores(self, pid: int) -> float:
        """How many cores the process may run on."""
        return float(len(os.sched_getaffinity(pid)))


def cpu_limit(cores: float, parent: str | None, name: str, usable: Sequence[int], turn: int) -> CpuLimit:
    """The best cap this machine allows: a quota in a group below `parent` if that works, else affinity.

    `turn` says which of the `usable` cores affinity takes: of consecutive turns each takes the next ones. Raises
    Unsupported for a fraction of a core that nothing here can enforce.
    """
    why = "that needs a cgroup with CPU control, and none is named or delegated here"
    if parent is not None:
        try:
            return CpuQuota(parent, name, cores)
        except OSError as error:
            why = f"{error.filename or parent}: {error.strerror}"
    if cores != int(cores):
        raise Unsupported(
            f"a replica cannot be held to {cores:g} cores here",
            why=why,
            hint="set MODELYARD_CGROUP to a group that you may write (docs/deploying.md), or give whole cores",
        )
    count = min(int(cores), len(usable))
    first = turn * count
    return Affinity(sorted({usable[(first + k) % len(usable)] for k in range(count)}))


def throttling(group: str) -> Throttling | None:
    """The counters of a group since its replica started; None where it is gone, or was never one."""
    if not group:
        return None
    with contextlib.suppress(OSError):
        counts = dict(line.split() for line in (Path(group) / "cpu.stat").read_text().splitlines())
        stopped_s = int(counts.get("throttled_usec", 0)) / 1e6 + int(counts.get("throttled_time", 0)) / 1e9
        return Throttling(int(counts.get("nr_periods", 0)), int(counts.get("nr_throttled", 0)), stopped_s)
    return None
