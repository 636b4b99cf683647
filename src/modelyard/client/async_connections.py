"""Connections of an event loop: one request at a time each, and a bounded pool of them that tasks share."""

from __future__ import annotations

import asyncio
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, cast

from modelyard.client.address import Address
from modelyard.client.failures import cut, late, lost, unreachable
from modelyard.client.options import TransportOptions
from modelyard.client.responses import Response, ResponseReader
from modelyard.client.tensors import Buffer
from modelyard.domain.errors import Conflict, ModelyardError, Unavailable

if TYPE_CHECKING:
    import ssl

_JOINED_BYTES: Final = 128 * 1024
_CLOSING_S: Final = 1.0
"""How long `close` waits for connections to say goodbye (TLS) before it cuts them."""


class AsyncConnection(asyncio.Protocol):
    """One connection; `deadline` is on the clock."""

    def __init__(self, address: Address, options: TransportOptions, clock: Callable[[], float]) -> None:
        self._address = address
        self._options = options
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._poll: select.poll | None = None
        self._reader: ResponseReader | None = None
        self._answer: asyncio.Future[tuple[Response, bool]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = self._started = self._heard = 0.0
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self.idle_since = 0.0

    # --- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        if not self._address.tls:
            self._poll = select.poll()
            self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer; without a question they end the connection."""
        reader, answer = self._reader, self._answer
        if reader is None or answer is None or answer.done():
            self.abort()
            return
        self._heard = self._clock() if self._options.read_timeout_s is not None else 0.0
        try:
            whole = reader.feed(data)
        except ModelyardError as error:
            answer.set_exception(error)
            return
        if whole:
            self._finish(reader, answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """It ended: in the middle of an answer, before one, or while idle."""
        reader, answer, self._transport = self._reader, self._answer, None
        if not self.gone.done():
            self.gone.set_result(None)
        if reader is None or answer is None or answer.done():
            return
        try:
            whole = exc is None and reader.end()
        except ModelyardError as error:
            answer.set_exception(error)
            return
        failure = exc if isinstance(exc, OSError) else None
        if whole:
            self._finish(reader, answer)
        elif reader.started:
            answer.set_exception(cut(self._address.url, failure))
        else:
            answer.set_exception(lost(self._address.url, failure))

    def _finish(self, reader: ResponseReader, answer: asyncio.Future[tuple[Response, bool]]) -> None:
        transport = self._transport
        # an answer before the whole question was sent: the rest of it would be taken for the next question
        clear = transport is not None and transport.get_write_buffer_size() == 0
        if reader.response is not None:
            answer.set_result((reader.response, reader.reusable and clear))

    # --- use

    async def exchange(self, request: Sequence[Buffer], deadline: float) -> tuple[Response, bool]:
        """Send a request; its response, and whether the connection may be used again. Errors as the blocking one's."""
        transport = self._transport
        if transport is None:
            raise lost(self._address.url, None)
        self._reader = ResponseReader(self._options.max_response_bytes)
        answer: asyncio.Future[tuple[Response, bool]] = self._loop.create_future()
        self._answer = answer
        self._started = self._heard = self._clock()
        self._deadline = deadline
        self._watch()
        if sum(map(len, request)) <= _JOINED_BYTES:
            transport.write(b"".join(request))
        else:
            for part in request:
                transport.write(part)
        try:
            return await answer
        finally:
            self._reader = self._answer = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _watch(self) -> None:
        """End the call at its deadline, or when the service was silent for too long."""
        now, patience = self._clock(), self._options.read_timeout_s
        end = self._deadline if patience is None else min(self._deadline, self._heard + patience)
        if now < end:
            self._timer = self._loop.call_later(end - now, self._watch)
        elif self._answer is not None and not self._answer.done():
            self._answer.set_exception(late(self._address.url, now - self._started))

    def is_stale(self) -> bool:
        """Whether it ended, or ended without the loop having seen it yet."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return True
        return self._poll is not None and bool(self._poll.poll(0))

    def close(self) -> None:
        """Close it, gently."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()


class AsyncPool:
    """At most `max_connections` connections to one service; the last one returned is the next one used."""

    def __init__(
        self, address: Address, options: TransportOptions, tls: ssl.SSLContext | None, clock: Callable[[], float]
    ) -> None:
        self._address = address
        self._options = options
        self._tls = tls
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = asyncio.Semaphore(options.max_connections)
        self._idle: deque[AsyncConnection] = deque()
        self._closed = False

    async def exchange(self, request: Sequence[Buffer], deadline: float) -> Response:
        """Send a request on a free connection. Raises as the blocking pool."""
        await self._enter(deadline)
        connection: AsyncConnection | None = None
        reusable = False
        try:
            connection = self._kept() or await self._connect(deadline)
            response, reusable = await connection.exchange(request, deadline)
            return response
        finally:
            self._slots.release()
            if connection is not None:
                if reusable and not self._closed:
                    connection.idle_since = self._clock()
                    self._idle.append(connection)
                elif reusable:
                    connection.close()
                else:
                    connection.abort()

    async def _enter(self, deadline: float) -> None:
        """Take one of the slots."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        elif self._loop is not asyncio.get_running_loop():
            raise Conflict("the client belongs to another event loop", hint="make one client per loop")
        if self._slots.locked():
            try:
                async with asyncio.timeout(deadline - self._clock()):
                    await self._slots.acquire()
            except TimeoutError as error:
                raise Unavailable(
                    f"none of {self._options.max_connections} connections to {self._address.url} got free in time",
                    hint="raise TransportOptions.max_connections or timeout_s",
                ) from error
        else:
            await self._slots.acquire()
        if self._closed:
            self._slots.release()
            raise Conflict("the client is closed", hint="make a new one")

    def _kept(self) -> AsyncConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if self._clock() - connection.idle_since <= self._options.idle_timeout_s and not connection.is_stale():
                return connection
            connection.close()
        return None

    async def _connect(self, deadline: float) -> AsyncConnection:
        started = self._clock()
        try:
            async with asyncio.timeout(min(deadline - started, self._options.connect_timeout_s)):
                return await self._open()
        except TimeoutError as error:
            raise late(self._address.url, self._clock() - started) from error
        except OSError as error:
            raise unreachable(self._address.url, error) from error

    async def _open(self) -> AsyncConnection:
        loop, address = asyncio.get_running_loop(), self._address
        if address.socket_path:
            _, connection = await loop.create_unix_connection(self._connection, address.socket_path)
            return connection
        failure: OSError | None = None
        for family, kind, proto, _, place in await loop.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        ):
            sock = socket.socket(family, kind, proto)
            try:
                sock.setblocking(False)
                await loop.sock_connect(sock, place)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                name = address.host if self._tls is not None else None
                _, connection = await loop.create_connection(
                    self._connection, sock=sock, ssl=self._tls, server_hostname=name
                )
                return connection
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
        raise failure or OSError("the name has no address")

    def _connection(self) -> AsyncConnection:
        return AsyncConnection(self._address, self._options, self._clock)

    async def close(self) -> None:
        """Close idle connections now, and those in use when their call ends."""
        self._closed = True
        idle, self._idle = list(self._idle), deque()
        for connection in idle:
            connection.close()
        if idle:
            _, open_ones = await asyncio.wait([c.gone for c in idle], timeout=_CLOSING_S)
            for connection in idle if open_ones else ():
                connection.abort()
