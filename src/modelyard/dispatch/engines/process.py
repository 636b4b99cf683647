"""The embedded engine: replicas are child processes of a detached supervisor on this machine."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from modelyard.dispatch.engines import logs
from modelyard.dispatch.engines.cgroups import find_parents, remove_groups
from modelyard.dispatch.engines.control import ControlConnection, Roll, Scale, Trial, Verdict
from modelyard.dispatch.engines.identity import MARKER, ProcessIdentity, marked
from modelyard.dispatch.engines.limits import check_limits
from modelyard.dispatch.engines.network import resolve
from modelyard.dispatch.engines.state import Plan, RestartPolicy, ServiceDirectory, write_json
from modelyard.dispatch.engines.supervisor import CONFIRMATION, remove_directory
from modelyard.dispatch.ports import Limits, Probe, ServiceStatus
from modelyard.domain.errors import BackendFailed, Conflict, InvalidInput, ModelyardError, NotFound
from modelyard.domain.services import Endpoint, Replica, ReplicaSpec, ReplicaState, ServiceState
from modelyard.domain.versions import check_name

_POLL_S: Final = 0.05
_GRACE_S: Final = 15.0
"""How much longer than a replica's own time limits the supervisor may take, before it is helped along."""
_LAST_STEPS_S: Final = 1.0
"""How long what carries a service's mark may take to end by itself, once its supervisor ended or is at it."""


class ProcessEngine:
    """Implements `Engine`. Everything it knows is in `state_dir`: any process with the same one sees the same services.

    Safe to use from several threads and processes at once.
    """

    def __init__(
        self,
        state_dir: Path,
        python: str = sys.executable,
        *,
        command: tuple[str, ...] | None = None,
        policy: RestartPolicy | None = None,
        cgroup: str | None = None,
    ) -> None:
        """`command` runs a replica (default: our server); `--spec FILE` is appended.

        `cgroup`: a group in which one may be made for each replica's limits, see `find_parents` (default: this
        process's own cgroup v2, if control is delegated there; else memory is watched by polling, and only whole cores
        can be a limit).
        """
        self._state_dir = state_dir.absolute()
        self._python = python
        self._command = command or (python, "-P", "-m", "modelyard.serving")
        self._policy = policy or RestartPolicy()
        self._cgroups = find_parents(cgroup)

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
        """See `Engine.start`."""
        plan = self._plan(name, spec, n, limits or Limits(), _owner(owner_pid))
        directory = self._claim(plan)
        reader, writer = os.pipe()
        try:
            self._launch(directory, plan, reader)
            os.close(reader)
            reader = -1
            endpoint = _started(directory, writer, plan.limits.start_timeout_s + _GRACE_S)
            if probe:
                _probe(probe, endpoint, directory)
            _confirm(directory, writer)
        except BaseException:
            for descriptor in (reader, writer):
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            writer = -1
            self._clear(directory, plan, _GRACE_S)  # closing the pipe has already told the supervisor to go
            raise
        finally:
            if writer >= 0:
                os.close(writer)
        return endpoint

    def scale(self, name: str, n: int) -> None:
        """See `Engine.scale`."""
        directory, plan = self._running(name)
        if n < 1:
            raise InvalidInput("a service needs at least one replica", hint=f"`yard services stop {name}` ends it")
        timeout_s = plan.limits.start_timeout_s + plan.spec.drain_timeout_s + _GRACE_S
        with ControlConnection(directory, timeout_s) as supervisor:
            supervisor.send(Scale(n))
            supervisor.answer()

    def roll(self, name: str, spec: ReplicaSpec, n: int | None = None, probe: Probe | None = None) -> None:
        """See `Engine.roll`."""
        directory, plan = self._running(name)
        if n is not None and n < 1:
            raise InvalidInput("a service needs at least one replica", hint=f"`yard services stop {name}` ends it")
        check_limits(plan.limits, spec, plan.cgroups, f"yard-{plan.instance}-check")
        one_s = plan.limits.start_timeout_s + max(plan.spec.drain_timeout_s, spec.drain_timeout_s) + _GRACE_S
        with ControlConnection(directory, one_s * (2 * max(plan.n, n or 0) + 2)) as supervisor:
            supervisor.send(Roll(_absolute(replace(spec, host=plan.spec.host)), n))
            trial = supervisor.answer()
            if isinstance(trial, Trial):
                if probe:
                    _probe(probe, trial.endpoint, directory, replica=-1)
                supervisor.send(Verdict(good=True))
                supervisor.answer()

    def stop(self, name: str) -> bool:
        """See `Engine.stop`."""
        directory = self._directory(name)
        if not directory.path.is_dir():
            return False
        plan = record = None
        with contextlib.suppress(BackendFailed):  # a damaged file must not keep anyone from stopping
            record = directory.record()
        with contextlib.suppress(BackendFailed):
            plan = directory.plan()
        if record:
            record.supervisor.signal(signal.SIGTERM)
        drain_s = plan.spec.drain_timeout_s if plan else 0.0
        self._clear(directory, plan, drain_s + _GRACE_S)
        return True

    def status(self, name: str) -> ServiceStatus:
        """See `Engine.status`."""
        return self._known(name).status()

    def state(self, name: str) -> ServiceState:
        """See `Engine.state`."""
        return self.status(name).state

    def directory(self, name: str) -> Path:
        """See `Engine.directory`."""
        return self._directory(name).path

    def services(self) -> list[ServiceStatus]:
        """See `Engine.services`."""
        if not self._state_dir.is_dir():
            return []
        names = sorted(p.name for p in self._state_dir.iterdir() if p.is_dir() and not p.name.startswith("."))
        return [self._directory(name).status() for name in names]

    def replicas(self, name: str) -> list[Replica]:
        """See `Engine.replicas`."""
        return list(self.status(name).replicas)

    def logs(
        self, name: str, *, replica: int | None = None, follow: bool = False, tail: int | None = None
    ) -> Iterator[str]:
        """See `Engine.logs`."""
        directory = self._known(name)
        if replica is not None and not directory.log(replica).exists():
            raise NotFound(f"service '{name}' has no replica {replica}", hint=f"`yard services show {name}` lists them")
        return self._read_logs(directory, replica, follow, tail)

    def gc(self, *, dry_run: bool = False) -> list[str]:
        """Remove what crashed and half-started services left; returns the names of what was (or would be) removed."""
        # STOPPED is a supervisor's last word, said when all else has ended; `stop` waits until it is gone as well.
        dead = [
            s.name
            for s in self.services()
            if s.state is ServiceState.STOPPED or (s.state is ServiceState.FAILED and not self._supervised(s.name))
        ]
        if not dry_run:
            for name in dead:
                self.stop(name)
        return [*dead, *self._litter(dry_run=dry_run)]

    def _litter(self, *, dry_run: bool) -> list[str]:
        """Directories that a killed process was making or removing: `.new-PID-...`, `.gone-PID-...`."""
        found = []
        for path in self._state_dir.glob(".*-*-*") if self._state_dir.is_dir() else ():
            pid = path.name.split("-")[1]
            if pid.isdigit() and ProcessIdentity.of(int(pid)) is None:
                found.append(path.name)
                if not dry_run:
                    remove_directory(path)
        return found

    def _plan(self, name: str, spec: ReplicaSpec, n: int, limits: Limits, owner: ProcessIdentity | None) -> Plan:
        check_name(name, "service")
        if n < 1:
            raise InvalidInput("a service needs at least one replica")
        if foreign := set(limits.cores) - os.sched_getaffinity(0):
            usable = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
            raise InvalidInput(f"CPUs {sorted(foreign)} cannot be used here", hint=f"usable: {usable}")
        instance = uuid.uuid4().hex
        check_limits(limits, spec, self._cgroups, f"yard-{instance}-check")
        return Plan(
            name,
            instance,
            _absolute(replace(spec, host=resolve(spec.host))),
            n,
            limits,
            self._policy,
            self._command,
            datetime.now(UTC).isoformat(timespec="seconds"),
            self._cgroups,
            owner,
        )

    def _claim(self, plan: Plan) -> ServiceDirectory:
        """Make the service's directory, complete or not at all: of several starters of one name one wins."""
        making = self._state_dir / f".new-{os.getpid()}-{plan.instance}"
        (making / "run").mkdir(parents=True, mode=0o700)
        making.chmod(0o700)
        write_json(making / "plan.json", plan)
        directory = self._directory(plan.name)
        try:
            making.rename(directory.path)  # fails if it exists, because no service's directory is empty
        except OSError as error:
            remove_directory(making)
            state = directory.status().state if directory.path.is_dir() else ServiceState.STOPPED
            raise Conflict(
                f"service '{plan.name}' exists already ({state})",
                hint=f"`yard services stop {plan.name}` ends and removes it; or choose another name",
            ) from error
        return directory

    def _launch(self, directory: ServiceDirectory, plan: Plan, starter: int) -> None:
        """Start the supervisor; it forks itself away, so this returns as soon as that is done."""
        output = logs.open_log(directory.log(None))
        try:
            code = subprocess.run(
                [self._python, "-P", "-m", "modelyard.dispatch.engines.supervisor", "--dir", str(directory.path)],
                stdin=starter,
                stdout=output,
                stderr=output,
                cwd=directory.path,
                env={**os.environ, MARKER: plan.instance, "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
                check=False,
            ).returncode
        finally:
            os.close(output)
        if code != 0:
            why = logs.last_lines(directory.log(None), 20)
            raise BackendFailed("the supervisor could not be started", why=why, hint="run `yard doctor`")

    def _clear(self, directory: ServiceDirectory, plan: Plan | None, patience_s: float) -> None:
        """Wait until the supervisor has ended everything; kill what is left after that; remove the directory."""
        with contextlib.suppress(BackendFailed):
            record = directory.record()
            if record and not _became(lambda: not record.supervisor.alive, patience_s):
                record.supervisor.signal(signal.SIGKILL)
        if plan:
            # The supervisor of a failed start removes its directory last, so it may be at that without a record.
            _became(lambda: not marked(plan.instance), _LAST_STEPS_S)
            self._sweep(plan.instance)
            remove_groups(plan.cgroups, f"yard-{plan.instance}-*")  # those of a killed supervisor
        remove_directory(directory.path)
        self._litter(dry_run=False)

    def _sweep(self, instance: str) -> None:
        """Kill every process that carries the instance's marker, until there is none."""

        def none_left() -> bool:
            left = marked(instance)
            for process in left:
                process.signal(signal.SIGKILL)
            return not left

        _until(none_left, _GRACE_S, "end")

    def _directory(self, name: str) -> ServiceDirectory:
        return ServiceDirectory(self._state_dir / check_name(name, "service"))

    def _known(self, name: str) -> ServiceDirectory:
        directory = self._directory(name)
        if not directory.path.is_dir():
            raise NotFound(f"there is no service '{name}'", hint="`yard services ls` lists them")
        return directory

    def _running(self, name: str) -> tuple[ServiceDirectory, Plan]:
        directory = self._known(name)
        plan = directory.plan()
        if plan is None or not self._supervised(name):
            raise Conflict(
                f"service '{name}' does not run: {directory.status().detail}",
                hint=f"`yard services stop {name}` removes it, then deploy it again",
            )
        return directory, plan

    def _supervised(self, name: str) -> bool:
        record = self._directory(name).record()
        return record is not None and record.supervisor.alive

    def _read_logs(
        self, directory: ServiceDirectory, replica: int | None, follow: bool, tail: int | None
    ) -> Iterator[str]:
        def wanted() -> dict[Path, str]:
            if replica is not None:
                return {directory.log(replica): ""}
            paths = [directory.log(None), *sorted(directory.path.glob("replica-*.log"))]
            return {path: f"{path.stem} | " for path in paths}

        lines, offsets = logs.read_merged(wanted(), tail)
        yield from lines
        if follow:
            yield from logs.follow_lines(offsets, wanted, lambda: self._alive(directory))

    def _alive(self, directory: ServiceDirectory) -> bool:
        record = directory.record()
        return record is not None and record.supervisor.alive


_OVER: Final = (ServiceState.FAILED, ServiceState.STOPPED)


def _absolute(spec: ReplicaSpec) -> ReplicaSpec:
    """The spec with absolute paths: replicas run in another directory than the caller."""
    models = tuple(
        replace(
            m,
            artifact=replace(m.artifact, directory=str(Path(m.artifact.directory).absolute())),
            steps_directory=str(Path(m.steps_directory).absolute()) if m.steps_directory else "",
        )
        for m in spec.models
    )
    return replace(spec, models=models)


def _owner(pid: int | None) -> ProcessIdentity | None:
    owner = None if pid is None else ProcessIdentity.of(pid)
    if pid is not None and owner is None:
        raise InvalidInput(f"the owner, process {pid}, does not exist")
    return owner


def _started(directory: ServiceDirectory, pipe: int, patience_s: float) -> Endpoint:
    """Wait until every replica is ready; raise what the supervisor says went wrong."""
    gone = select.poll()
    gone.register(pipe, 0)  # only POLLERR: the reading end was closed, so the supervisor is no more
    deadline = time.monotonic() + patience_s
    while True:
        lost = bool(gone.poll(_POLL_S * 1000))
        record = directory.record()
        if record and record.problem:
            raise record.problem.error()
        if lost:
            raise _ended_meanwhile(directory)
        replicas = record.replicas if record else ()
        ready = bool(replicas) and all(r.replica.state is ReplicaState.READY for r in replicas)
        if ready and record and record.endpoint:
            return record.endpoint
        if time.monotonic() > deadline:  # the supervisor has time limits of its own: it must be stuck
            why = logs.last_lines(directory.log(None), 20)
            raise BackendFailed(f"service '{directory.name}' did not start within {patience_s:g} s", why=why)


def _confirm(directory: ServiceDirectory, pipe: int) -> None:
    """Tell the supervisor that the service is to stay, and wait until it says so."""
    try:
        os.write(pipe, CONFIRMATION)
    except BrokenPipeError as error:
        raise _ended_meanwhile(directory) from error
    _until(lambda: directory.status().state is not ServiceState.STARTING, _GRACE_S, "become ready")
    if directory.status().state in _OVER:
        raise _ended_meanwhile(directory)


def _ended_meanwhile(directory: ServiceDirectory) -> BackendFailed:
    why = logs.last_lines(directory.log(None), 20) or "it was stopped"
    return BackendFailed(f"the supervisor of service '{directory.name}' ended while the service started", why=why)


def _probe(probe: Probe, endpoint: Endpoint, directory: ServiceDirectory, replica: int = 0) -> None:
    try:
        probe(endpoint)
    except Exception as error:  # whatever the caller's probe raises, a service that fails it is not ready
        tail = logs.last_lines(directory.log(replica), 20)
        raise BackendFailed(
            f"service '{directory.name}' is up but a real inference through {endpoint.url} failed",
            why=f"{error}\nthe replica's last log lines:\n{tail}" if tail else str(error),
            hint=error.hint if isinstance(error, ModelyardError) else "",
        ) from error


def _became(condition: Callable[[], bool], patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _until(condition: Callable[[], bool], patience_s: float, what: str) -> None:
    if not _became(condition, patience_s):
        raise BackendFailed(f"the service did not {what} within {patience_s:g} s", hint="see its logs")
