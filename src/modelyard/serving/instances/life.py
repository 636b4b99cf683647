"""One life of a model's process, seen from the replica: start it, run on it, learn how it ended."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Final

import msgspec

from modelyard.domain.errors import BackendFailed, ModelyardError
from modelyard.domain.tensors import Tensor, Tensors
from modelyard.processes import resident_bytes
from modelyard.serving.instances.arena import Arena
from modelyard.serving.instances.exchange import Reader, Writer
from modelyard.serving.instances.frames import (
    ANSWER,
    ARENA,
    FAILURE,
    GROW,
    HEAD,
    LARGEST,
    RUN,
    ChildSpec,
    Description,
    raised,
)
from modelyard.serving.instances.memory import bound

_log = logging.getLogger(__name__)

_LEND_ABOVE: Final = 64 * 1024
"""Outputs larger than this are not copied out of their arena but lent, each run into an arena that nobody views."""
_LENDING_ARENAS: Final = 3
_REFERENCES_UNLENT: Final = 2
"""What sys.getrefcount says of an array that only its arena holds."""
_REAP_S: Final = 5.0
_LINE: Final = 4096


class Life:
    """One process of a model. `run` by one thread at a time; `kill` by any thread; the rest by the keeper's thread."""

    def __init__(self, spec: ChildSpec, memory_limit_bytes: int | None) -> None:
        self.name = f"{spec.name}:{spec.version}"
        self._spec = spec
        self.limit_bytes = memory_limit_bytes
        self.loaded_bytes = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._link, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
        self._killed_for = ""
        self._ended = threading.Event()
        self.ending = ""
        """How the process ended, in words; empty before."""
        self._packet = bytearray(LARGEST)
        self._number = 0
        self._arenas: dict[int, Arena] = {}
        self._lending = False
        self._lenders: list[Arena] = []

    # --- start

    def start(self, limit_s: float, warm_up: Callable[[Life], None] | None = None) -> Description:
        """Start the process, load the model and let `warm_up` run it, all within `limit_s`.

        Raises what loading and warming up raise, BackendFailed if the process ends, says nothing or has more memory
        than its limit; the process is gone then. It ends with the calling thread (PR_SET_PDEATHSIG is by thread): call
        this from one that stays.
        """
        with self._far:
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "modelyard.serving.instances", "--socket", str(self._far.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(self._far.fileno(),),
            )
        threading.Thread(target=_relay, args=(self.name, process.stdout), name="model-log", daemon=True).start()
        self._link.settimeout(limit_s)
        try:
            found = self._greet(process)
            if warm_up is not None:
                warm_up(self)
            self._link.settimeout(None)
        except TimeoutError as error:
            self.kill(f"it was not loaded after {limit_s:g} s")
            raise self._failed_to_start(process) from error
        except OSError as error:
            raise self._failed_to_start(process) from error
        except ModelyardError:
            self.kill("it failed to start")
            self.wait()
            raise
        self.loaded_bytes = resident_bytes(process.pid)
        if self.limit_bytes is not None:
            self._check_size(self.limit_bytes)
            bound(process.pid, self.limit_bytes)
        return found

    def _check_size(self, limit_bytes: int) -> None:
        if self.loaded_bytes <= limit_bytes:
            return
        self.kill("it failed to start")
        self.wait()
        raise BackendFailed(
            f"model '{self.name}' needs more memory than it may use",
            why=f"its process has {self.loaded_bytes / 2**20:.0f} MiB once it is loaded, and the limit is "
            f"{max(limit_bytes, 0) / 2**20:.3g} MiB",
            hint="raise the memory limit of the model, or of the replica",
        )

    def _greet(self, process: subprocess.Popen[bytes]) -> Description:
        pipe = process.stdin
        assert pipe is not None  # noqa: S101 - for the type checker; it was asked for
        with pipe:
            pipe.write(msgspec.json.encode(self._spec))
        frame = self._receive()
        if frame[:1] == FAILURE:
            raise raised(frame[1:])
        try:
            found = msgspec.json.decode(frame[1:], type=Description)
        except msgspec.DecodeError as error:
            raise BackendFailed(f"the process of model '{self.name}' sent a damaged message") from error
        self._writer, self._reader = Writer(found.signature.inputs), Reader(found.signature.outputs)
        self._inputs = tuple(spec.name for spec in found.signature.inputs)
        self._outputs = tuple(spec.name for spec in found.signature.outputs)
        self._given, self._copied = self._replace(None, 1), self._replace(None, 1)
        return found

    def _failed_to_start(self, process: subprocess.Popen[bytes]) -> ModelyardError:
        try:
            process.wait(_REAP_S)
        except subprocess.TimeoutExpired:
            self.kill("it closed its connection")
        return BackendFailed(f"the process of model '{self.name}' did not start", why=self.wait())

    # --- run

    def run(self, tensors: Tensors) -> dict[str, Tensor]:
        """One batch: one copy in, one copy out (by the process). Raises as `Instance.run` does."""
        try:
            return self._run(tensors)
        except OSError as error:
            raise self._lost() from error

    def _run(self, tensors: Tensors) -> dict[str, Tensor]:
        arrays = [tensors[name] for name in self._inputs]
        body = self._writer.write(arrays, self._given)
        while body is None:
            self._writer.forget()
            self._given = self._replace(self._given, self._writer.needed)
            body = self._writer.write(arrays, self._given)
        wanted = self._lender() if self._lending else self._copied
        self._link.send(HEAD.pack(RUN, self._given.number, wanted.number) + body)
        while True:
            frame = self._receive()
            if frame[:1] == FAILURE:
                raise raised(frame[1:])
            kind, first, second = HEAD.unpack_from(frame)
            arena = self._arenas.get(second)
            if kind == ANSWER and arena is not None:
                return self._answered(frame[HEAD.size :], arena)
            if kind != GROW or arena is None:
                self.kill("it sent a damaged message")
                raise ConnectionAbortedError("a damaged message")
            self._grow(arena, first)

    def _answered(self, body: bytes, arena: Arena) -> dict[str, Tensor]:
        if arena is self._copied:
            outputs = [v.copy() for v in self._reader.views(body, arena)]
        else:
            outputs = self._reader.lent(body, arena)
        self._lending = sum(o.nbytes for o in outputs) > _LEND_ABOVE
        return dict(zip(self._outputs, outputs, strict=True))

    def _lender(self) -> Arena:
        """An arena for outputs that nobody views any more; the one that is copied from where all are viewed."""
        for arena in self._lenders:
            if sys.getrefcount(arena.array) == _REFERENCES_UNLENT:
                return arena
        if len(self._lenders) < _LENDING_ARENAS:
            self._lenders.append(self._replace(None, self._copied.size))
            return self._lenders[-1]
        return self._copied

    def _grow(self, small: Arena, needed: int) -> None:
        large = self._replace(small, needed)
        if small is self._copied:
            self._reader.forget()
            self._copied = large
        else:
            self._lenders[self._lenders.index(small)] = large

    def _replace(self, old: Arena | None, needed: int) -> Arena:
        self._number += 1
        arena = self._arenas[self._number] = Arena.make(self._number, needed)
        if old is not None:
            del self._arenas[old.number]
        self._link.send(HEAD.pack(ARENA, arena.number, old.number if old else 0))
        socket.send_fds(self._link, [b"fd"], [arena.fd])
        arena.forget_descriptor()
        return arena

    def _receive(self) -> bytes:
        size = self._link.recv_into(self._packet)
        if size == 0:
            raise ConnectionResetError("the process of the model ended")
        return bytes(self._packet[:size])

    def _lost(self) -> ModelyardError:
        if not self._ended.wait(_REAP_S):
            self.kill("it closed its connection")
        return BackendFailed(f"the process of model '{self.name}' ended", why=self.ending or self._killed_for)

    # --- end

    def kill(self, reason: str) -> None:
        """End the process now; a `run` in flight raises."""
        self._killed_for = self._killed_for or reason
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
        try:
            self._link.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # closed already

    def wait(self) -> str:
        """Until the process has ended; how, in words."""
        process = self._process
        assert process is not None  # noqa: S101 - for the type checker; started
        code = process.wait()
        self.ending = self._killed_for or _ending(code)
        self.kill(self.ending)  # wakes a `run` whose socket a descendant of the process still holds
        self._ended.set()
        return self.ending

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid if self._process is not None else 0


def _ending(code: int) -> str:
    if code >= 0:
        return f"it exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"it was killed by {name}"


def _relay(name: str, pipe: IO[bytes]) -> None:
    """What the model's process prints, into the replica's log."""
    with pipe:
        while line := pipe.readline(_LINE):
            _log.warning("model %s says: %s", name, line.decode(errors="replace").rstrip())
