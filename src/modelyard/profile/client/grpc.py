"""gRPC load: unary calls framed as HTTP/2 by hand, on uvloop.

grpcio's client costs 280 to 400 us of CPU and about a millisecond of latency per call (measured on the project's
2-core machine), more than most services it would measure. A unary call needs little of HTTP/2 (RFC 9113): prebuilt
HEADERS and DATA frames one way, and the trailers' `grpc-status` the other way. The peer is told to use no dynamic
header table, so header blocks (RFC 7541) can be read one by one. One call at a time per connection.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from time import monotonic_ns
from typing import Final, cast

from modelyard.profile.client.block import Block
from modelyard.profile.client.pool import Connection, Pool
from modelyard.profile.samples import CONNECTION_LOST, GRPC_BASE, OK

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW, _MAX_FRAME = 1, 2, 4, 5
_MOST: Final = 2**31 - 1
_UNKNOWN: Final = 2
_READY_TIMEOUT_S: Final = 10.0

_STATUS_NAMES: Final = {b"grpc-status", bytes.fromhex("9acac8b21234da8f")}
"""The name as it is and in the Huffman code of RFC 7541, which is the same bytes from every peer."""
_HUFFMAN_DIGITS: Final = dict(
    zip("0123456789", ((0, 5), (1, 5), (2, 5), *((25 + n, 6) for n in range(7))), strict=True)
)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    return struct.pack(">HBBBI", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def request_headers(authority: str, method: str) -> bytes:
    """The header block of a call, with the static table only."""

    def text(value: str) -> bytes:
        data = value.encode()
        if len(data) > 126:
            raise ValueError(f"header too long: {value}")
        return bytes([len(data)]) + data

    return (
        b"\x83\x86"  # :method POST, :scheme http
        + (b"\x04" + text(method))
        + (b"\x01" + text(authority))
        + (b"\x0f\x10" + text("application/grpc"))
        + (b"\x00" + text("te") + text("trailers"))
    )


def huffman_digits(number: int) -> bytes:
    """A decimal number in the Huffman code of header values, padded with ones."""
    bits, size = 0, 0
    for digit in str(number):
        code, width = _HUFFMAN_DIGITS[digit]
        bits, size = (bits << width) | code, size + width
    padding = -size % 8
    return ((bits << padding) | ((1 << padding) - 1)).to_bytes((size + padding) // 8, "big")


_CODES: Final = {form: code for code in range(17) for form in (str(code).encode(), huffman_digits(code))}


def grpc_status(block: bytes) -> int | None:
    """The `grpc-status` in a header block without dynamic table entries; None where there is none."""
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:  # an entry of the static table
            _, at = _integer(block, at, 7)
        elif first & 0xE0 == 0x20:  # size of the dynamic table
            _, at = _integer(block, at, 5)
        else:
            number, at = _integer(block, at, 6 if first & 0x40 else 4)
            name = b""
            if number == 0:
                name, at = _string(block, at)
            value, at = _string(block, at)
            if name in _STATUS_NAMES:
                return _CODES.get(value, _UNKNOWN)
    return None


def _integer(data: bytes, at: int, prefix: int) -> tuple[int, int]:
    mask = (1 << prefix) - 1
    value, at, shift = data[at] & mask, at + 1, 0
    if value < mask:
        return value, at
    while True:
        byte = data[at]
        value, at, shift = value + ((byte & 0x7F) << shift), at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    length, at = _integer(data, at, 7)
    return data[at : at + length], at + length


class GrpcConnection(Connection):
    """One HTTP/2 connection with at most one open stream."""

    def __init__(self, pool: Pool, headers: bytes, payloads: Sequence[bytes]) -> None:
        self._pool, self._headers, self._payloads = pool, headers, payloads
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = b""
        self._stream = -1
        self._fragments = b""
        self._ends = False
        self._window, self._stream_window = 65535, 65535
        self._first_window, self._largest_frame = 65535, 16384
        self._unsent = memoryview(b"")
        self._received = 0
        self._closing = False
        self.block: Block | None = None
        self.index = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface: no dynamic table, no push, windows that never fill."""
        self._transport = cast(asyncio.Transport, transport)
        settings = ((_HEADER_TABLE_SIZE, 0), (_ENABLE_PUSH, 0), (_INITIAL_WINDOW, _MOST))
        self._transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in settings))
            + frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _MOST - 65535))
        )

    async def ready(self) -> None:
        """Until the peer has taken our settings. Raises OSError."""
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), _READY_TIMEOUT_S)
        except TimeoutError as error:
            raise OSError("no gRPC server answers there") from error

    def send(self, block: Block, index: int, payload: int) -> None:
        """Open a stream with the message; what the windows do not admit follows later."""
        self.block, self.index = block, index
        self._stream += 2
        self._stream_window = self._first_window
        message = self._payloads[payload]
        head = frame(_HEADERS, _END_HEADERS, self._stream, self._headers)
        block.sent[index] = monotonic_ns()
        if len(message) <= min(self._largest_frame, self._window, self._stream_window):
            self._window -= len(message)
            self._write(head + frame(_DATA, _END_STREAM, self._stream, message))
        else:
            self._unsent = memoryview(message)
            self._write(head)
            self._pump()

    def data_received(self, data: bytes) -> None:
        """Take whole frames."""
        if self._buffer:
            data = self._buffer + data
        at, size = 0, len(data)
        while size - at >= 9:
            length = int.from_bytes(data[at : at + 3], "big")
            if size - at < 9 + length:
                break
            stream = int.from_bytes(data[at + 5 : at + 9], "big") & _MOST
            self._take(data[at + 3], data[at + 4], stream, data[at + 9 : at + 9 + length])
            at += 9 + length
        self._buffer = data[at:]

    def abort(self, status: int) -> None:
        """Drop the connection, and so the call."""
        block, self.block = self.block, None
        if self._transport is not None:
            self._transport.abort()
        if block is not None:
            block.complete(self.index, status)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        """The call under way is lost with it."""
        if not self._ready.done():
            self._ready.set_exception(ConnectionError("the gRPC server closed the connection"))
            self._ready.exception()  # marked as seen: nobody may be waiting any more
        block, self.block = self.block, None
        self._pool.lost(self)
        if block is not None:
            block.complete(self.index, CONNECTION_LOST)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._received += len(payload)
            if self._received > _MOST // 2:
                self._write(frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
                self._received = 0
            if flags & _END_STREAM and stream == self._stream:
                self._finish(_UNKNOWN)
        elif kind in (_HEADERS, _CONTINUATION):
            self._take_headers(kind, flags, stream, payload)
        elif kind == _SETTINGS:
            self._take_settings(flags, payload)
        elif kind == _PING and not flags & _ACK:
            self._write(frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big") & _MOST
            if stream == 0:
                self._window += increment
            elif stream == self._stream:
                self._stream_window += increment
            self._pump()
        elif kind == _RST_STREAM and stream == self._stream:
            self._finish(_UNKNOWN)
        elif kind == _GOAWAY:
            self._closing = True
            if self.block is None:
                self._close()

    def _take_headers(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS:
            self._ends = bool(flags & _END_STREAM)
            end = len(payload) - (payload[0] if flags & _PADDED else 0)
            begin = (1 if flags & _PADDED else 0) + (5 if flags & _PRIORITY else 0)
            self._fragments = payload[begin:end]
        else:
            self._fragments += payload
        if flags & _END_HEADERS and self._ends and stream == self._stream:
            status = grpc_status(self._fragments)
            self._finish(_UNKNOWN if status is None else status)

    def _take_settings(self, flags: int, payload: bytes) -> None:
        if flags & _ACK:
            if not self._ready.done():
                self._ready.set_result(None)
            return
        for at in range(0, len(payload), 6):
            name, value = struct.unpack_from(">HI", payload, at)
            if name == _INITIAL_WINDOW:
                self._stream_window += value - self._first_window
                self._first_window = value
            elif name == _MAX_FRAME:
                self._largest_frame = value
        self._write(frame(_SETTINGS, _ACK, 0, b""))
        self._pump()

    def _pump(self) -> None:
        """Send as much of the message as frames and windows admit."""
        while self._unsent and self.block is not None:
            count = min(len(self._unsent), self._largest_frame, self._window, self._stream_window)
            if count <= 0:
                return
            part, self._unsent = self._unsent[:count], self._unsent[count:]
            self._window -= count
            self._stream_window -= count
            self._write(frame(_DATA, 0 if self._unsent else _END_STREAM, self._stream, bytes(part)))

    def _finish(self, code: int) -> None:
        block, index = self.block, self.index
        if block is None:
            return
        self.block = None
        # A server may answer (a refusal) before it has the whole message: the stream is then of no further use.
        half_sent, self._unsent = bool(self._unsent), memoryview(b"")
        if self._closing or half_sent or self._stream > _MOST - 4:
            self._close()
        else:
            self._pool.free(self)
        block.complete(index, OK if code == 0 else GRPC_BASE + code)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
