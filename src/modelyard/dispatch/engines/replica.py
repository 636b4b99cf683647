"""One life of a replica under the process engine's supervisor: a process, its limits, how it is watched."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from modelyard.dispatch.engines import logs
from modelyard.dispatch.engines.diversion import divert
from modelyard.dispatch.engines.heartbeat import TICK_S, Heartbeat
from modelyard.dispatch.engines.identity import MARKER, ProcessIdentity
from modelyard.dispatch.engines.limits import ReplicaLimits
from modelyard.dispatch.engines.restart import End, EndKind
from modelyard.dispatch.engines.state import Plan, ServiceDirectory
from modelyard.dispatch.ports import AppliedLimits
from modelyard.domain.services import ReplicaSpec
from modelyard.runtimes.ports import SLEEPING_THREADS

THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_PASSED_ON: Final = ("PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH")
_PASSED_ON_PREFIXES: Final = ("LC_", "CUDA_", "NVIDIA_", "OMP_", "KMP_", "MKL_", "ORT_", "OV_", "OPENVINO_", "TORCH_")
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)  # loaded now: nothing may be looked up between fork and exec
LOG_LINES: Final = 40

log = logging.getLogger(__name__)


def replica_environment(base: Mapping[str, str], instance: str, threads: int) -> dict[str, str]:
    """The environment of a replica: no secrets of the user's shell, thread pools bounded, no telemetry.

    A replica runs other people's model code; it needs no database password and no cloud credential.
    """
    kept = {k: v for k, v in base.items() if k in _PASSED_ON or k.startswith(_PASSED_ON_PREFIXES)}
    bounds = dict.fromkeys(THREAD_VARIABLES, str(threads))
    quiet = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "DO_NOT_TRACK": "1"}
    return {**SLEEPING_THREADS, **kept, **bounds, **quiet, MARKER: instance}


@dataclass(frozen=True, slots=True)
class Ready:
    """What a replica writes to its ready file."""

    pid: int
    http_port: int
    grpc_port: int | None = None


class ReplicaProcess:
    """One life of a replica: from fork to the end of its whole process group."""

    def __init__(self, plan: Plan, spec: ReplicaSpec, directory: ServiceDirectory, index: int, serial: int) -> None:
        self._plan = plan
        self._log = directory.log(index)
        base = directory.run / f"{'trial' if index < 0 else index}.{serial}"
        self._spec_file, self._ready_file, self._beat_file = (
            base.with_name(f"{base.name}.{part}") for part in ("spec.json", "ready.json", "heartbeat")
        )
        self._spec = replace(spec, ready_file=str(self._ready_file), heartbeat_file=str(self._beat_file))
        # Replicas of one service take cores side by side; services, and so measurements, begin at a core of their own.
        turn = int(plan.instance, 16) + max(index, 0)
        self._limits = ReplicaLimits(plan.limits, spec, plan.cgroups, f"yard-{plan.instance}-{serial}", turn)
        self._threads = plan.limits.threads or max((m.threads for m in spec.models), default=1)
        self._process: subprocess.Popen[bytes] | None = None
        self._exited = asyncio.Event()
        self._log_start = logs.size(self._log)
        self._ready_at: float | None = None
        self.identity: ProcessIdentity | None = None
        self.ready: Ready | None = None

    def spawn(self, environment: Mapping[str, str]) -> None:
        """Fork and exec the replica in a session of its own. Raises OSError, subprocess.SubprocessError."""
        self._spec_file.write_bytes(msgspec.json.encode(self._spec))
        supervisor = os.getpid()
        limits = self._limits

        def prepare() -> None:
            # Between fork and exec; the supervisor has one thread, so this is safe.
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != supervisor:  # it died before the line above
                os._exit(1)
            limits.join()
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a model's memory does not belong into a dump

        output = logs.open_log(self._log)
        try:
            self._process = subprocess.Popen(
                [*self._plan.command, "--spec", str(self._spec_file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._spec_file.parent,
                env=replica_environment(environment, self._plan.instance, self._threads),
                start_new_session=True,
                preexec_fn=prepare,
            )
        finally:
            os.close(output)
        self.identity = ProcessIdentity.of(self._process.pid)
        self._end_of_process = os.pidfd_open(self._process.pid)
        asyncio.get_running_loop().add_reader(self._end_of_process, self._reap)

    def _reap(self) -> None:
        assert self._process is not None  # noqa: S101 - the reader exists only after spawn
        asyncio.get_running_loop().remove_reader(self._end_of_process)
        os.close(self._end_of_process)
        self.kill()  # what it left of its group, before its pid can be reused
        self._process.wait()
        self._exited.set()

    async def until_ready(self) -> End | None:
        """Wait for the ready file; an End if it did not come to that."""
        deadline = time.monotonic() + self._plan.limits.start_timeout_s
        while not self._ready_file.exists():
            if end := self._ended():
                return end
            if time.monotonic() > deadline:
                return End(EndKind.NOT_READY, f"not ready within {self._plan.limits.start_timeout_s:g} s")
            await self._pause(0.05)
        self.ready = msgspec.json.decode(self._ready_file.read_bytes(), type=Ready)
        self._ready_at = time.monotonic()
        return None

    async def until_end(self) -> End:
        """Watch the ready replica until it ends, hangs or uses too much memory."""
        heartbeat = Heartbeat(self._beat_file)
        if heartbeat.silent_s() is None:
            log.warning("replica pid %s writes no heartbeat: a hang will not be noticed", self._pid)
        while True:
            if end := self._ended():
                return end
            silent_s = heartbeat.silent_s()
            if silent_s is not None and silent_s > self._plan.policy.hang_timeout_s:
                return self._end(EndKind.HUNG, f"hung: no heartbeat for {silent_s:.0f} s")
            logs.bound(self._log, self._plan.policy.log_bytes)
            await self._pause(TICK_S)

    def _ended(self) -> End | None:
        if reason := self._limits.exceeded(self._pid):
            return self._end(EndKind.MEMORY, reason)
        if not self._exited.is_set() or self._process is None:
            return None
        code = self._process.returncode
        if code >= 0:
            return self._end(EndKind.EXITED, f"exited with code {code}")
        name = signal.Signals(-code).name
        kind = EndKind.KILLED if code == -signal.SIGKILL else EndKind.EXITED
        return self._end(kind, f"ended by signal {name}")

    def _end(self, kind: EndKind, reason: str) -> End:
        return End(kind, reason, None if self._ready_at is None else time.monotonic() - self._ready_at)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._exited.wait(), seconds)

    @property
    def _pid(self) -> int:
        return self._process.pid if self._process else 0

    def applied_limits(self) -> AppliedLimits:
        """The limits, read back from the kernel and the process; nothing where it is gone already."""
        try:
            return self._limits.applied(self._pid, _thread_bound(self._pid))
        except OSError:
            return AppliedLimits()

    def log_tail(self) -> str:
        """The last lines of this life's log."""
        return logs.last_lines(self._log, LOG_LINES, self._log_start)

    def kill(self) -> None:
        """SIGKILL the whole group."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def finish(self, drain_s: float, *, others_serve: bool = False) -> None:
        """End the process: SIGTERM and up to `drain_s` to drain (0: at once), then SIGKILL; then clean up.

        `others_serve`: other replicas share its ports and take over its callers.
        """
        if self._process and not self._exited.is_set():
            if drain_s > 0:
                if others_serve:
                    divert(self._pid, (self._spec.http_port, self._spec.grpc_port or 0))
                self._process.terminate()
                await self._pause(drain_s)
            if not self._exited.is_set():
                self.kill()
                await self._exited.wait()
        self._limits.close()
        for path in (self._spec_file, self._ready_file, self._beat_file):
            path.unlink(missing_ok=True)


def _thread_bound(pid: int) -> int | None:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    found = [v.partition(b"=")[2] for v in variables if v.startswith(THREAD_VARIABLES[0].encode() + b"=")]
    return int(found[0]) if found else None
