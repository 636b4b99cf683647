"""Orders to a running supervisor: JSON lines over a unix socket in the service's directory.

The engine sends one order; the supervisor answers with one line, or for a roll with a `Trial` that the engine
probes and answers with `Verdict`, then with the final line. A connection that ends before the verdict cancels the roll.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import TypeAlias

import msgspec

from modelyard.dispatch.engines.state import Problem, ServiceDirectory
from modelyard.domain.errors import BackendFailed, Unavailable
from modelyard.domain.services import Endpoint, ReplicaSpec


class Scale(msgspec.Struct, frozen=True, tag="scale"):
    """Have `n` replicas."""

    n: int


class Roll(msgspec.Struct, frozen=True, tag="roll"):
    """Replace every replica by one of `spec`, then have `n` of them."""

    spec: ReplicaSpec
    n: int | None = None


class Verdict(msgspec.Struct, frozen=True, tag="verdict"):
    """What the engine says of a trial replica."""

    good: bool


class Trial(msgspec.Struct, frozen=True, tag="trial"):
    """Where the trial replica of a roll can be probed."""

    endpoint: Endpoint


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The order was carried out, or not."""

    problem: Problem | None = None


Order: TypeAlias = Scale | Roll | Verdict
Answer: TypeAlias = Trial | Done
MAX_LINE_BYTES = 64 * 2**20


class ControlConnection:
    """The engine's side: one order to one supervisor."""

    def __init__(self, directory: ServiceDirectory, timeout_s: float) -> None:
        """Connect. Raises Unavailable if the supervisor does not listen."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        try:
            with directory.address() as address:
                self._socket.connect(address)
        except OSError as error:
            self._socket.close()
            raise Unavailable(
                f"the supervisor of service '{directory.name}' does not answer",
                why=str(error),
                hint=f"see `yard services logs {directory.name}`; `yard services stop {directory.name}` ends it",
            ) from error
        self._lines = self._socket.makefile("rb")

    def send(self, order: Order) -> None:
        """Send an order or a verdict."""
        try:
            self._socket.sendall(msgspec.json.encode(order) + b"\n")
        except OSError as error:
            raise BackendFailed("the supervisor ended before the order was carried out", why=str(error)) from error

    def answer(self) -> Answer:
        """Wait for the next answer. Raises the supervisor's error, BackendFailed if it ends or takes too long."""
        try:
            line = self._lines.readline()
        except OSError as error:
            raise BackendFailed("the supervisor does not answer", why=str(error)) from error
        if not line:
            raise BackendFailed("the supervisor ended before the order was carried out")
        answer: Answer = msgspec.json.decode(line, type=Answer)
        if isinstance(answer, Done) and answer.problem:
            raise answer.problem.error()
        return answer

    def __enter__(self) -> ControlConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lines.close()
        self._socket.close()
