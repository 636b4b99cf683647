"""All that one replica's process is held to, entered at one place: by the child, before it becomes the replica."""

from __future__ import annotations

import os

from modelyard.dispatch.engines.cgroups import Parents, remove_groups
from modelyard.dispatch.engines.cpu import Affinity, CpuLimit, CpuQuota, cpu_limit
from modelyard.dispatch.engines.memory import MemoryLimit, memory_limit
from modelyard.dispatch.ports import AppliedLimits, Limits
from modelyard.domain.services import ReplicaSpec


class ReplicaLimits:
    """The limits of one life of a replica, and the cgroups they are in."""

    def __init__(self, limits: Limits, spec: ReplicaSpec, parents: Parents, name: str, turn: int = 0) -> None:
        """Make what is needed, in groups called `name`; nothing is limited yet.

        `turn`: see `cpu_limit`. Raises Unsupported for a limit that nothing here can enforce.
        """
        self._parents, self._name = parents, name
        self._pinned = Affinity(limits.cores) if limits.cores else None
        self.cpu: CpuLimit | None = None
        cores = limits.cpu_limit or spec.cpu_limit
        try:
            self.memory: MemoryLimit | None = memory_limit(
                limits.memory_bytes or spec.memory_limit_bytes, parents.memory, name
            )
            if cores:
                usable = sorted(limits.cores or os.sched_getaffinity(0))
                self.cpu = cpu_limit(cores, parents.cpu, name, usable, turn)
        except BaseException:
            self.close()
            raise

    def join(self) -> None:
        """Put the calling process under every limit. Raises OSError."""
        if self._pinned:
            self._pinned.join()
        if self.memory:
            self.memory.join()
        if self.cpu:
            self.cpu.join()

    def applied(self, pid: int, threads: int | None) -> AppliedLimits:
        """The limits, read back. Raises OSError where the process is gone."""
        bound = self._pinned or (self.cpu and not isinstance(self.cpu, CpuQuota))
        return AppliedLimits(
            threads=threads,
            cores=tuple(sorted(os.sched_getaffinity(pid))) if bound else (),
            memory_bytes=self.memory.applied_bytes() if self.memory else None,
            memory_enforcement=self.memory.enforcement if self.memory else "none",
            cpu_limit=self.cpu.applied_cores(pid) if self.cpu else None,
            cpu_enforcement=self.cpu.enforcement if self.cpu else "none",
            cpu_group=self.cpu.group if self.cpu else "",
        )

    def exceeded(self, pid: int) -> str | None:
        """Say so if the tree of `pid` went over its memory."""
        return self.memory.exceeded(pid) if self.memory else None

    def close(self) -> None:
        """Remove the groups, once the replica is gone."""
        remove_groups(self._parents, self._name)


def check_limits(limits: Limits, spec: ReplicaSpec, parents: Parents, name: str) -> None:
    """Raise Unsupported for a limit that cannot be enforced here, by trying: before anything is started."""
    ReplicaLimits(limits, spec, parents, name).close()
