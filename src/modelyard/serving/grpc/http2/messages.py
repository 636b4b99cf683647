"""gRPC's length-prefixed messages: whole ones of a unary call, a stream's one after the other, and compressed ones."""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor as Pool
from struct import Struct
from typing import Final

from modelyard.domain.errors import InvalidInput
from modelyard.serving.faults import TooLarge

PREFIX_BYTES: Final = 5
prefix: Final = Struct(">BI")
"""Whether the message is compressed, and its length."""
_WBITS: Final = {b"gzip": 31, b"deflate": 15}


def too_large(size: int, limit: int) -> TooLarge:
    """The answer to a message beyond the replica's limit."""
    return TooLarge(
        f"the request message of {size} bytes exceeds the limit of {limit} bytes ({limit / 2**20:.3g} MiB)",
        hint="send fewer rows per request, or smaller ones",
    )


def decompress(message: bytes, encoding: bytes, limit: int) -> bytes:
    """Decompress a message to at most `limit` bytes. Raises TooLarge, InvalidInput. For a pool thread."""
    wbits = _WBITS.get(encoding)
    if wbits is None:
        raise InvalidInput("a message is marked as compressed, but grpc-encoding names no compression")
    machine = zlib.decompressobj(wbits)
    try:
        plain = machine.decompress(message, limit + 1)
    except zlib.error as error:
        raise InvalidInput(f"a message is not {encoding.decode()}", why=str(error)) from None
    if len(plain) > limit:
        raise too_large(len(plain), limit)
    if not machine.eof or machine.unused_data:
        raise InvalidInput(f"a message is not one whole {encoding.decode()} stream")
    return plain


class Inbox:
    """A streaming call's messages: fed by the connection, taken by the handler. Event-loop thread only.

    `taken` is called with the bytes of a message that left the inbox. Iteration ends with the client's side of the
    stream, and raises what `end` was given.
    """

    __slots__ = ("_buffer", "_ended", "_error", "_limit", "_pool", "_ready", "_taken", "_waiter", "encoding", "queued")

    def __init__(self, limit: int, encoding: bytes, pool: Pool, taken: Callable[[int], None]) -> None:
        self.encoding = encoding
        self.queued = 0
        """Bytes of whole messages that wait here."""
        self._buffer = bytearray()
        self._ready: deque[tuple[bytes, bool]] = deque()
        self._limit = limit
        self._pool = pool
        self._taken = taken
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def held(self) -> int:
        """Bytes that are here, whole messages or not."""
        return self.queued + len(self._buffer)

    @property
    def ended(self) -> bool:
        """Whether nothing more is taken."""
        return self._ended

    def feed(self, data: bytes) -> None:
        """Take bytes of the stream. Raises TooLarge, InvalidInput."""
        if self._ended:
            return
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= PREFIX_BYTES:
            flag, size = prefix.unpack_from(buffer, at)
            if flag > 1:
                raise InvalidInput("a message has an unknown flag")
            if size > self._limit:
                raise too_large(size, self._limit)
            stop = at + PREFIX_BYTES + size
            if stop > len(buffer):
                break
            self._ready.append((bytes(buffer[at + PREFIX_BYTES : stop]), bool(flag)))
            self.queued += PREFIX_BYTES + size
            at = stop
        if at:
            del buffer[:at]
            self._wake()

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes: the client is done, or something broke."""
        self._ended = True
        if error is None and self._buffer:
            error = InvalidInput("the stream ended within a message")
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> bytes:
        while not self._ready:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message, compressed = self._ready.popleft()
        size = PREFIX_BYTES + len(message)
        self.queued -= size
        self._taken(size)
        if not compressed:
            return message
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, decompress, message, self.encoding, self._limit)
