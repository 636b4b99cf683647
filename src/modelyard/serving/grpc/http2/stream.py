"""One HTTP/2 stream of a server, and what a connection still has to send on its streams."""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING

from modelyard.serving.grpc.http2.answers import FILLING, HEAD, INDEXED, OK, PLAIN, TABLE_OF_NOTHING, Form
from modelyard.serving.grpc.http2.frames import (
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    SMALLEST_MAX_FRAME,
    frame,
    header,
)
from modelyard.serving.grpc.http2.heads import RequestHead
from modelyard.serving.grpc.http2.messages import PREFIX_BYTES, Inbox, prefix
from modelyard.serving.observe.context import parse
from modelyard.serving.scheduling.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable


class Stream:
    """A call from its headers until both sides are done.

    `credit` is the peer's window on this stream beyond its initial one (less what was sent); `unacked` counts what was
    received and not given back; `received` all DATA bytes; `ended`: the client's side is done. `since` and `whole` are
    when a unary call's request began and was there; `landed` is told of an answer that the client's windows held back.
    """

    __slots__ = (
        "buffer", "credit", "ended", "head", "id", "inbox", "landed", "out", "received", "since", "started", "tail",
        "task", "trace", "unacked", "waiter", "whole", "work",
    )  # fmt: skip

    def __init__(self, number: int, head: RequestHead, since: float) -> None:
        self.id = number
        self.head = head
        self.since = self.whole = since
        self.credit = 0
        self.unacked = 0
        self.received = 0
        self.ended = False
        self.started = False
        self.buffer: bytearray | None = None
        self.inbox: Inbox | None = None
        self.work: Work | None = None
        self.landed: Callable[[], None] | None = None
        self.trace = parse(head.traceparent, head.tracestate) if head.traceparent else None
        self.task: asyncio.Task[None] | None = None
        self.out: deque[memoryview] | None = None
        self.tail: bytes | None = None
        self.waiter: asyncio.Future[None] | None = None


class Outbox:
    """What a connection sends on its streams, within the peer's windows and while the transport takes it.

    `window`, `initial_window` and `max_frame` are the peer's; `held` counts bytes that wait; `progress` is when some
    last went out, or began to wait. `done` is told of streams whose last frame is sent.
    """

    __slots__ = (
        "_done", "_form", "_note", "_waiting", "held", "initial_window", "max_frame", "paused", "progress", "transport",
        "window",
    )  # fmt: skip

    def __init__(self, transport: asyncio.Transport, done: Callable[[Stream], None]) -> None:
        self.transport = transport
        self.window = DEFAULT_WINDOW
        self.initial_window = DEFAULT_WINDOW
        self.max_frame = SMALLEST_MAX_FRAME
        self.paused = False
        self.held = 0
        self.progress = 0.0
        self._done = done
        self._form: Form = FILLING
        self._note = b""
        self._waiting: dict[int, Stream] = {}

    @property
    def stalled(self) -> bool:
        """Whether anything waits for the peer."""
        return self.paused or bool(self._waiting)

    def use_no_table(self) -> None:
        """The peer wants a smaller header table than the usual one: use none from now on."""
        if self._form is not PLAIN:
            self._form = PLAIN
            self._note = TABLE_OF_NOTHING

    def unary(self, stream: Stream, message: bytes, more: bytes) -> bool:
        """Send a whole successful answer at once; False where it does not fit now: then nothing is sent.

        `more`: header fields that the trailers have besides the status.
        """
        size = len(message) + PREFIX_BYTES
        if (
            size > self.max_frame
            or size > self.window
            or size > self.initial_window + stream.credit
            or self._waiting
            or self.paused
            or self._note
        ):
            return False
        self.window -= size
        form = self._form
        if form is FILLING:
            self._form = INDEXED
        self.transport.write(form.frames_with(stream.id, message, more) if more else form.frames(stream.id, message))
        return True

    def begin(self, stream: Stream) -> None:
        """Send the headers of a successful answer, once."""
        if not stream.started:
            stream.started = True
            self._headers(stream, HEAD, 0)

    def message(self, stream: Stream, message: bytes) -> None:
        """Send a message, now or as the peer takes it."""
        self.begin(stream)
        if stream.out is None:
            stream.out = deque()
        stream.out.append(memoryview(prefix.pack(0, len(message)) + message))
        self.held += len(message) + PREFIX_BYTES
        self._wait(stream)

    def end(self, stream: Stream, tail: bytes = OK) -> None:
        """Send trailers behind all messages; without any message and headers `tail` must be a whole header block."""
        stream.tail = tail
        if stream.out:
            self._wait(stream)
        else:
            self._finish(stream)

    def close(self) -> None:
        """The connection is gone: cut the cycle with it, so that no garbage collection is needed."""
        self._done = _ignore
        self._waiting.clear()

    def drop(self, stream: Stream) -> None:
        """Forget what waits on a stream."""
        self._waiting.pop(stream.id, None)
        if stream.out:
            self.held -= sum(map(len, stream.out))
            stream.out = None

    def _wait(self, stream: Stream) -> None:
        if not self.stalled:
            self.progress = perf_counter()
        self._waiting[stream.id] = stream
        self.pump()

    def pump(self) -> None:
        """Send what the windows and the transport allow, a frame per stream in turn."""
        waiting, sent = self._waiting, False
        while waiting:
            moved = [self._send_some(stream) for stream in list(waiting.values())]
            if not any(moved):
                break
            sent = True
        if sent:
            self.progress = perf_counter()

    def _send_some(self, stream: Stream) -> bool:
        out = stream.out
        if self.paused:
            return False
        if not out:
            self._waiting.pop(stream.id, None)
            if stream.tail is not None:
                self._finish(stream)
            elif stream.waiter is not None and not stream.waiter.done():
                stream.waiter.set_result(None)
            return True
        first = out[0]
        size = min(len(first), self.max_frame, self.window, self.initial_window + stream.credit)
        if size <= 0:
            return False
        if size == len(first):
            out.popleft()
        else:
            out[0] = first[size:]
        self.window -= size
        stream.credit -= size
        self.held -= size
        self.transport.write(header.pack(size << 8 | DATA, 0, stream.id))
        self.transport.write(first[:size])
        return True

    def _finish(self, stream: Stream) -> None:
        self._waiting.pop(stream.id, None)
        self._headers(stream, stream.tail or OK, END_STREAM)
        self._done(stream)

    def _headers(self, stream: Stream, block: bytes, flags: int) -> None:
        note, self._note = self._note, b""
        self.transport.write(frame(HEADERS, END_HEADERS | flags, stream.id, note + block))


def _ignore(stream: Stream) -> None:
    """Instead of a connection that is gone."""
