"""A pool of connections with one request in flight on each: what HTTP/1.1 and gRPC load have in common."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Protocol

from modelyard.profile.client.block import Block
from modelyard.profile.samples import CONNECTION_LOST, TIMED_OUT


class Connection(asyncio.Protocol):
    """Carries one request at a time; `block` is None while it is idle."""

    block: Block | None
    index: int

    async def ready(self) -> None:
        """Wait until requests may be sent. Raises OSError."""

    @abstractmethod
    def send(self, block: Block, index: int, payload: int) -> None:
        """Send a request; ends in `block.complete` after `Pool.free` or `Pool.lost`."""

    @abstractmethod
    def abort(self, status: int) -> None:
        """Give the connection up and complete its request with `status`."""


class Pool(Protocol):
    """What a connection tells its pool."""

    def free(self, connection: Connection) -> None:
        """A connection can take a request."""

    def lost(self, connection: Connection) -> None:
        """A connection is gone; requests that wait need another."""


class PooledTransport:
    """A pool of connections used in turn, so that replicas behind one port all get their share.

    In an open loop a request that finds every connection busy gets a new one, up to `most`; beyond that it waits, and
    its latency (counted from its scheduled time) shows it.
    """

    def __init__(self, host: str, port: int, make: Callable[[Pool], Connection], connections: int, most: int) -> None:
        self._host, self._port, self._make = host, port, make
        self._wanted, self._most = connections, max(most, connections)
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._waiting: deque[tuple[Block, int, int]] = deque()
        self._connecting: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Open the pool's first connections. Raises OSError."""
        for _ in range(self._wanted - len(self._all)):
            await self._connect()

    def send(self, block: Block, index: int, payload: int) -> None:
        """Send on the connection that has been idle longest."""
        idle = self._idle
        if idle:
            idle.popleft().send(block, index, payload)
            return
        self._waiting.append((block, index, payload))
        self._grow()

    def free(self, connection: Connection) -> None:
        """A connection can take a request."""
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """A connection is gone; requests that wait need another."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._waiting:
            self._grow()

    def expire(self, block: Block, now_ns: int) -> None:
        """Abort connections whose request is overdue, and drop overdue requests that wait for a connection."""
        for connection in list(self._all):
            if connection.block is block and block.expired(connection.index, now_ns):
                connection.abort(TIMED_OUT)
        while self._waiting and block.expired(self._waiting[0][1], now_ns):
            block.complete(self._waiting.popleft()[1], TIMED_OUT)

    async def close(self) -> None:
        """Close every connection."""
        for task in self._connecting:
            task.cancel()
        for connection in list(self._all):
            connection.abort(CONNECTION_LOST)

    def _grow(self) -> None:
        if len(self._all) + len(self._connecting) < self._most and len(self._connecting) < len(self._waiting):
            task = asyncio.get_running_loop().create_task(self._connect_late())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect_late(self) -> None:
        try:
            await self._connect()
        except OSError:
            # The service takes no connection: the request that asked for it fails, as it would for a user.
            if self._waiting:
                block, index, _ = self._waiting.popleft()
                block.complete(index, CONNECTION_LOST)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: self._make(self), self._host, self._port)
        await connection.ready()
        self._all.add(connection)
        self.free(connection)
