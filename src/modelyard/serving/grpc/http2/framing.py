"""HTTP/2's framing on asyncio's Protocol: bytes to frames, what frames must look like, what concerns the connection."""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import Final, cast

from modelyard.serving.grpc.http2 import frames, limits
from modelyard.serving.grpc.http2.frames import Code, Violation
from modelyard.serving.grpc.http2.stream import Outbox, Stream

_log = logging.getLogger(__name__)

_OURS: Final = frames.settings(
    {
        frames.MAX_CONCURRENT_STREAMS: limits.MAX_STREAMS,
        frames.INITIAL_WINDOW_SIZE: limits.STREAM_WINDOW,
        frames.MAX_FRAME_SIZE: limits.MAX_FRAME_BYTES,
        frames.MAX_HEADER_LIST_SIZE: limits.MAX_HEADER_LIST_BYTES,
    }
) + frames.window_update(0, limits.CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
DRAIN_PING: Final = b"draining"


class Framing(asyncio.Protocol):
    """The frames of one client connection. Event-loop thread only; no callback of it raises.

    A subclass says what requests are: `on_head`, `on_data`, `on_reset`, and how a connection ends.
    """

    __slots__ = (
        "_block", "_block_flags", "_block_stream", "_buffer", "_continuations", "_need", "_started", "active",
        "block_since", "budget", "dead", "dead_since", "frame_since", "last", "made", "out", "settled", "streams",
        "transport",
    )  # fmt: skip

    out: Outbox

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.budget = limits.Budget()
        self.streams: dict[int, Stream] = {}
        self.last = 0
        """The latest stream that the client opened."""
        self.dead = False
        """After a fatal error: what comes is dropped."""
        self.settled = False
        """Whether the client's SETTINGS have come."""
        self.made = self.active = self.frame_since = self.block_since = perf_counter()
        self.dead_since = 0.0
        self._started = False
        self._buffer = bytearray()
        self._need = len(frames.PREFACE)
        self._block: bytearray | None = None
        self._block_stream = self._block_flags = self._continuations = 0

    # --- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self.transport.set_write_buffer_limits(high=limits.WRITE_HIGH_BYTES)
        self.out = Outbox(self.transport, self.on_answered)
        self.transport.write(_OURS)

    def eof_received(self) -> bool:
        """The client closed its side: it left."""
        return False

    def pause_writing(self) -> None:
        """The client does not read: take nothing more from it."""
        self.out.paused = True
        self.out.progress = perf_counter()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.out.paused = False
        if self.transport is None or self.transport.is_closing():
            return
        self.transport.resume_reading()
        try:
            self.out.pump()
        except RuntimeError:
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Handle every whole frame; the rest waits for more."""
        if self.dead:
            return
        self.active = now = perf_counter()
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._need and self._started:
                return
            data = bytes(self._buffer)
            self._buffer = bytearray()
        try:
            at = self._frames(data, now, 0) if self._started else self._start(data, now)
        except Violation as violation:
            self.die(violation.code, violation.what)
            return
        except RuntimeError:
            self.abort()  # uvloop raises on a transport that is closing but has not told us yet
            return
        except Exception:  # noqa: BLE001 - boundary of a connection
            _log.exception("an HTTP/2 connection failed")
            self.die(Code.INTERNAL_ERROR, "")
            return
        if at < len(data) and not self.dead:
            self._buffer = bytearray(memoryview(data)[at:])
            self.frame_since = now

    @property
    def waits_for_frame(self) -> bool:
        """Whether a frame has begun and is not whole."""
        return bool(self._buffer)

    @property
    def waits_for_block(self) -> bool:
        """Whether a header block has begun and is not whole."""
        return self._block is not None

    # --- frames

    def _start(self, data: bytes, now: float) -> int:
        size = len(frames.PREFACE)
        if not frames.PREFACE.startswith(data[:size]):
            raise Violation("this port speaks gRPC: HTTP/2 with prior knowledge")
        if len(data) < size + 4:
            return 0
        if data[size + 3] != frames.SETTINGS:
            raise Violation("SETTINGS must come first")
        self._started = True
        return self._frames(data, now, size)

    def _frames(self, data: bytes, now: float, at: int) -> int:
        """Handle the whole frames of `data` from `at`; how far that was. Raises Violation."""
        size, unpack = len(data), frames.header.unpack_from
        self._need = frames.HEADER_BYTES
        while size - at >= frames.HEADER_BYTES and not self.dead:
            first, flags, number = unpack(data, at)
            start = at + frames.HEADER_BYTES
            end = start + (first >> 8)
            if end - start > limits.MAX_FRAME_BYTES:
                raise Violation("a frame exceeds SETTINGS_MAX_FRAME_SIZE", code=Code.FRAME_SIZE_ERROR)
            if end > size:
                self._need = end - at
                return at
            kind = first & 0xFF
            number &= 0x7FFFFFFF
            if self._block is not None and (kind != frames.CONTINUATION or number != self._block_stream):
                raise Violation("a header block is interrupted")
            if kind == frames.DATA:
                if number == 0:
                    raise Violation("DATA on stream 0")
                self.on_data(number, flags, data, start, end)
            elif kind == frames.HEADERS:
                self._on_headers(number, flags, data, start, end, now)
            elif kind == frames.WINDOW_UPDATE:
                self._on_window_update(number, data, start, end)
            else:
                self._on_other(kind, number, flags, data[start:end])
            at = end
        return at

    def _on_other(self, kind: int, number: int, flags: int, payload: bytes) -> None:
        if kind == frames.SETTINGS:
            self._on_settings(number, flags, payload)
        elif kind == frames.PING:
            self._on_ping(number, flags, payload)
        elif kind == frames.RST_STREAM:
            if len(payload) != 4:
                raise Violation("RST_STREAM of a wrong length", code=Code.FRAME_SIZE_ERROR)
            self.check_not_idle(number)
            self.on_reset(number)
        elif kind == frames.CONTINUATION:
            self._on_continuation(number, flags, payload)
        elif kind == frames.PRIORITY:
            self.count_noise()
            if number == 0:
                raise Violation("PRIORITY on stream 0")
            if len(payload) != 5:
                raise Violation("PRIORITY of a wrong length", code=Code.FRAME_SIZE_ERROR)
        elif kind == frames.GOAWAY:
            self.count_noise()
            if number or len(payload) < 8:
                raise Violation("a malformed GOAWAY", code=Code.PROTOCOL_ERROR if number else Code.FRAME_SIZE_ERROR)
        elif kind == frames.PUSH_PROMISE:
            raise Violation("a client must not push")
        else:
            self.count_noise()  # of a type that we do not know: ignored (section 4.1)

    def count_noise(self) -> None:
        """Count a frame that asks for work and brings none. Raises Violation where there are too many."""
        if not self.budget.count_noise(self.last >> 1):
            raise Violation("too many control frames", code=Code.ENHANCE_YOUR_CALM)

    def _on_settings(self, number: int, flags: int, payload: bytes) -> None:
        if number:
            raise Violation("SETTINGS on a stream")
        if flags & frames.ACK:
            self.count_noise()
            if payload:
                raise Violation("a SETTINGS acknowledgement with content", code=Code.FRAME_SIZE_ERROR)
            return
        if len(payload) % 6:
            raise Violation("SETTINGS of a wrong length", code=Code.FRAME_SIZE_ERROR)
        self.settled = True
        self.count_noise()
        out = self.out
        for key, value in frames.read_settings(payload):
            if key == frames.INITIAL_WINDOW_SIZE:
                largest = max((s.credit for s in self.streams.values()), default=0)
                if max(value, value + largest) > frames.LARGEST_WINDOW:
                    raise Violation("a window beyond 2^31-1", code=Code.FLOW_CONTROL_ERROR)
                out.initial_window = value
            elif key == frames.MAX_FRAME_SIZE:
                if not frames.SMALLEST_MAX_FRAME <= value <= frames.LARGEST_MAX_FRAME:
                    raise Violation("SETTINGS_MAX_FRAME_SIZE is out of range")
                out.max_frame = min(value, limits.MAX_FRAME_BYTES)
            elif key == frames.HEADER_TABLE_SIZE and value < frames.DEFAULT_TABLE_BYTES:
                out.use_no_table()
            elif key == frames.ENABLE_PUSH and value > 1:
                raise Violation("SETTINGS_ENABLE_PUSH is neither 0 nor 1")
        out.transport.write(frames.SETTINGS_ACK)
        out.pump()

    def _on_ping(self, number: int, flags: int, payload: bytes) -> None:
        if number:
            raise Violation("PING on a stream")
        if len(payload) != 8:
            raise Violation("PING of a wrong length", code=Code.FRAME_SIZE_ERROR)
        self.count_noise()
        if not flags & frames.ACK:
            self.out.transport.write(frames.ping(payload, ack=True))
        elif payload == DRAIN_PING:
            self.on_drain_ping()

    def _on_window_update(self, number: int, data: bytes, start: int, end: int) -> None:
        if end - start != 4:
            raise Violation("WINDOW_UPDATE of a wrong length", code=Code.FRAME_SIZE_ERROR)
        more = frames.u32.unpack_from(data, start)[0] & 0x7FFFFFFF
        out = self.out
        code = Code.FLOW_CONTROL_ERROR if more else Code.PROTOCOL_ERROR
        if number == 0:
            if more == 0 or out.window + more > frames.LARGEST_WINDOW:
                raise Violation("a WINDOW_UPDATE of 0, or beyond 2^31-1", code=code)
            out.window += more
        else:
            stream = self.streams.get(number)
            if stream is None:
                self.check_not_idle(number)
                return
            if more == 0 or out.initial_window + stream.credit + more > frames.LARGEST_WINDOW:
                self.reset(number, code)
                return
            stream.credit += more
        if out.held:
            out.pump()

    def check_not_idle(self, number: int) -> None:
        """Raises Violation for a stream that was never opened."""
        if number > self.last or not number & 1:
            raise Violation("a frame on a stream that was never opened")

    # --- header blocks

    def _on_headers(self, number: int, flags: int, data: bytes, start: int, end: int, now: float) -> None:
        if not number & 1:
            raise Violation("HEADERS on a stream that no client may open")
        if flags & (frames.PADDED | frames.HAS_PRIORITY):
            start, end = unpadded(flags, data, start, end)
            if flags & frames.HAS_PRIORITY:
                start += 5
                if start > end:
                    raise Violation("HEADERS too short for its priority", code=Code.FRAME_SIZE_ERROR)
        block = data[start:end]
        if flags & frames.END_HEADERS:
            self.on_head(number, block, flags, now)
            return
        self._block, self._block_stream, self._block_flags = bytearray(block), number, flags
        self._continuations, self.block_since = 0, now

    def _on_continuation(self, number: int, flags: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise Violation("CONTINUATION without HEADERS")
        block += payload
        self._continuations += 1
        if self._continuations > limits.MAX_CONTINUATIONS or len(block) > limits.MAX_BLOCK_BYTES:
            raise Violation("a header block is too long", code=Code.ENHANCE_YOUR_CALM)
        if flags & frames.END_HEADERS:
            self._block = None
            self.on_head(number, bytes(block), self._block_flags, self.block_since)

    # --- the subclass

    def on_head(self, number: int, block: bytes, flags: int, now: float) -> None:
        """A whole header block of a stream; `now`: when it began. Raises Violation."""
        raise NotImplementedError

    def on_data(self, number: int, flags: int, data: bytes, start: int, end: int) -> None:
        """A DATA frame, whose payload is `data[start:end]`. Raises Violation."""
        raise NotImplementedError

    def on_reset(self, number: int) -> None:
        """The client takes a stream back. Raises Violation."""
        raise NotImplementedError

    def on_answered(self, stream: Stream) -> None:
        """The last frame of an answer is sent."""
        raise NotImplementedError

    def on_drain_ping(self) -> None:
        """The client has seen that we drain."""
        raise NotImplementedError

    def reset(self, number: int, code: Code) -> None:
        """End a stream by RST_STREAM."""
        raise NotImplementedError

    def die(self, code: Code, text: str) -> None:
        """Say GOAWAY and end the connection."""
        raise NotImplementedError

    def abort(self) -> None:
        """End the connection at once."""
        raise NotImplementedError


def unpadded(flags: int, data: bytes, start: int, end: int) -> tuple[int, int]:
    """Where the content of a padded frame is. Raises Violation."""
    if not flags & frames.PADDED:
        return start, end
    if start == end or start + 1 + data[start] > end:
        raise Violation("the padding exceeds the frame")
    return start + 1, end - data[start]
