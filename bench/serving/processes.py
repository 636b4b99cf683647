"""A system under test as processes: started, frozen while others are measured, its memory and CPU read, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

_MARK = "MODELYARD_BENCH_SERVER"
_END_S, _LEAVE_S = 8.0, 1.0
_SETTLE_S, _IDLE_S = 4.0, 0.02


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


class ServerDied(Exception):
    """A server ended, or was not up in time; the message has the end of its log."""


class Server:
    """The processes of one server: its commands, all their descendants, and what they started in sessions of its own.

    Descendants are found by a mark in their environment and by parenthood, because some peers detach their workers and
    some overwrite their environment. Not thread-safe.
    """

    def __init__(self, commands: Sequence[Sequence[str]], env: Mapping[str, str], folder: Path) -> None:
        self._mark = f"{os.getpid()}-{uuid.uuid4().hex}"
        self._log = folder / "server.log"
        whole = {**os.environ, **env, _MARK: self._mark}
        self.started = time.monotonic()
        with self._log.open("ab") as log:
            self._children = [
                subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=whole,
                    cwd=folder,
                    start_new_session=True,
                )
                for command in commands
            ]
        self._frozen: list[psutil.Process] = []
        self._restless = False

    def check(self) -> None:
        """Raises ServerDied where a command has ended."""
        for child in self._children:
            if child.poll() is not None:
                raise ServerDied(f"exit code {child.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        """The last line of the log that says something."""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        told = [line for line in lines if "error" in line.lower() or "exception" in line.lower()]
        return (told or lines or ["its log is empty"])[-1][:300]

    def processes(self) -> list[psutil.Process]:
        """All that live."""
        found = {process.pid: process for process, mark in _marked() if mark == self._mark}
        for child in self._children:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.setdefault(child.pid, psutil.Process(child.pid))
        for process in list(found.values()):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.update({p.pid: p for p in process.children(recursive=True)})
        return list(found.values())

    def memory_bytes(self) -> tuple[int, int]:
        """Resident and proportional set size, summed over all processes.

        RSS counts a page once per process that maps it, PSS once on the whole machine: the truth lies between, because
        another server of the same kind may be up beside this one.
        """
        processes = self.processes()
        rss = sum(_read(p, lambda p: float(p.memory_info().rss)) for p in processes)
        return int(rss), int(sum(_read(p, lambda p: float(p.memory_full_info().pss)) for p in processes))

    def cpu_s(self) -> float:
        """CPU seconds that all processes have used so far."""
        return sum(_read(p, lambda p: float(sum(p.cpu_times()[:2]))) for p in self.processes())

    def settle(self) -> None:
        """Wait until no thread wants a CPU, twice in a row: what a client left behind is worked off then.

        Frozen in the midst of a run, Triton finds its locks timed out when it goes on, and aborts.
        """
        if self._restless:
            return
        deadline = time.monotonic() + _SETTLE_S
        idle = 0
        while time.monotonic() < deadline:
            idle = 0 if any(map(_wants_cpu, self.processes())) else idle + 1
            if idle == 2:
                return
            time.sleep(_IDLE_S)
        self._restless = True  # LitServe with batching turns a loop while nothing is asked

    def freeze(self) -> None:
        """Stop all processes, so that nothing of an idle server runs while another is measured."""
        self._frozen = self.processes()
        _tell(self._frozen, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        _tell(self._frozen, signal.SIGCONT)
        self._frozen = []

    def end(self) -> None:
        """SIGTERM to the commands, after a grace SIGKILL to whatever is left."""
        self.thaw()
        known = self.processes()
        for child in self._children:
            child.terminate()
        deadline = time.monotonic() + _END_S
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
        left = {p.pid: p for p in [*known, *self.processes()]}
        alive = _still(left.values(), _LEAVE_S)
        _tell(alive, signal.SIGKILL)
        for child in self._children:
            child.wait()
        _still(alive, _LEAVE_S)


def end_leftovers() -> int:
    """Kill the servers of runs that were killed themselves, frozen as they may be; how many processes there were."""
    left = [p for p, mark in _marked() if not psutil.pid_exists(int(mark.partition("-")[0]))]
    _tell(left, signal.SIGKILL)
    return len(left)


def _marked() -> Iterator[tuple[psutil.Process, str]]:
    """Processes that a run started, or that inherited its mark, with the mark."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            _, found, rest = path.read_bytes().partition(f"{_MARK}=".encode())
            if found:
                yield psutil.Process(int(path.parent.name)), rest.partition(b"\0")[0].decode()


def _tell(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _still(processes: Iterable[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that run after at most `timeout_s`; what waits to be reaped does not run."""
    deadline = time.monotonic() + timeout_s
    left = list(processes)
    while left := [process for process in left if _runs(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return left


def _wants_cpu(process: psutil.Process) -> bool:
    """Whether a thread of it runs or waits to run."""
    for path in Path(f"/proc/{process.pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if path.read_text().rpartition(")")[2].split()[0] == "R":
                return True
    return False


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _read(process: psutil.Process, figure: Callable[[psutil.Process], float]) -> float:
    """A figure of a process; nothing where it has just ended."""
    try:
        return figure(process)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0.0
