"""What the process engine keeps on disk: one directory per service, every file replaced atomically.

<state_dir>/<service>/plan.json         what to run (written by the engine, by a roll and by a scale)
                      state.json        what the supervisor last saw (the truth is checked against /proc)
                      control.sock      orders to the supervisor
                      supervisor.log, replica-K.log (+ .1: the older half, size-bounded)
                      run/              spec, ready file and heartbeat of each replica
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from modelyard.dispatch.engines.cgroups import Parents
from modelyard.dispatch.engines.cpu import throttling
from modelyard.dispatch.engines.identity import ProcessIdentity, marked
from modelyard.dispatch.ports import AppliedLimits, Limits, ServiceStatus
from modelyard.domain.errors import BackendFailed, Conflict, InvalidInput, ModelyardError, NotFound, Unavailable
from modelyard.domain.services import Endpoint, Replica, ReplicaSpec, ReplicaState, ServiceState

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a replica that ended is started again.

    The n-th restart in a row waits `initial_s * factor**(n-1)`, at most `max_s`, plus up to `jitter` of it at random.
    A replica that was ready for `stable_s` starts the count anew. After `give_up_after` quick failures in a row (not
    ready, or for less than `stable_s`) it is FAILED. Kills for memory count on their own: at most
    `memory_restarts` in `memory_window_s`. A ready replica killed by someone else's SIGKILL never counts.
    """

    initial_s: float = 0.5
    factor: float = 2.0
    max_s: float = 10.0
    jitter: float = 0.2
    stable_s: float = 20.0
    give_up_after: int = 5
    memory_restarts: int = 5
    memory_window_s: float = 600.0
    hang_timeout_s: float = 10.0
    log_bytes: int = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Plan:
    """What the supervisor is to run. `instance` marks every process of the service.

    If there is an `owner`, the service ends with it.
    """

    name: str
    instance: str
    spec: ReplicaSpec
    n: int
    limits: Limits
    policy: RestartPolicy
    command: tuple[str, ...]
    created_at: str
    cgroups: Parents = field(default_factory=Parents)
    owner: ProcessIdentity | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it travels from the supervisor to the engine."""

    kind: str
    what: str
    why: str = ""
    hint: str = ""

    @classmethod
    def of(cls, error: ModelyardError) -> Problem:
        return cls(type(error).__name__, error.what, error.why, error.hint)

    def error(self) -> ModelyardError:
        """The error to raise on this side."""
        kinds = {kind.__name__: kind for kind in (Conflict, InvalidInput, NotFound, Unavailable)}
        return kinds.get(self.kind, BackendFailed)(self.what, why=self.why, hint=self.hint)


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """A replica as the supervisor sees it."""

    replica: Replica
    identity: ProcessIdentity | None = None
    limits: AppliedLimits = field(default_factory=AppliedLimits)


@dataclass(frozen=True, slots=True)
class Record:
    """A service as the supervisor sees it. `problem` is set where it could not be started."""

    supervisor: ProcessIdentity
    state: ServiceState
    endpoint: Endpoint | None = None
    replicas: tuple[ReplicaRecord, ...] = ()
    detail: str = ""
    problem: Problem | None = None


def write_json(path: Path, value: object) -> None:
    """Replace `path` by the JSON of `value`: a reader sees the old or the new, never a part.

    Not synced to disk: after a power cut no process of the service is left for the state to be about.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(msgspec.json.encode(value))
            file.flush()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def read_json(path: Path, kind: type[T]) -> T | None:
    """The value in `path`; None if there is no such file. Raises BackendFailed if it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise BackendFailed(
            f"{path} is damaged", why=str(error), hint="stop the service: that removes its directory"
        ) from error


class ServiceDirectory:
    """Paths and files of one service's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan_file = path / "plan.json"
        self.state_file = path / "state.json"
        self.socket = path / "control.sock"
        self.run = path / "run"

    @property
    def name(self) -> str:
        return self.path.name

    def plan(self) -> Plan | None:
        """The plan, None where the directory was made but not filled (its maker died, or is just at it)."""
        return read_json(self.plan_file, Plan)

    def record(self) -> Record | None:
        return read_json(self.state_file, Record)

    def log(self, replica: int | None) -> Path:
        """The log of a replica; of the supervisor for None; of a roll's trial replica for -1."""
        names = {None: "supervisor.log", -1: "trial.log"}
        return self.path / names.get(replica, f"replica-{replica}.log")

    @contextmanager
    def address(self) -> Iterator[str]:
        """The control socket's address, short enough for a `sun_path` (108 bytes) however deep the directory is."""
        if len(os.fsencode(self.socket)) < 100:
            yield str(self.socket)
            return
        directory = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{directory}/{self.socket.name}"
        finally:
            os.close(directory)

    def status(self) -> ServiceStatus:
        """The service as it is: what the supervisor recorded, corrected by which processes exist."""
        try:
            plan, record = self.plan(), self.record()
        except BackendFailed as error:
            return self._lost(None, None, str(error))
        if plan is None:
            return self._lost(None, None, "its start was interrupted before anything ran")
        if record is None or not record.supervisor.alive:
            if record and record.state is ServiceState.STOPPED:
                return self._lost(plan, record, record.detail, ServiceState.STOPPED)
            return self._lost(plan, record, "its supervisor is gone (killed, or the machine restarted)")
        observed = [_observed(r) for r in record.replicas]
        alive = [r.identity.pid for r in record.replicas if r.identity and r.identity.alive]
        ready = sum(replica.state is ReplicaState.READY for replica in observed)
        state = record.state
        if state is ServiceState.READY and ready < plan.n:
            state = ServiceState.DEGRADED
        return ServiceStatus(
            self.name,
            state,
            record.endpoint,
            tuple(observed),
            str(self.path),
            record.detail,
            tuple(replace(r.limits, throttling=throttling(r.limits.cpu_group)) for r in record.replicas),
            plan.created_at,
            (record.supervisor.pid, *alive),
        )

    def _lost(
        self, plan: Plan | None, record: Record | None, detail: str, state: ServiceState = ServiceState.FAILED
    ) -> ServiceStatus:
        left = tuple(p.pid for p in marked(plan.instance)) if plan else ()
        replicas = tuple(
            replace(r.replica, state=ReplicaState.STOPPED, pid=None, detail="ended with its supervisor")
            for r in (record.replicas if record else ())
            if not (r.identity and r.identity.alive)
        )
        return ServiceStatus(
            self.name,
            state,
            record.endpoint if record else None,
            replicas,
            str(self.path),
            detail,
            created_at=plan.created_at if plan else "",
            pids=left,
        )


def _observed(record: ReplicaRecord) -> Replica:
    running = record.replica.state in (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.STOPPING)
    if running and record.identity and not record.identity.alive:
        return replace(record.replica, state=ReplicaState.BACKING_OFF, pid=None, detail="just ended")
    return record.replica
