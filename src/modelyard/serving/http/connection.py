"""HTTP/1.1 on asyncio's Protocol: framing, order, limits, deadlines, back-pressure. No task or timer per request."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from concurrent.futures import Executor as Pool
from email.utils import formatdate
from time import perf_counter
from typing import Any, Final, cast

from modelyard.domain.errors import BackendFailed, InvalidInput, ModelyardError
from modelyard.domain.tensors import Tensor
from modelyard.serving.faults import TooLarge
from modelyard.serving.http.chunks import ChunkedBody
from modelyard.serving.http.head import MAX_HEAD_BYTES, NO_HEADER, Head, Heads
from modelyard.serving.http.ports import Body, Codec, Reply, Routes
from modelyard.serving.http.router import REASONS, Router, error_response, error_text
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.oip.plan import Plan
from modelyard.serving.scheduling.executor import Executor
from modelyard.serving.scheduling.work import Work

_log = logging.getLogger(__name__)

HEAD_DEADLINE_S: Final = 10.0
BODY_DEADLINE_S: Final = 60.0
SLOW_READER_S: Final = 30.0
IDLE_S: Final = 300.0
LINGER_S: Final = 2.0
"""After a refusal the rest of the request is read and dropped this long, so that the client sees the answer, not a
reset."""
DRAIN_IDLE_S: Final = 0.5
"""While draining, a connection without a request for this long is closed."""
MAX_PIPELINED: Final = 64
_BIG_BODY: Final = 1024 * 1024
LARGE_JSON_ELEMENTS: Final = 4096
"""Responses with more JSON elements than this are rendered off the event loop."""
_COPIED_BELOW: Final = 64 * 1024
"""Responses smaller than this are joined with their status line; larger ones are written in two parts."""


class Slot:
    """The place of a response in its connection's order."""

    __slots__ = ("close", "head", "response", "work")

    def __init__(self, head: Head) -> None:
        self.head = head
        self.work: HttpWork | None = None
        self.response: Reply | None = None
        self.close = False


class HttpWork(Work):
    """An inference request that came by HTTP."""

    __slots__ = ("_codec", "_connection", "_slot")

    def __init__(
        self, plan: Plan, tensors: tuple[Tensor, ...], received: float, connection: Connection, slot: Slot, codec: Codec
    ) -> None:
        Work.__init__(self, plan, tensors, received)
        self._connection = connection
        self._slot = slot
        self._codec = codec
        limit = slot.head.timeout_s
        if limit is not None and (self.timeout_s is None or limit < self.timeout_s):
            self.timeout_s = limit

    def reply(self, outputs: list[Tensor], start: int, stop: int) -> None:
        """Render and send; large JSON is rendered in the pool."""
        connection = self._connection
        if connection.transport is None:
            return
        if _elements(outputs) > LARGE_JSON_ELEMENTS:
            rows = outputs[0].shape[0] if outputs[0].ndim else 1
            if self._codec.json_elements(self.plan, outputs, stop - start, rows) > LARGE_JSON_ELEMENTS:
                connection.front.pool.submit(self._render_aside, outputs, start, stop)
                return
        connection.answer(self._slot, self._codec.render(self.plan, outputs, start, stop))

    def _render_aside(self, outputs: list[Tensor], start: int, stop: int) -> None:
        try:
            reply = Reply(200, self._codec.render(self.plan, outputs, start, stop))
        except ModelyardError as error:
            reply = error_response(error)
        except Exception:  # noqa: BLE001 - boundary of a pool thread
            _log.exception("rendering a response failed")
            reply = error_response(BackendFailed("the response could not be rendered"))
        self._connection.front.loop.call_soon_threadsafe(self._connection.answer_with, self._slot, reply)

    def fail(self, error: ModelyardError) -> None:
        """Send the error."""
        self._connection.answer_with(self._slot, error_response(error))


def _elements(outputs: list[Tensor]) -> int:
    return outputs[0].size if len(outputs) == 1 else sum(o.size for o in outputs)


class HttpFront:
    """What all HTTP connections of a replica share."""

    def __init__(self, plane: DataPlane, routes: Sequence[Routes], pool: Pool, max_body_bytes: int) -> None:
        self.plane = plane
        self.pool = pool
        self.max_body_bytes = max_body_bytes
        self.heads = Heads()
        self.router = Router(routes)
        self.connections: set[Connection] = set()
        self.loop = asyncio.get_running_loop()
        self.ok = self._line(200)
        """What a 200 response begins with: status and `Date`."""
        self._lines: dict[int, bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()

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

    def sweep(self, now: float) -> None:
        """Enforce the deadlines of all connections, renew the date. Call about every second (more while draining)."""
        self._lines.clear()
        self.ok = self._line(200)
        for connection in list(self.connections):
            connection.sweep(now)


class Connection(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_active", "_body", "_buffer", "_closing", "_full", "_head", "_paused_at", "_pending", "_reading", "_since",
        "front", "transport",
    )  # fmt: skip

    def __init__(self, front: HttpFront) -> None:
        self.front = front
        self.transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._head: Head | None = None
        self._body: ChunkedBody | None = None
        self._pending: deque[Slot] = deque()
        self._since = self._active = perf_counter()
        self._paused_at = 0.0
        self._closing = False
        self._full = False
        self._reading = True

    # --- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self.front.connections.add(self)
        self.front.plane.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """The client left: what it still waits for need not run."""
        self.transport = None
        self._closing = True
        self.front.connections.discard(self)
        self.front.plane.connections -= 1
        for slot in self._pending:
            if slot.work is not None:
                slot.work.cancelled = True
                slot.work = None
        self._pending.clear()
        self._buffer = bytearray()

    def eof_received(self) -> bool:
        """The client closed its side: it left. As nginx and Go do, so that abandoned requests never reach a model; a
        client that only half-closes cannot be told from one that is gone."""
        return False

    def pause_writing(self) -> None:
        """The client does not read: take no more requests from it."""
        self._paused_at = perf_counter()
        self._flow()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._paused_at = 0.0
        self._flow()
        self._advance(perf_counter())

    def data_received(self, data: bytes) -> None:
        """Frame requests; the common case, exactly one whole request in one read, takes no buffer."""
        if self._closing:
            return
        now = self._active = perf_counter()
        if not self._buffer and self._head is None:
            end = data.find(b"\r\n\r\n") + 4
            if 3 < end <= MAX_HEAD_BYTES:
                raw = data[:end]
                try:
                    head = self.front.heads.get(raw)
                except ModelyardError as error:
                    self._refuse(error)
                    return
                if head.length == len(data) - end <= self.front.max_body_bytes and not self._full:
                    self._since = now
                    self._handle(head, data[end:], now)
                    return
            self._since = now
            self._buffer = bytearray(data)
        else:
            if not self._buffer and self._head is None:
                self._since = now
            self._buffer += data
        self._advance(now)

    # --- framing

    def _advance(self, now: float) -> None:
        """Handle every whole request that the buffer holds."""
        while not self._closing and not self._full:
            try:
                if self._head is None and not self._next_head(now):
                    return
                body = self._next_body()
            except ModelyardError as error:
                self._refuse(error)
                return
            if body is None:
                return
            head, self._head, self._body = self._head, None, None
            received, self._since = self._since, now
            if head is not None:
                self._handle(head, body, received)

    def _next_head(self, now: float) -> bool:
        buffer = self._buffer
        while buffer[:2] == b"\r\n":  # RFC 9112, 2.2: ignore empty lines before a request
            del buffer[:2]
        if not buffer:
            return False
        end = buffer.find(b"\r\n\r\n") + 4
        if (end == 3 and len(buffer) > MAX_HEAD_BYTES) or end > MAX_HEAD_BYTES:
            self._refuse_with(error_text(431, f"the request head exceeds {MAX_HEAD_BYTES} bytes"))
            return False
        if end == 3:
            return False
        head = self.front.heads.get(bytes(buffer[:end]))
        del buffer[:end]
        if head.length > self.front.max_body_bytes:
            raise self._too_large()
        self._head = head
        self._since = now
        self._body = ChunkedBody() if head.chunked else None
        if head.expects_continue and not buffer and not self._pending and self.transport is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _next_body(self) -> bytearray | None:
        """The body of the present head, or None while bytes are missing."""
        buffer, head, chunked = self._buffer, self._head, self._body
        if chunked is not None:
            del buffer[: chunked.feed(buffer, 0)]
            if len(chunked.body) > self.front.max_body_bytes:
                raise self._too_large()
            return chunked.body if chunked.done else None
        length = head.length if head is not None else 0
        if len(buffer) < length:
            return None
        if len(buffer) == length:
            self._buffer = bytearray()
            return buffer
        body = buffer[:length]
        del buffer[:length]
        return body

    def _too_large(self) -> TooLarge:
        limit = self.front.max_body_bytes
        return TooLarge(
            f"the request body exceeds the limit of {limit} bytes ({limit / 2**20:.3g} MiB)",
            hint="send fewer rows per request, or smaller ones; binary tensors take less room than JSON",
        )

    # --- requests

    def _handle(self, head: Head, body: bytes | bytearray, received: float) -> None:
        slot = Slot(head)
        self._pending.append(slot)
        if len(self._pending) >= MAX_PIPELINED or len(body) > _BIG_BODY:
            self._full = True
            self._flow()
        try:
            inference = head.inference
            if inference is None:
                inference = self.front.router.inference(head)
                if inference is None:
                    self._respond(slot, body)
                    return
                head.inference = inference
            executor, codec = inference.target.pick(), inference.codec
            if codec.is_large(head, body):
                self.front.pool.submit(self._decode_aside, slot, executor, codec, body, received)
                return
            plan, tensors = codec.decode(executor.interface, head, body)
            self._submit(slot, executor, HttpWork(plan, tensors, received, self, slot, codec))
        except ModelyardError as error:
            self._fail(slot, error)

    def _respond(self, slot: Slot, body: Body) -> None:
        """Answer anything but an inference. Raises ModelyardError."""
        reply = self.front.router.respond(slot.head, body)
        if isinstance(reply, Reply):
            self.answer_with(slot, reply)
        else:
            self.front.run(self._respond_later(slot, reply))

    async def _respond_later(self, slot: Slot, reply: Coroutine[Any, Any, Reply]) -> None:
        try:
            self.answer_with(slot, await reply)
        except ModelyardError as error:
            self._fail(slot, error)
        except Exception:  # noqa: BLE001 - boundary of a task
            _log.exception("answering %s failed", "/".join(slot.head.segments))
            self._fail(slot, BackendFailed("the request could not be served"))

    def _submit(self, slot: Slot, executor: Executor, work: HttpWork) -> None:
        executor.submit(work)
        slot.work = work

    def _fail(self, slot: Slot, error: ModelyardError) -> None:
        if isinstance(error, InvalidInput):
            self.front.plane.bad_requests += 1
        self.answer_with(slot, error_response(error))

    def _decode_aside(self, slot: Slot, executor: Executor, codec: Codec, body: Body, received: float) -> None:
        """In a pool thread: parse large JSON."""
        call = self.front.loop.call_soon_threadsafe
        try:
            plan, tensors = codec.decode(executor.interface, slot.head, body)
        except ModelyardError as error:
            call(self._fail, slot, error)
        except Exception:  # noqa: BLE001 - boundary of a pool thread
            _log.exception("decoding a request failed")
            call(self._fail, slot, BackendFailed("the request could not be decoded"))
        else:
            call(self._decoded, slot, executor, HttpWork(plan, tensors, received, self, slot, codec))

    def _decoded(self, slot: Slot, executor: Executor, work: HttpWork) -> None:
        if self.transport is None:
            return
        try:
            self._submit(slot, executor, work)
        except ModelyardError as error:
            self._fail(slot, error)

    # --- responses

    def answer(self, slot: Slot, rest: bytes) -> None:
        """Answer with 200 and `rest` (`Reply.rest`) once all before it are sent. Safe when the client is gone."""
        slot.work = None  # it holds the slot in turn: cut the cycle, so that no garbage collection is needed
        head, pending, transport = slot.head, self._pending, self.transport
        if (
            len(rest) < _COPIED_BELOW
            and len(pending) == 1
            and head.keep_alive
            and not head.old_http
            and transport is not None
            and not self._full
            and not self.front.plane.draining
        ):  # the common case, in one write
            pending.popleft()
            try:
                transport.write(self.front.ok + rest)
            except RuntimeError:
                transport.abort()
            return
        self.answer_with(slot, Reply(200, rest))

    def answer_with(self, slot: Slot, reply: Reply) -> None:
        """Send a response as soon as all before it are sent. Safe when the client is gone."""
        transport = self.transport
        if transport is None:
            return
        slot.work = None
        slot.response = reply
        pending = self._pending
        try:
            while pending and (ready := pending[0].response) is not None:
                first = pending.popleft()
                self._write(transport, first, ready)
                if first.close:
                    self._closing = True
                    transport.close()
                    return
        except RuntimeError:
            # uvloop raises on a transport that is closing but has not told us yet; connection_lost follows
            transport.abort()
            return
        if self._full:
            self._full = False
            self._flow()
            self.front.loop.call_soon(self._advance, perf_counter())

    def _write(self, transport: asyncio.Transport, slot: Slot, reply: Reply) -> None:
        head, status, rest = slot.head, reply.status, reply.rest
        line = self.front.line(status)
        if not head.keep_alive or self.front.plane.draining or slot.close:
            slot.close = True
            line += b"Connection: close\r\n"
        elif head.old_http:
            line += b"Connection: keep-alive\r\n"
        if head.method == "HEAD":
            rest = rest[: rest.index(b"\r\n\r\n") + 4]
        if len(rest) < _COPIED_BELOW:
            transport.write(line + rest)
        else:
            transport.write(line)
            transport.write(rest)

    def _refuse(self, error: ModelyardError) -> None:
        """Answer something that cannot be framed, then close."""
        self.front.plane.bad_requests += 1
        self._refuse_with(error_response(error))

    def _refuse_with(self, reply: Reply) -> None:
        self._closing = True
        self._head = None
        self._body = None
        self._buffer = bytearray()
        self._since = perf_counter()
        transport = self.transport
        if transport is None:
            return
        slot = Slot(_LAST)
        self._pending.append(slot)
        slot.response, slot.close = reply, True
        try:
            while self._pending and (ready := self._pending[0].response) is not None:
                self._write(transport, self._pending.popleft(), ready)
            if not self._pending:
                transport.write_eof()
        except (RuntimeError, OSError):
            transport.abort()

    def _flow(self) -> None:
        """Read only while the client reads and what it sent fits."""
        transport = self.transport
        want = not self._full and not self._paused_at
        if transport is None or want == self._reading or transport.is_closing():
            return
        self._reading = want
        if want:
            transport.resume_reading()
        else:
            transport.pause_reading()

    # --- deadlines

    def sweep(self, now: float) -> None:
        """Close the connection where its client is too slow, or idle while the replica drains."""
        transport = self.transport
        if transport is None:
            return
        if self._paused_at and now - self._paused_at > SLOW_READER_S:
            transport.abort()
        elif self._closing:
            if not self._pending and now - self._since > LINGER_S:
                transport.abort()
        elif self._full:
            return
        elif self._head is not None:
            if now - self._since > BODY_DEADLINE_S:
                self._refuse_with(error_text(408, f"the request body took longer than {BODY_DEADLINE_S:g} s"))
        elif self._buffer:
            if now - self._since > HEAD_DEADLINE_S:
                self._refuse_with(error_text(408, f"the request head took longer than {HEAD_DEADLINE_S:g} s"))
        elif not self._pending:
            idle = now - self._active
            if idle > IDLE_S or (self.front.plane.draining and idle > DRAIN_IDLE_S):
                self._closing = True
                transport.close()


_LAST = Head("", (), 0, False, False, False, NO_HEADER, "")
