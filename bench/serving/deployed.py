"""A system that serves one model: started, timed until its first answer, checked, put under load, frozen in between."""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.serving import clients
from bench.serving.clients import Load
from bench.serving.messages import Message, WrongAnswer, array_of, array_of_grpc, ask_grpc, ask_rest, compare, message
from bench.serving.models import Model
from bench.serving.processes import Server, ServerDied, free_ports
from bench.serving.systems import Deployment, Launch, System
from modelyard.domain.tensors import Tensors
from modelyard.domain.workload import Protocol

_POLL_S = 0.01
_LATENCIES, _LONGEST_S = 8, 8.0
"""A window has at least so many median latencies, but is never longer than this."""
CANNOT = (ServerDied, WrongAnswer, OSError, subprocess.SubprocessError, TimeoutError)
"""What keeps a peer, or a cell of it, from being measured: it becomes the reason in the table."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A model's file, its requests, and the in-process runtime's answers to them."""

    model: Model
    file: Path
    requests: Sequence[Tensors]
    expected: Sequence[NDArray[np.float32]]


@dataclass(slots=True)
class Deployed:
    """One running server. `answer_bytes`: size of a good gRPC answer as framed, known after the first check."""

    system: System
    workload: Workload
    python: str
    batching: bool
    threads: int
    launch: Launch
    server: Server
    folder: Path
    scratch: Path
    http_port: int
    grpc_port: int
    cold_start_s: float = 0.0
    answer_bytes: int = 0
    messages: dict[Protocol, list[Message]] = field(default_factory=dict)
    windows_s: dict[tuple[Protocol, int], float] = field(default_factory=dict)

    @classmethod
    def start(
        cls, system: System, workload: Workload, python: str, *, batching: bool, threads: int, folder: Path
    ) -> Deployed:
        """Start, and wait for the first right answer. Raises one of CANNOT; nothing is left running then."""
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        scratch = Path(tempfile.mkdtemp(prefix="bench-"))
        ports = free_ports(7)
        max_batch = workload.model.max_batch if batching else 1
        deployment = Deployment(
            workload.model,
            workload.file,
            max_batch,
            threads,
            folder,
            scratch,
            python,
            ports[0],
            ports[1],
            tuple(ports[2:]),
        )
        try:
            launch = system.launch(deployment)
            server = Server(launch.commands, launch.env, folder)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        deployed = cls(system, workload, python, batching, threads, launch, server, folder, scratch, ports[0], ports[1])
        try:
            deployed._await()
        except BaseException:
            deployed.end()
            raise
        return deployed

    def restarted(self) -> Deployed:
        """The same, started again after it died. Raises one of CANNOT."""
        self.end()
        batching, threads = self.batching, self.threads
        return Deployed.start(
            self.system, self.workload, self.python, batching=batching, threads=threads, folder=self.folder
        )

    def rest(self) -> None:
        """Let it work off what is left, and freeze it until `server.thaw()`."""
        self.server.settle()
        self.server.freeze()

    def end(self) -> None:
        """End its processes, remove what they left outside their folder."""
        self.server.end()
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self.launch.shared_memory:
            for path in Path("/dev/shm").glob(f"{self.launch.shared_memory}*"):
                path.unlink(missing_ok=True)

    def check(self, protocol: Protocol) -> None:
        """Every message answered once, with the in-process runtime's values. Raises WrongAnswer or OSError."""
        for sent, expected in zip(self._messages(protocol), self.workload.expected, strict=True):
            self._ask(sent, protocol, expected)

    def load(self, protocol: Protocol, connections: int, seconds: float) -> tuple[Load, float]:
        """One timed cell and the server's CPU seconds; longer than `seconds` where a request takes a good part of them.

        What is in flight when the time is over is not counted: with a window of a few latencies that would be much.
        """
        given = max(seconds, self.windows_s.get((protocol, connections), 0.0))
        load, used = self.timed(protocol, connections, given)
        needed = min(float(math.ceil(_LATENCIES * load.p50_ms / 1e3)), _LONGEST_S)
        if self.workload.model.slow or needed <= given:
            return load, used
        self.windows_s[protocol, connections] = needed
        return self.timed(protocol, connections, needed)

    def timed(self, protocol: Protocol, connections: int, seconds: float) -> tuple[Load, float]:
        """The same for `seconds`, whatever the latency."""
        before = self.server.cpu_s()
        load = self._client(protocol, connections, seconds)
        return load, self.server.cpu_s() - before

    def _client(self, protocol: Protocol, connections: int, seconds: float) -> Load:
        sent = self._messages(protocol)
        if self.workload.model.slow:
            path = "" if protocol is Protocol.GRPC else self.launch.path
            port = self.grpc_port if protocol is Protocol.GRPC else self.http_port
            return clients.cycles(self.folder, port, path, sent, connections, seconds)
        if protocol is Protocol.GRPC:
            return clients.h2load(self.folder, self.grpc_port, sent, connections, seconds, self.answer_bytes)
        return clients.wrk(self.folder, self.http_port, self.launch.path, sent, connections, seconds)

    def _messages(self, protocol: Protocol) -> list[Message]:
        if protocol not in self.messages:
            form, name = self.system.form, self.workload.model.name
            self.messages[protocol] = [message(t, protocol, form, name) for t in self.workload.requests]
        return self.messages[protocol]

    def _ask(self, sent: Message, protocol: Protocol, expected: NDArray[np.float32]) -> None:
        if self.system.limit:
            if protocol is not Protocol.GRPC:
                ask_rest(self.http_port, self.launch.path, sent)
            return
        if protocol is Protocol.GRPC:
            answer = ask_grpc(self.grpc_port, sent)
            self.answer_bytes = 5 + len(answer)
            compare(array_of_grpc(answer), expected)
        else:
            compare(array_of(*ask_rest(self.http_port, self.launch.path, sent), self.system.form), expected)

    def _await(self) -> None:
        """Until the first right answer over REST and, of several replicas, until all are up."""
        first, expected = self._messages(Protocol.HTTP_JSON)[0], self.workload.expected[0]
        deadline = self.server.started + self.system.start_timeout_s
        while True:
            self.server.check()
            try:
                self._ask(first, Protocol.HTTP_JSON, expected)
                if all(path.exists() for path in self.launch.ready):
                    break
            except (OSError, WrongAnswer) as error:
                if time.monotonic() > deadline:
                    said = self.server.last_words()
                    raise ServerDied(
                        f"no answer in {self.system.start_timeout_s:g} s ({error}); log: {said}"
                    ) from error
            time.sleep(_POLL_S)  # a server tells nobody when it is ready
        self.cold_start_s = time.monotonic() - self.server.started
