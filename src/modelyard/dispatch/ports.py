"""What an engine is: the place where a service's replicas run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from modelyard.domain.services import Endpoint, Replica, ReplicaSpec, ServiceState

Probe: TypeAlias = Callable[[Endpoint], None]
"""Makes one real inference through an endpoint; raises when it does not succeed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one replica may use; None (or no cores) means: as the replica's spec says, else unlimited.

    `threads` bounds the thread pools of OpenMP, MKL and OpenBLAS (default: the largest `threads` of its models).
    `cores` pins a replica to these CPUs. `memory_bytes` defaults to the spec's `memory_limit_bytes`, `cpu_limit` (how
    many cores' time a replica may use, e.g. 0.5) to the spec's.
    `start_timeout_s`: how long a replica may take from its start until it is ready.
    """

    threads: int | None = None
    cores: tuple[int, ...] = ()
    memory_bytes: int | None = None
    start_timeout_s: float = 120.0
    cpu_limit: float | None = None


@dataclass(frozen=True, slots=True)
class Throttling:
    """How often a cap on cores stopped a replica: in `throttled` of `periods` in which it ran, for `stopped_s` in all.

    `stopped_s` is summed over the cores on which it had to wait.
    """

    periods: int
    throttled: int
    stopped_s: float


@dataclass(frozen=True, slots=True)
class AppliedLimits:
    """Limits as read back from the running replica, and what enforces them.

    `memory_enforcement` is `cgroup-v2`, `cgroup-v1`, `polling` (resident memory is watched) or `none`;
    `cpu_enforcement` is `cgroup-v2`, `cgroup-v1`, `affinity` (bound to `cores`) or `none`. `cpu_group` is the directory
    of the group that counts `throttling`, where there is one.
    """

    threads: int | None = None
    cores: tuple[int, ...] = ()
    memory_bytes: int | None = None
    memory_enforcement: str = "none"
    cpu_limit: float | None = None
    cpu_enforcement: str = "none"
    cpu_group: str = ""
    throttling: Throttling | None = None


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service as it is now, derived from the processes that exist; `limits` are by replica, in the same order."""

    name: str
    state: ServiceState
    endpoint: Endpoint | None
    replicas: tuple[Replica, ...]
    directory: str
    detail: str = ""
    limits: tuple[AppliedLimits, ...] = ()
    created_at: str = ""
    pids: tuple[int, ...] = field(default=())
    """Every process of the service that exists: the supervisor first, then the replicas."""


class Engine(Protocol):
    """Where replicas run. All methods block, and may be called from any thread or process.

    Unknown names raise NotFound, except in `stop`, which is idempotent.
    """

    def start(
        self,
        name: str,
        spec: ReplicaSpec,
        n: int,
        probe: Probe | None = None,
        *,
        limits: Limits | None = None,
        owner_pid: int | None = None,
    ) -> Endpoint:
        """Start `n` replicas of `spec` behind one endpoint; return once all are ready and `probe` succeeded.

        With `owner_pid` the service ends, and is forgotten, when that process does. On any failure, Ctrl-C included,
        nothing is left running. Raises Conflict (name taken, port in use),
        InvalidInput, BackendFailed (with the last log lines of the replica that failed).
        """

    def scale(self, name: str, n: int) -> None:
        """Change the number of replicas; new ones are ready on return, surplus ones drained.

        Raises BackendFailed if a new replica does not start (the number stays as it was).
        """

    def roll(self, name: str, spec: ReplicaSpec, n: int | None = None, probe: Probe | None = None) -> None:
        """Replace every replica by one of `spec`, without a gap, on the same endpoint (the spec's ports are ignored).

        With `n` the number of replicas is changed after that.
        A trial replica on a private port is probed first, so that a broken spec never meets a client.
        Raises BackendFailed if the new spec does not start or fails the probe: the old one keeps serving.
        """

    def stop(self, name: str) -> bool:
        """Drain and end the service; return when no process of it is left: False if there was no such service."""

    def status(self, name: str) -> ServiceStatus:
        """The service as it is now. Raises NotFound."""

    def state(self, name: str) -> ServiceState:
        """The state of the service as it is now. Raises NotFound."""

    def directory(self, name: str) -> Path:
        """Where the engine keeps the service's state and logs."""

    def services(self) -> list[ServiceStatus]:
        """Every service of this engine, crashed ones included, by name."""

    def replicas(self, name: str) -> list[Replica]:
        """The replicas of a service as they are now. Raises NotFound."""

    def logs(
        self, name: str, *, replica: int | None = None, follow: bool = False, tail: int | None = None
    ) -> Iterator[str]:
        """Log lines without line ends: of one replica, or if None of all and the supervisor, prefixed, by time.

        `tail` keeps the last so many lines of all; `follow` goes on until the service ends. Raises NotFound.
        """

    def gc(self, *, dry_run: bool = False) -> list[str]:
        """Remove what crashed services left; returns the names of what was (or would be) removed."""
