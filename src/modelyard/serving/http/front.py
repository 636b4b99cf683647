"""What all HTTP connections of a replica share: routes, known heads, limits, and what they hold together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import Executor as Pool
from email.utils import formatdate
from typing import Any, Protocol

from modelyard.domain.errors import Unavailable
from modelyard.serving.http.connection import Connection
from modelyard.serving.http.handling import Handling
from modelyard.serving.http.head import Heads
from modelyard.serving.http.limits import Limits
from modelyard.serving.http.ports import Routes
from modelyard.serving.http.router import REASONS, Router


class Plane(Protocol):
    """What a front counts in and asks of the data plane (`models.dataplane.DataPlane`)."""

    draining: bool
    connections: int
    bad_requests: int
    refused_requests: int


class Unsent:
    """Bytes of answers that clients do not read, over all connections.

    Each connection is bounded by its own back-pressure; this bounds the sum. Above `Limits.max_unsent_bytes` the
    connection that is stuck longest is closed, provided it has been stuck for a while, or the sum is four times that.
    """

    def __init__(self, limits: Limits) -> None:
        self.bytes = 0
        self._limits = limits
        self._by: dict[Connection, tuple[int, float]] = {}  # in the order in which they got stuck

    def note(self, connection: Connection, size: int, now: float) -> None:
        """A stuck connection has `size` bytes waiting now."""
        known = self._by.get(connection)
        self.bytes += size - (known[0] if known else 0)
        self._by[connection] = (size, known[1] if known else now)
        while self.bytes > self._limits.max_unsent_bytes and len(self._by) > 1:
            oldest, (_, since) = next(iter(self._by.items()))
            if now - since < self._limits.unsent_grace_s and self.bytes <= 4 * self._limits.max_unsent_bytes:
                break
            self.forget(oldest)
            oldest.abort()

    def forget(self, connection: Connection) -> None:
        """A connection got rid of its bytes, or is gone."""
        known = self._by.pop(connection, None)
        if known:
            self.bytes -= known[0]


class HttpFront:
    """The HTTP front of a replica. Event-loop thread only."""

    def __init__(self, plane: Plane, routes: Sequence[Routes], pool: Pool, limits: Limits) -> None:
        self.plane = plane
        self.pool = pool
        self.limits = limits
        self.heads = Heads()
        self.router = Router(routes)
        self.handling = Handling(self)
        self.connections: set[Connection] = set()
        self.unsent = Unsent(limits)
        self.held_bytes = 0
        """Of large bodies that are being received or worked on."""
        self.loop = asyncio.get_running_loop()
        self.ok = self._line(200)
        """What a 200 response begins with: status and `Date`."""
        self._lines: dict[int, bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._swept = 0.0

    def connection(self) -> Connection:
        """A protocol for a new connection (the factory that `create_server` takes)."""
        return Connection(self)

    def line(self, status: int) -> bytes:
        """What a response begins with: status line and `Date`, the latter as of the last sweep."""
        return self._lines.get(status) or self._lines.setdefault(status, self._line(status))

    @staticmethod
    def _line(status: int) -> bytes:
        return f"HTTP/1.1 {status} {REASONS[status]}\r\nDate: {formatdate(usegmt=True)}\r\n".encode("ascii")

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine to its end."""
        task = self.loop.create_task(work)
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)

    def hold(self, size: int) -> None:
        """Account for bytes of large bodies (negative: let go). Raises Unavailable where there are too many."""
        if size > 0 and self.held_bytes + size > self.limits.max_held_bytes:
            self.plane.refused_requests += 1
            raise Unavailable(
                "too many large request bodies at the same time",
                hint="send fewer requests at once, or retry later",
                retry_after_s=1.0,
            )
        self.held_bytes += size

    def sweep(self, now: float) -> None:
        """Enforce the deadlines of all connections, renew the date. Call about every second (more while draining).

        What would be over its deadline before the next sweep is ended now: deadlines are never late.
        """
        self._lines.clear()
        self.ok = self._line(200)
        ahead = min(max(now - self._swept, 0.0), 1.0)
        self._swept = now
        for connection in list(self.connections):
            connection.sweep(now, ahead)
