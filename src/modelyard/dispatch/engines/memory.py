"""A memory limit on a replica: by a cgroup where one is delegated to us, else by watching its resident memory.

RLIMIT_AS is no option: frameworks reserve tens of GiB of address space that they never touch.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

from modelyard.dispatch.engines.cgroups import Group
from modelyard.processes import process_tree, resident_bytes


class MemoryLimit(Protocol):
    """Holds one replica's process tree to a limit."""

    enforcement: str
    """How: `cgroup-v2`, `cgroup-v1`, `polling`."""

    def join(self) -> None:
        """Put the calling process under the limit (called in the child, before it runs the replica)."""

    def applied_bytes(self) -> int:
        """The limit in force, read back from where it is enforced."""

    def exceeded(self, pid: int) -> str | None:
        """Say so if the tree of `pid` went over the limit (it may have been killed for it already)."""


class PolledLimit:
    """Sums the resident memory of a replica and its children each time it is asked; the supervisor then kills."""

    enforcement = "polling"

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes

    def join(self) -> None:
        """Nothing to do: the watcher knows the pid."""

    def applied_bytes(self) -> int:
        """The limit that `exceeded` compares with."""
        return self._limit_bytes

    def exceeded(self, pid: int) -> str | None:
        """Compare the tree's resident memory with the limit."""
        used = sum(map(resident_bytes, process_tree(pid)))
        if used <= self._limit_bytes:
            return None
        return f"memory limit: used {_mib(used)} of {_mib(self._limit_bytes)}"


class CgroupLimit:
    """A cgroup of its own below `parent` (v1 or v2): the kernel kills what exceeds it."""

    def __init__(self, parent: str, name: str, limit_bytes: int) -> None:
        """Make the group and write the limit. Raises OSError where that is not allowed."""
        self._group = Group(parent, name)
        self.enforcement = self._group.enforcement
        self._limit_file.write_text(str(limit_bytes))
        if self._group.v2:
            (self._group.path / "memory.oom.group").write_text("1")
            swap, limit = "memory.swap.max", "0"
        else:
            swap, limit = "memory.memsw.limit_in_bytes", str(limit_bytes)
        with contextlib.suppress(FileNotFoundError):  # kernels without swap accounting have no such file
            (self._group.path / swap).write_text(limit)

    @property
    def _limit_file(self) -> Path:
        return self._group.path / ("memory.max" if self._group.v2 else "memory.limit_in_bytes")

    def join(self) -> None:
        """Move the calling process into the group."""
        self._group.join()

    def applied_bytes(self) -> int:
        """What the kernel says the limit is (it rounds down to pages)."""
        return int(self._limit_file.read_text())

    def exceeded(self, pid: int) -> str | None:  # noqa: ARG002 - the group knows its processes
        """Whether the kernel killed something in the group."""
        events = self._group.path / ("memory.events" if self._group.v2 else "memory.oom_control")
        counts = dict(line.split() for line in events.read_text().splitlines())
        if int(counts.get("oom_kill", 0)) == 0:
            return None
        return f"memory limit: killed by the kernel at {_mib(self.applied_bytes())}"


def memory_limit(limit_bytes: int | None, parent: str | None, name: str) -> MemoryLimit | None:
    """The strongest limit this machine allows: a cgroup below `parent` if that works, else polling."""
    if limit_bytes is None:
        return None
    if parent is not None:
        with contextlib.suppress(OSError):
            return CgroupLimit(parent, name, limit_bytes)
    return PolledLimit(limit_bytes)


def _mib(amount_bytes: int) -> str:
    return f"{amount_bytes / 2**20:.0f} MiB"
