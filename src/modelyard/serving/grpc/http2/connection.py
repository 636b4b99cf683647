"""One client's calls over HTTP/2: stream states, flow control of requests, answers, deadlines, the end.

No task, timer, closure or exception per inference.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Final

from modelyard.domain.errors import InvalidInput, ModelyardError, Unavailable
from modelyard.serving.faults import Expired
from modelyard.serving.grpc.http2 import frames, limits
from modelyard.serving.grpc.http2.answers import HEAD, OK, Status, field, of_error, trailers
from modelyard.serving.grpc.http2.calls import infer, start_stream, start_unary
from modelyard.serving.grpc.http2.frames import Code, Violation
from modelyard.serving.grpc.http2.framing import DRAIN_PING, Framing, unpadded
from modelyard.serving.grpc.http2.heads import Heads, RequestHead
from modelyard.serving.grpc.http2.messages import PREFIX_BYTES, Inbox, prefix, too_large
from modelyard.serving.grpc.http2.stream import Stream
from modelyard.serving.http.limits import connection_ends

if TYPE_CHECKING:
    from modelyard.serving.grpc.http2.front import Http2Front

_KEEPALIVE_PING: Final = b"keepaliv"
_RESET_KEPT: Final = 256
"""Streams we reset whose late frames are expected, and ignored."""
_UNKNOWN: Final = -1
_REFUSED_KEPT: Final = 64
"""Connections beyond the most that are told so; further ones are only cut."""


class Connection(Framing):
    """One client connection. Event-loop thread only; no callback of it raises."""

    __slots__ = (
        "_drain_ended",
        "_drain_since",
        "_heads",
        "_left",
        "_partial",
        "_pinged",
        "_reset",
        "_swept",
        "_until",
        "front",
    )

    def __init__(self, front: Http2Front) -> None:
        super().__init__()
        self.front = front
        self._heads = Heads(front.heads)
        self._left = limits.CONNECTION_WINDOW
        self._partial = 0
        self._reset: deque[int] = deque(maxlen=_RESET_KEPT)
        self._drain_since = 0.0
        self._drain_ended = False
        self._pinged = 0.0
        self._swept = self.made
        self._until = connection_ends(self.made, front.shared_s, len(front.connections))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection."""
        super().connection_made(transport)
        front = self.front
        front.connections.add(self)
        if len(front.connections) > front.max_connections:
            self.die(Code.ENHANCE_YOUR_CALM, "too many connections")
            if len(front.connections) > front.max_connections + _REFUSED_KEPT:
                self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """The client left: what it still waits for need not run."""
        self.transport = None
        self.dead = True
        self._abandon_all()
        self.out.close()
        self.front.left(self)

    # --- requests

    def on_head(self, number: int, block: bytes, flags: int, now: float) -> None:
        """Open a stream, or take its trailers."""
        head = self._heads.known.get(block) or self._heads.read(block)
        if number <= self.last:
            self._on_trailers(number, head, flags)
            return
        self.last = number
        if head.malformed:
            self.reset(number, Code.PROTOCOL_ERROR)
            return
        if len(self.streams) >= limits.MAX_STREAMS or self.out.held > limits.MAX_OUTPUT_BYTES or self._drain_ended:
            self.reset(number, Code.REFUSED_STREAM)
            return
        stream = self.streams[number] = Stream(number, head, now)
        method = head.method
        if head.answer or method is None:
            stream.ended = bool(flags & frames.END_STREAM)
            self.out.end(stream, head.answer)
            return
        if method.stream is not None:
            front = self.front
            inbox = Inbox(front.max_body_bytes, head.encoding, front.pool, lambda n: self._taken(stream, n))
            start_stream(self, stream, method, inbox)
        if flags & frames.END_STREAM:
            self._end_request(stream)

    def _on_trailers(self, number: int, head: RequestHead, flags: int) -> None:
        """A second header block on a stream: its end, or a mistake."""
        stream = self.streams.get(number)
        if stream is None or stream.ended:
            if number not in self._reset:
                self.reset(number, Code.STREAM_CLOSED)
        elif not head.trailing or not flags & frames.END_STREAM:
            self.reset(number, Code.PROTOCOL_ERROR)
        else:
            self._end_request(stream)

    def on_data(self, number: int, flags: int, data: bytes, start: int, end: int) -> None:
        """Take a part of a request; the common case, a unary call's whole message, takes no buffer."""
        size = end - start
        self._left -= size
        if self._left < limits.CONNECTION_WINDOW // 2:
            if self._left < 0:
                raise Violation("more DATA than the connection's window", code=Code.FLOW_CONTROL_ERROR)
            self.out.transport.write(frames.window_update(0, limits.CONNECTION_WINDOW - self._left))
            self._left = limits.CONNECTION_WINDOW
        stream = self.streams.get(number)
        if stream is None or stream.ended:
            self.check_not_idle(number)
            if number not in self._reset:
                self.reset(number, Code.STREAM_CLOSED)
            return
        if flags & frames.PADDED:
            start, end = unpadded(flags, data, start, end)
        stream.received += end - start
        if flags & frames.END_STREAM and stream.buffer is None and stream.inbox is None:
            self._on_whole(stream, data, start, end)
            return
        stream.unacked += size
        if stream.unacked > limits.STREAM_WINDOW:
            self.reset(number, Code.FLOW_CONTROL_ERROR)
            return
        if start == end and not flags & frames.END_STREAM:
            self.count_noise()
        if self._on_part(stream, data[start:end]):
            if flags & frames.END_STREAM:
                self._end_request(stream)
            else:
                self._give_back(stream)

    def _on_whole(self, stream: Stream, data: bytes, start: int, end: int) -> None:
        stream.ended = True
        length = stream.head.content_length
        if length not in (end - start, _UNKNOWN):
            self.reset(stream.id, Code.PROTOCOL_ERROR)
        elif end - start < PREFIX_BYTES:
            self.refuse(stream, Status.INTERNAL, "the request has no whole message")
        else:
            compressed, size = prefix.unpack_from(data, start)
            if end - start - PREFIX_BYTES != size:
                self.refuse(stream, Status.INTERNAL, "a unary request must be exactly one message")
            else:
                self._call(stream, data[start + PREFIX_BYTES : end], compressed)

    def _on_part(self, stream: Stream, part: bytes) -> bool:
        """Any other DATA; False where the stream ended by it."""
        limit, inbox = self.front.max_body_bytes, stream.inbox
        if inbox is not None:
            self._feed(inbox, part)
            return True
        buffer = stream.buffer
        if buffer is None:
            buffer = stream.buffer = bytearray()
        buffer += part
        self._count_partial(len(part))
        size = prefix.unpack_from(buffer)[1] if len(buffer) >= PREFIX_BYTES else 0
        if size > limit:
            self.reject(stream, too_large(size, limit))
        elif len(buffer) > size + PREFIX_BYTES:
            self.refuse(stream, Status.INTERNAL, "a unary request must be exactly one message")
        elif self._holds_too_much():
            self.fail(stream, self._too_much())
        else:
            return True
        return False

    def _feed(self, inbox: Inbox, part: bytes) -> None:
        before = inbox.held
        try:
            inbox.feed(part)
        except InvalidInput as error:
            inbox.end(error)
        self._count_partial(inbox.held - before)
        if self._holds_too_much() and not inbox.ended:
            inbox.end(self._too_much())

    def _too_much(self) -> Unavailable:
        self.front.plane.refused_requests += 1
        return Unavailable("the requests that are being received take too much memory", retry_after_s=1.0)

    def _holds_too_much(self) -> bool:
        own = 2 * self.front.max_body_bytes + PREFIX_BYTES
        return self._partial > own or self.front.partial > limits.MAX_PARTIAL_BYTES

    def _give_back(self, stream: Stream) -> None:
        """Let the client send on, unless the handler is behind."""
        if stream.unacked > limits.STREAM_WINDOW // 2 and not stream.ended:
            inbox = stream.inbox
            if inbox is None or inbox.queued < limits.STREAM_WINDOW:
                self.out.transport.write(frames.window_update(stream.id, stream.unacked))
                stream.unacked = 0

    def _taken(self, stream: Stream, size: int) -> None:
        """A streaming call's handler took a message."""
        if self.transport is not None and stream.id in self.streams:
            self._count_partial(-size)
            try:
                self._give_back(stream)
            except RuntimeError:
                self.abort()

    def _end_request(self, stream: Stream) -> None:
        """The client's side of a stream is done."""
        stream.ended = True
        buffer, stream.buffer = stream.buffer, None
        if buffer is not None:
            self._count_partial(-len(buffer))
        if stream.head.content_length not in (stream.received, _UNKNOWN):
            self.reset(stream.id, Code.PROTOCOL_ERROR)
        elif stream.inbox is not None:
            stream.inbox.end()
        elif buffer is None or len(buffer) < PREFIX_BYTES:
            self.refuse(stream, Status.INTERNAL, "the request has no whole message")
        else:
            compressed, size = prefix.unpack_from(buffer)
            if size != len(buffer) - PREFIX_BYTES:
                self.refuse(stream, Status.INTERNAL, "a unary request must be exactly one message")
            else:
                self._call(stream, bytes(memoryview(buffer)[PREFIX_BYTES:]), compressed)

    def _call(self, stream: Stream, message: bytes, compressed: int) -> None:
        method = stream.head.method
        if method is None:
            return
        stream.whole = self.active
        limit = self.front.max_body_bytes
        if len(message) > limit:
            self.reject(stream, too_large(len(message), limit))
        elif compressed > 1:
            self.refuse(stream, Status.INTERNAL, "a message has an unknown flag")
        elif method.inference is not None and not compressed:
            infer(self, stream, method.inference, message)
        else:
            start_unary(self, stream, method, message, compressed=bool(compressed))

    # --- answers

    def answer(self, stream: Stream, message: bytes) -> bool:
        """Answer a unary call; False where it is not all sent yet (`Stream.landed`). Safe when the client is gone."""
        if stream.id not in self.streams:
            return True
        stream.work = None  # it holds the stream in turn: cut the cycle, so that no garbage collection is needed
        out = self.out
        told = _told(stream)
        try:
            if out.unary(stream, message, told):
                del self.streams[stream.id]
                if self._drain_ended:
                    self._close_if_done()
            else:
                out.message(stream, message)
                out.end(stream, OK + told)
                return stream.id not in self.streams
        except RuntimeError:
            self.abort()
        return True

    def fail(self, stream: Stream, error: ModelyardError) -> None:
        """End a call with an error. Safe when the client is gone."""
        self._end(stream, of_error(error))

    def reject(self, stream: Stream, error: ModelyardError) -> None:
        """End a call with what is wrong with its request."""
        if isinstance(error, InvalidInput):
            self.front.plane.bad_requests += 1
        self._end(stream, of_error(error))

    def refuse(self, stream: Stream, status: Status, text: str) -> None:
        """End a call that breaks gRPC's own rules."""
        self.front.plane.bad_requests += 1
        self._end(stream, trailers(status, text))

    async def send(self, stream: Stream, message: bytes) -> None:
        """Send a message of a streaming call; returns when the client's windows have taken it."""
        if stream.id not in self.streams:
            return
        try:
            self.out.message(stream, message)
        except RuntimeError:
            self.abort()
        if stream.out:
            stream.waiter = self.front.loop.create_future()
            await stream.waiter

    def finish(self, stream: Stream) -> None:
        """End a streaming call with success."""
        self._end(stream, OK)

    def _end(self, stream: Stream, tail: bytes) -> None:
        if stream.id not in self.streams:
            return
        stream.work = None
        tail += _told(stream)
        try:
            self.out.end(stream, tail if stream.started else HEAD + tail)
        except RuntimeError:
            self.abort()

    def on_answered(self, stream: Stream) -> None:
        """Close a stream; a client that still sends is told to stop (RFC 9113, section 8.1)."""
        self._forget(stream)
        if stream.landed is not None:
            stream.landed()
        if not stream.ended:
            stream.ended = True
            self._reset.append(stream.id)
            self.out.transport.write(frames.rst_stream(stream.id, Code.NO_ERROR))
        if self._drain_ended:
            self._close_if_done()

    def _forget(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        if stream.inbox is not None:
            self._count_partial(-stream.inbox.held)
            stream.inbox = None  # it holds the stream in turn
        if stream.buffer is not None:
            self._count_partial(-len(stream.buffer))
            stream.buffer = None

    def _count_partial(self, size: int) -> None:
        self._partial += size
        self.front.partial += size

    # --- ends

    def on_reset(self, number: int) -> None:
        """The client takes a stream back: its work need not run."""
        stream = self.streams.get(number)
        if stream is None:
            self.count_noise()
            return
        self._abandon(stream)
        if not self.budget.count_reset():
            raise Violation("too many streams were reset", code=Code.ENHANCE_YOUR_CALM)
        if self._drain_ended:
            self._close_if_done()

    def reset(self, number: int, code: Code) -> None:
        """End a stream by RST_STREAM."""
        self.count_noise()
        self._reset.append(number)
        stream = self.streams.get(number)
        if stream is not None:
            self._abandon(stream)
        self.out.transport.write(frames.rst_stream(number, code))

    def _abandon(self, stream: Stream) -> None:
        self._forget(stream)
        if stream.work is not None:
            stream.work.cancelled = True
            stream.work = None
        if stream.task is not None:
            stream.task.cancel()
        self.out.drop(stream)

    def _abandon_all(self) -> None:
        for stream in list(self.streams.values()):
            self._abandon(stream)

    def die(self, code: Code, text: str) -> None:
        """Say GOAWAY and end the connection; what still comes is read and dropped, so that the client sees it."""
        if self.dead or self.transport is None:
            return
        self.dead = True
        self.dead_since = perf_counter()
        self._abandon_all()
        transport = self.transport
        try:
            transport.write(frames.goaway(self.last, code, text))
            if self.out.paused:
                transport.abort()
            elif transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()
        except (RuntimeError, OSError):
            transport.abort()

    def abort(self) -> None:
        """End the connection at once."""
        self.dead = True
        if self.transport is not None:
            self.transport.abort()

    def drain(self, now: float) -> None:
        """Ask the client to open no more streams, and close once the open ones are answered (section 6.8)."""
        if self.dead or self.transport is None or self._drain_since:
            return
        self._drain_since = now
        try:
            if not self.settled:
                self.transport.close()
                return
            self.transport.write(frames.goaway(frames.LARGEST_STREAM, Code.NO_ERROR))
            self.transport.write(frames.ping(DRAIN_PING, ack=False))
        except RuntimeError:
            self.abort()

    def on_drain_ping(self) -> None:
        """The client has seen the first GOAWAY: streams it opened before have come."""
        if self._drain_since and not self._drain_ended:
            self._drain_ended = True
            self.out.transport.write(frames.goaway(self.last, Code.NO_ERROR))
            self._close_if_done()

    def _close_if_done(self) -> None:
        if not self.streams and self.transport is not None:
            self.transport.close()

    # --- deadlines

    def sweep(self, now: float) -> None:
        """Enforce the deadlines. Call about every second."""
        transport = self.transport
        if transport is None:
            return
        self.budget.tick(now - self._swept, self.last >> 1)
        self._swept = now
        try:
            self._sweep(transport, now)
        except RuntimeError:
            self.abort()

    def _sweep(self, transport: asyncio.Transport, now: float) -> None:
        if self.dead:
            if now - self.dead_since > limits.LINGER_S:
                transport.abort()
        elif self.out.stalled and now - self.out.progress > limits.STALLED_S:
            transport.abort()
        elif not self.settled and now - self.made > limits.SETUP_DEADLINE_S:
            self.die(Code.SETTINGS_TIMEOUT, "no preface and SETTINGS in time")
        elif (self.waits_for_block and now - self.block_since > limits.SETUP_DEADLINE_S) or (
            self.waits_for_frame and now - self.frame_since > limits.BODY_DEADLINE_S
        ):
            self.die(Code.ENHANCE_YOUR_CALM, "a frame or header block took too long")
        elif self._drain_since and now - self._drain_since > limits.DRAIN_PING_S and not self._drain_ended:
            self.on_drain_ping()
        elif now > self._until and not self._drain_since:
            self.drain(now)
        elif not self.streams:
            if now - self.active > limits.IDLE_S:
                self.die(Code.NO_ERROR, "idle")
        else:
            self._sweep_streams(transport, now)

    def _sweep_streams(self, transport: asyncio.Transport, now: float) -> None:
        for stream in list(self.streams.values()):
            if not stream.ended and stream.inbox is None and now - stream.since > limits.BODY_DEADLINE_S:
                self.fail(stream, Expired(f"the request took longer than {limits.BODY_DEADLINE_S:g} s to arrive"))
        if now - self.active > limits.KEEPALIVE_S:
            if self._pinged < self.active:
                self._pinged = now
                transport.write(frames.ping(_KEEPALIVE_PING, ack=False))
            elif now - self._pinged > limits.KEEPALIVE_ANSWER_S:
                transport.abort()


def _told(stream: Stream) -> bytes:
    """The field that tells a unary call's caller of our span. A stream's requests have one each."""
    trace = stream.trace
    return field(b"traceparent", trace.header.encode("ascii")) if trace is not None and stream.inbox is None else b""
