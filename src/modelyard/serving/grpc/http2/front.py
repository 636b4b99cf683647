"""The gRPC front on HTTP/2: what its connections share, its listener, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Coroutine
from concurrent.futures import Executor as Pool
from math import inf
from time import perf_counter
from typing import Any

from modelyard.serving.grpc.fronts import reload_logged
from modelyard.serving.grpc.http2 import limits
from modelyard.serving.grpc.http2.connection import Connection
from modelyard.serving.grpc.http2.heads import SharedHeads
from modelyard.serving.grpc.ports import Methods
from modelyard.serving.http.limits import connections_possible
from modelyard.serving.http.tls import ServerTls
from modelyard.serving.models.dataplane import DataPlane

_BACKLOG = 4096


class Http2Front:
    """What all gRPC connections of a replica share. Event-loop thread only."""

    def __init__(
        self, plane: DataPlane, methods: Methods, pool: Pool, max_body_bytes: int, shared_s: float = inf
    ) -> None:
        self.plane = plane
        self.methods = methods
        self.heads = SharedHeads(methods)
        self.pool = pool
        self.max_body_bytes = max_body_bytes
        self.shared_s = shared_s
        """See `http.limits.Limits.shared_s`; connections end by a drain of their own."""
        self.connections: set[Connection] = set()
        self.max_connections = max(connections_possible() // 3, 1)
        """A quarter of the descriptors; three quarters are HTTP's."""
        self.partial = 0
        """Bytes of requests that are being received."""
        self.loop = asyncio.get_running_loop()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tls: ServerTls | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()

    def connection(self) -> Connection:
        """A protocol for a new connection (the factory that `create_server` takes)."""
        return Connection(self)

    async def listen(self, listener: socket.socket, tls: ServerTls | None = None) -> None:
        """Serve a bound socket; with `tls`, by ALPN `h2`."""
        options: dict[str, Any] = {}
        if tls is not None:
            limit = limits.SETUP_DEADLINE_S
            options = {"ssl": tls.context, "ssl_handshake_timeout": limit, "ssl_shutdown_timeout": limits.LINGER_S}
        self._tls = tls
        self.port = listener.getsockname()[1]
        self._server = await self.loop.create_server(self.connection, sock=listener, backlog=_BACKLOG, **options)

    def reload(self) -> None:
        """Read the TLS files again; where that fails the old ones stay in use."""
        if self._tls is not None:
            reload_logged(self._tls.reload)

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine to its end."""
        task = self.loop.create_task(work)
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)
        return task

    def left(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def sweep(self, now: float) -> None:
        """Enforce the deadlines of all connections. Call about every second (more while draining)."""
        unsent = 0
        for connection in list(self.connections):
            connection.sweep(now)
            unsent += connection.out.held
        if unsent > limits.MAX_UNSENT_BYTES:
            self._cut_slow_readers(unsent)

    def _cut_slow_readers(self, unsent: int) -> None:
        for connection in sorted((c for c in self.connections if c.out.held), key=lambda c: c.out.progress):
            if unsent <= limits.MAX_UNSENT_BYTES:
                return
            unsent -= connection.out.held
            connection.abort()

    async def stop(self, grace: float) -> None:
        """Take no more connections, let open calls end for `grace` seconds, then cut what is left."""
        if self._server is not None:
            self._server.close()
        if self.connections and grace > 0:
            now = perf_counter()
            self._empty.clear()
            for connection in list(self.connections):
                connection.drain(now)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), grace)
        for connection in list(self.connections):
            connection.abort()
