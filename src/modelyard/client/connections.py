"""Blocking connections: one request at a time each, and a bounded pool of them that threads share."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from modelyard.client.address import Address
from modelyard.client.failures import cut, late, lost, unreachable
from modelyard.client.options import TransportOptions
from modelyard.client.responses import Response, ResponseReader
from modelyard.client.tensors import Buffer
from modelyard.domain.errors import Conflict, Unavailable

if TYPE_CHECKING:
    import ssl

_READ_BYTES: Final = 64 * 1024
_LARGE_READ_BYTES: Final = 1024 * 1024
_JOINED_BYTES: Final = 128 * 1024
"""Requests up to this size go out by one write."""


class Connection:
    """One connection. Not thread-safe. `deadline`: on the clock, everywhere."""

    __slots__ = ("_address", "_clock", "_options", "_poll", "_socket", "_tls", "idle_since")

    def __init__(
        self,
        address: Address,
        options: TransportOptions,
        tls: ssl.SSLContext | None,
        clock: Callable[[], float],
        deadline: float,
    ) -> None:
        """Connect. Raises Unreached, Unavailable, Rejected (a certificate that is not trusted)."""
        self._address = address
        self._options = options
        self._clock = clock
        self._tls = tls is not None
        self.idle_since = 0.0
        patience = min(deadline, clock() + options.connect_timeout_s)
        started = clock()
        try:
            self._socket = self._connect(patience)
            if tls is not None:
                self._secure(tls, patience)
        except TimeoutError as error:
            raise late(address.url, clock() - started) from error
        except OSError as error:
            raise unreachable(address.url, error) from error
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def _connect(self, deadline: float) -> socket.socket:
        address = self._address
        if address.socket_path:
            return self._open(socket.AF_UNIX, socket.SOCK_STREAM, 0, address.socket_path, deadline)
        failure: OSError | None = None
        for family, kind, proto, _, place in socket.getaddrinfo(address.host, address.port, 0, socket.SOCK_STREAM):
            try:
                sock = self._open(family, kind, proto, place, deadline)
            except OSError as error:
                failure = error
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        raise failure or OSError("the name has no address")

    def _open(self, family: int, kind: int, proto: int, place: object, deadline: float) -> socket.socket:
        sock = socket.socket(family, kind, proto)
        try:
            sock.settimeout(self._left(deadline))
            sock.connect(place)  # type: ignore[arg-type]  # what getaddrinfo gave, or a path
        except BaseException:
            sock.close()
            raise
        return sock

    def _secure(self, tls: ssl.SSLContext, deadline: float) -> None:
        plain = self._socket
        try:
            plain.settimeout(self._left(deadline))
            self._socket = tls.wrap_socket(plain, server_hostname=self._address.host)
        except BaseException:
            plain.close()
            raise

    def _left(self, deadline: float) -> float:
        """Seconds until the deadline. Raises TimeoutError where there are none (0 would mean another thing)."""
        left = deadline - self._clock()
        if left <= 0:
            raise TimeoutError
        return left

    def exchange(self, request: Sequence[Buffer], deadline: float) -> tuple[Response, bool]:
        """Send a request; its response, and whether the connection may be used again.

        Raises Unreached where it was lost before the first byte of an answer, Unavailable where it broke later or the
        deadline passed, BackendFailed for an answer that breaks the protocol. After an error it must be closed.
        """
        started = self._clock()
        reader = ResponseReader(self._options.max_response_bytes)
        failure: OSError | None = None
        try:
            try:
                self._send(request, deadline)
            except TimeoutError:
                raise
            except OSError as error:
                failure = error  # it may have answered before it stopped listening: 413, 401
            self._receive(reader, deadline)
        except TimeoutError as error:
            raise late(self._address.url, self._clock() - started) from error
        except OSError as error:
            failure = failure or error
        response = reader.response
        if response is None:
            raise cut(self._address.url, failure) if reader.started else lost(self._address.url, failure)
        return response, reader.reusable and failure is None

    def _send(self, request: Sequence[Buffer], deadline: float) -> None:
        sock = self._socket
        if sum(map(len, request)) <= _JOINED_BYTES:
            request = (b"".join(request),)
        for part in request:
            sock.settimeout(self._left(deadline))
            sock.sendall(part)

    def _receive(self, reader: ResponseReader, deadline: float) -> None:
        sock, patience, size = self._socket, self._options.read_timeout_s, _READ_BYTES
        while True:
            left = self._left(deadline)
            sock.settimeout(left if patience is None or left < patience else patience)
            data = sock.recv(size)
            if not data:
                reader.end()
                return
            if reader.feed(data):
                return
            size = _LARGE_READ_BYTES if len(data) == size else size

    def is_stale(self) -> bool:
        """Whether the service closed it, or said something unasked: it cannot be used again."""
        if not self._poll.poll(0):
            return False
        if not self._tls:
            return True
        import ssl

        try:  # TLS says things of its own, such as session tickets
            self._socket.setblocking(False)
            self._socket.recv(1)
        except (ssl.SSLWantReadError, BlockingIOError):
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(OSError):
            self._socket.close()


class Pool:
    """At most `max_connections` connections to one service; the last one returned is the next one used. Thread-safe."""

    def __init__(
        self,
        address: Address,
        options: TransportOptions,
        tls: ssl.SSLContext | None,
        clock: Callable[[], float],
    ) -> None:
        self._address = address
        self._options = options
        self._tls = tls
        self._clock = clock
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._idle: deque[Connection] = deque()
        self._open = 0
        self._changed = threading.Condition(threading.Lock())
        self._waiting = 0

    def exchange(self, request: Sequence[Buffer], deadline: float) -> Response:
        """Send a request on a free connection. Raises as `Connection` does, Unavailable if none gets free."""
        connection = self._take(deadline)
        reusable = False
        try:
            if connection is None:
                connection = Connection(self._address, self._options, self._tls, self._clock, deadline)
            response, reusable = connection.exchange(request, deadline)
            return response
        finally:
            self._give(connection, reusable=reusable)

    def _take(self, deadline: float) -> Connection | None:
        """A connection, or the right to open one (None)."""
        if os.getpid() != self._pid:
            self._begin()  # a fork: its connections are the parent's, and two must not talk on one
        while True:
            with self._changed:
                connection = self._next(deadline)
            if connection is None or not self._unusable(connection):
                return connection
            connection.close()
            with self._changed:
                self._open -= 1

    def _next(self, deadline: float) -> Connection | None:
        while True:
            if self._closed:
                raise Conflict("the client is closed", hint="make a new one")
            if self._idle:
                return self._idle.pop()
            if self._open < self._options.max_connections:
                self._open += 1
                return None
            left = deadline - self._clock()
            self._waiting += 1
            try:
                freed = left > 0 and self._changed.wait(left)
            finally:
                self._waiting -= 1
            if not freed:
                raise Unavailable(
                    f"none of {self._options.max_connections} connections to {self._address.url} got free in time",
                    hint="raise TransportOptions.max_connections or timeout_s",
                )

    def _unusable(self, connection: Connection) -> bool:
        return self._clock() - connection.idle_since > self._options.idle_timeout_s or connection.is_stale()

    def _give(self, connection: Connection | None, *, reusable: bool) -> None:
        dropped = connection
        with self._changed:
            if connection is not None and reusable and not self._closed:
                connection.idle_since = self._clock()
                self._idle.append(connection)
                dropped = None
            else:
                self._open -= 1
            if self._waiting:
                self._changed.notify()
        if dropped is not None:
            dropped.close()

    def close(self) -> None:
        """Close idle connections now, and those in use when their call ends. Waiting calls fail."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, deque()
            self._open -= len(idle)
            self._changed.notify_all()
        for connection in idle:
            connection.close()
