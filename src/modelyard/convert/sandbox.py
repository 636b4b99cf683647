"""The parent's side of a child process: start it, watch time and memory, keep its log, leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import msgspec

from modelyard.convert.tasks import Answer, Problem, Task
from modelyard.processes import process_tree, resident_bytes

_POLL_S = 0.02
_TREE_EVERY = 5  # polls between two walks of the process tree; the known processes are read at every poll
_PIPE_READS = 256  # pages of a pipe at its largest (fs.pipe-max-size, 1 MiB), each read giving at least one
_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TZ")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one child: seconds to convert, seconds to run, resident bytes of its whole process tree, log bytes.

    `run_s` 0: as long as a conversion, so that one setting bounds both and raising it helps both.
    """

    convert_s: float = 300.0
    run_s: float = 0.0
    memory_bytes: int = 8 << 30
    log_bytes: int = 256 << 10

    def __post_init__(self) -> None:
        if not self.run_s:
            object.__setattr__(self, "run_s", self.convert_s)


class End(StrEnum):
    """How a child ended. `ANSWERED` may still carry a problem that it named itself."""

    ANSWERED = "answered"
    CRASHED = "crashed"
    TIMED_OUT = "timed-out"
    OUT_OF_MEMORY = "out-of-memory"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of a child after its end. `detail` says in words what happened to it."""

    end: End
    detail: str
    answer: Answer | None
    log: str
    duration_s: float
    peak_memory_bytes: int

    @property
    def problem(self) -> Problem | None:
        return self.answer.problem if self.answer else None


class ChildRunner:
    """Runs tasks, each in its own process group, environment and directory. Thread-safe.

    `cancel()` kills every running child and makes later runs end at once as cancelled.
    """

    def __init__(self, limits: Limits, *, threads: int = 1, python: str = sys.executable) -> None:
        self._limits = limits
        self._threads = threads
        self._python = python
        self._cancelled = threading.Event()

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def threads(self) -> int:
        return self._threads

    def cancel(self) -> None:
        """Kill all children that run; refuse new ones."""
        self._cancelled.set()

    def run(self, task: Task, directory: Path, timeout_s: float) -> Report:
        """Run `task` in `directory` (made if missing); wait for its end, whatever it is.

        An exception in the waiting thread (Ctrl-C) kills the child before it goes on.
        """
        scratch = directory / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        answer, task_file = directory / "answer.json", directory / "task.json"
        answer.unlink(missing_ok=True)
        task = replace(task, answer=str(answer), writable=(*task.writable, str(directory)), parent=os.getpid())
        task_file.write_bytes(msgspec.json.encode(task))
        try:
            return self._watch(task_file, answer, scratch, timeout_s)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _watch(self, task_file: Path, answer: Path, scratch: Path, timeout_s: float) -> Report:
        started = time.monotonic()
        process = subprocess.Popen(
            [self._python, "-P", "-m", "modelyard.convert.child", str(task_file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=scratch,
            env=self._environment(scratch),
            start_new_session=True,
        )
        watch = _Watch(process, self._limits)
        try:
            end = watch.until_end(started + timeout_s, self._cancelled)
        finally:
            watch.kill()
        return self._report(end, process.returncode, answer, watch, time.monotonic() - started, timeout_s)

    def _report(
        self, end: End | None, status: int, answer: Path, watch: _Watch, duration_s: float, timeout_s: float
    ) -> Report:
        decoded = None
        if end is None:
            try:
                decoded = msgspec.json.decode(answer.read_bytes(), type=Answer)
            except (OSError, msgspec.MsgspecError):
                end = End.CRASHED
        detail = {
            None: "",
            End.CRASHED: f"the child process {_status_words(status)} without an answer",
            End.TIMED_OUT: f"the child process was stopped after {timeout_s:g} s",
            End.OUT_OF_MEMORY: f"the child process was stopped at {watch.peak_bytes / 2**20:.0f} MiB; the limit is "
            f"{self._limits.memory_bytes / 2**20:.0f} MiB",
            End.CANCELLED: "the child process was stopped because the work was cancelled",
            End.ANSWERED: "",
        }[end]
        return Report(end or End.ANSWERED, detail, decoded, watch.log, duration_s, watch.peak_bytes)

    def _environment(self, scratch: Path) -> dict[str, str]:
        """A small environment of its own: no credentials of the user's, no telemetry, no GPU, bounded threads."""
        kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        threads = str(self._threads)
        return kept | {
            "HOME": str(scratch),
            "TMPDIR": str(scratch),
            "XDG_CACHE_HOME": str(scratch),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": "1",  # no threads at numpy's import: the child forks into its namespace after it
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONHASHSEED": "0",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }


class _Watch:
    """Waits for one process: exit, output, clock and memory in one loop."""

    def __init__(self, process: subprocess.Popen[bytes], limits: Limits) -> None:
        self._process = process
        self._limits = limits
        self._head: list[bytes] = []
        self._head_left = limits.log_bytes // 2
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._dropped = 0
        self.peak_bytes = 0

    def until_end(self, deadline: float, cancelled: threading.Event) -> End | None:
        """Return None when the process ended by itself, else why it must be killed."""
        pipe = self._process.stdout
        assert pipe is not None  # noqa: S101 - opened with PIPE
        os.set_blocking(pipe.fileno(), False)
        pidfd = os.pidfd_open(self._process.pid)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.register(pipe, select.POLLIN)
        tree: Sequence[int] = ()
        polls = 0
        next_check = 0.0
        try:
            while True:
                ready = {fd for fd, _ in poller.poll(_POLL_S * 1000)}
                if pipe.fileno() in ready and not self._read(pipe.fileno()):
                    poller.unregister(pipe)
                if pidfd in ready:
                    self._read(pipe.fileno())
                    return None
                now = time.monotonic()
                if now < next_check:  # a chatty child must not make us read /proc at every line
                    continue
                next_check = now + _POLL_S / 2
                if polls % _TREE_EVERY == 0:
                    tree = process_tree(self._process.pid)
                polls += 1
                used = sum(map(resident_bytes, tree))
                self.peak_bytes = max(self.peak_bytes, used)
                if used > self._limits.memory_bytes:
                    return End.OUT_OF_MEMORY
                if now > deadline:
                    return End.TIMED_OUT
                if cancelled.is_set():
                    return End.CANCELLED
        finally:
            os.close(pidfd)

    def kill(self) -> None:
        """Kill the process group and what its members started, then reap the child."""
        tree = process_tree(self._process.pid) if self._process.poll() is None else []
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pid in tree:  # those that left the group; inside a PID namespace the kernel does this too
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def _read(self, fd: int) -> bool:
        """Take what the pipe holds now, up to what a pipe can hold; False at its end."""
        for _ in range(_PIPE_READS):
            try:
                chunk = os.read(fd, 65536)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            self._keep(chunk)
        return True

    def _keep(self, chunk: bytes) -> None:
        if self._head_left:
            taken = chunk[: self._head_left]
            self._head.append(taken)
            self._head_left -= len(taken)
            chunk = chunk[len(taken) :]
        if chunk:
            self._tail.append(chunk)
            self._tail_bytes += len(chunk)
            while self._tail_bytes > self._limits.log_bytes // 2 and len(self._tail) > 1:
                gone = self._tail.popleft()
                self._tail_bytes -= len(gone)
                self._dropped += len(gone)

    @property
    def log(self) -> str:
        """Output kept: the first and the last part, with the number of bytes left out between them."""
        cut = [f"\n... {self._dropped} bytes left out ...\n".encode()] if self._dropped else []
        return b"".join([*self._head, *cut, *self._tail]).decode(errors="replace")


def _status_words(status: int) -> str:
    number = -status if status < 0 else status - 128
    if number > 0:
        try:
            return f"was killed by {signal.Signals(number).name}"
        except ValueError:
            pass
    return f"ended with status {status}"
