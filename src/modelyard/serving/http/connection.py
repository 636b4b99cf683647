"""HTTP/1.1 on asyncio's Protocol: framing, order, limits, deadlines, back-pressure. No task or timer per request."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Final, cast

from modelyard.domain.errors import BackendFailed, InvalidInput, ModelyardError
from modelyard.serving.http.compression import COMPRESSED_FROM, compress, pays
from modelyard.serving.http.framing import Framing
from modelyard.serving.http.head import NO_HEADER, Head
from modelyard.serving.http.limits import connection_ends
from modelyard.serving.http.percall import PerCall
from modelyard.serving.http.ports import Body, Reply
from modelyard.serving.http.router import error_response, error_text
from modelyard.serving.http.work import HttpWork, Place, Slot

if TYPE_CHECKING:
    from modelyard.serving.http.front import HttpFront

_log = logging.getLogger(__name__)

_COPIED_BELOW: Final = 64 * 1024
"""Responses smaller than this are joined with their status line; larger ones are written in two parts."""
_POLITE_REFUSALS: Final = 64
"""So many connections above the limit get an answer before they are closed; further ones are reset."""
_TURN_S: Final = 1e-3
"""A client that pipelines requests gets so much of the loop before others have their turn."""


class Connection(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_active", "_again", "_aged", "_big", "_closing", "_framing", "_full", "_held", "_patience_s", "_paused_at",
        "_pending", "_reading", "_since", "_until", "front", "transport",
    )  # fmt: skip

    def __init__(self, front: HttpFront) -> None:
        self.front = front
        self.transport: asyncio.Transport | None = None
        self._framing: Framing | None = None  # while there are bytes that are not handled
        self._held = 0
        self._pending: deque[Place] = deque()
        self._since = self._active = perf_counter()
        self._paused_at = 0.0
        self._patience_s = 0.0
        self._closing = False
        self._until = connection_ends(self._since, front.limits.shared_s, len(front.connections))
        self._aged = False  # ends with the next answer that nothing is behind
        self._big = False
        self._again = False  # there was more to do when this connection's turn was over
        self._full = False  # handle nothing more for now: enough is in flight, or the client does not read
        self._reading = True

    # --- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection, or turn it away where there are too many."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        front = self.front
        front.connections.add(self)
        front.plane.connections += 1
        above = len(front.connections) - front.limits.max_connections
        if above > _POLITE_REFUSALS:
            self.abort()
        elif above > 0:
            self._refuse_with(error_text(503, "the replica has too many connections", "1"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """The client left: what it still waits for need not run."""
        self.transport = None
        self._closing = True
        front = self.front
        front.connections.discard(self)
        front.plane.connections -= 1
        front.unsent.forget(self)
        for place in self._pending:
            place.cancelled = True
        self._pending.clear()
        self._drop_input()

    def eof_received(self) -> bool:
        """The client closed its side: it left. As nginx and Go do, so that abandoned requests never reach a model; a
        client that only half-closes cannot be told from one that is gone."""
        return False

    def pause_writing(self) -> None:
        """The client does not read: take no more requests from it."""
        self._paused_at = perf_counter()
        self._patience_s = 0.0
        self._note_unsent()
        self._flow()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._paused_at = 0.0
        self.front.unsent.forget(self)
        self._unblock()

    def data_received(self, data: bytes) -> None:
        """Frame requests; the common case, exactly one whole request in one read, takes no buffer."""
        if self._closing:
            return
        now = self._active = perf_counter()
        framing = self._framing
        if framing is not None:
            framing.feed(data)
            self._advance(now)
            return
        self._since = now
        front = self.front
        end = data.find(b"\r\n\r\n") + 4
        if end > 3 and not self._full:
            own: PerCall | None = None
            head = front.heads.known.get(data[:end])
            if head is None and end <= front.limits.max_head_bytes:
                try:  # noqa: SIM105 - suppress() costs half a microsecond
                    head, own = front.heads.get(data[:end])
                except ModelyardError:
                    pass  # refused below, in its turn
            if head is not None and head.length == len(data) - end <= front.limits.big_body_bytes:
                self._handle(head, own, data[end:], now, now)
                return
        self._framing = Framing(front.heads, front.limits, data, now)
        self._advance(now)

    # --- framing

    def _advance(self, now: float) -> None:
        """Handle every whole request of those that are held."""
        framing = self._framing
        started = perf_counter()
        try:
            while framing is not None and not self._closing and not self._full:
                head = framing.head
                if head is None:
                    head = framing.next_head()
                    if head is None:
                        break
                    self._since = now
                if framing.waits and not self._invite(framing, head):
                    return
                body = framing.next_body()
                if body is None:
                    break
                received, framing.began, self._since = framing.began, now, now
                self._handle(head, framing.own, body, received, now)
                if framing.empty:
                    framing = self._framing = None
                elif perf_counter() - started > _TURN_S:
                    self._again = self._full = True
                    self._flow()
                    self.front.loop.call_soon(self._next_turn)
            if not self._reading:
                self._flow()
            if not self._big and not self._closing:
                self.hold(framing.size if framing is not None else 0)
        except ModelyardError as error:
            self._refuse(error)

    def _invite(self, framing: Framing, head: Head) -> bool:
        """Ask for the body of a request whose client waits for that; False where nothing more is to be done now."""
        if self._pending:  # the interim answer has its place too: after those before it
            self._full = True
            self._flow()
            return False
        if head.problem is not None:
            self._refuse_with(error_text(*head.problem))
            return False
        framing.waits = False
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _drop_input(self) -> None:
        self._framing = None
        self.hold(0)

    # --- requests

    def _handle(self, head: Head, own: PerCall | None, body: Body, received: float, whole: float) -> None:
        """A whole request: here the common case, an inference of usual size whose head is known."""
        pending = self._pending
        place: Place | None = None
        try:
            inference = head.inference
            if inference is None or head.coding or len(body) > self.front.handling.above:
                place = Slot(head, own)
                pending.append(place)
                self.front.handling.take(self, place, body, received, whole)
            else:
                executor, codec = inference.target.only or inference.target.pick(), inference.codec
                plan, tensors = codec.decode(executor.interface, head, body)
                work = place = HttpWork(plan, tensors, received, whole, self, head, own, codec)
                pending.append(work)
                executor.submit(work)
        except ModelyardError as error:
            self.fail(place or self._place(head, own), error)
        except Exception:  # noqa: BLE001 - boundary of a request: a bug costs its answer, not the connection
            _log.exception("taking a request failed")
            self.fail(place or self._place(head, own), BackendFailed("the request could not be taken"))
        if len(pending) >= self.front.limits.max_pipelined:
            self._full = True
            self._flow()

    def _place(self, head: Head, own: PerCall | None) -> Slot:
        """The next place in the order of answers."""
        slot = Slot(head, own)
        self._pending.append(slot)
        return slot

    def take_alone(self) -> None:
        """Handle nothing more until all that was taken is answered."""
        self._big = self._full = True
        self._flow()

    def hold(self, size: int) -> None:
        """Account for a large body, whole or in part. Raises Unavailable."""
        size = size if size > self.front.limits.big_body_bytes else 0
        if size != self._held:
            self.front.hold(size - self._held)
            self._held = size

    def put(self, slot: Slot, work: HttpWork) -> None:
        """Let a work take its slot's place."""
        work.close = slot.close
        self._pending[self._pending.index(slot)] = work

    def fail(self, place: Place, error: ModelyardError) -> None:
        """Answer with an error; safe when the client is gone."""
        if isinstance(error, InvalidInput):
            self.front.plane.bad_requests += 1
        self.deliver(place, error_response(error))

    # --- responses

    def answer(self, place: Place, rest: bytes) -> bool:
        """Answer with 200 and `rest` (`Reply.rest`) once all before it are sent. Safe when the client is gone.

        False where it is not sent yet: the place's `landed` is called then. Both loops write at once if they can.
        """
        pending, transport = self._pending, self.transport
        if (
            len(pending) == 1
            and pending[0] is place
            and len(rest) < COMPRESSED_FROM
            and place.head.keeps
            and place.own is None
            and transport is not None
            and not self._full
            and not self._aged
            and not self.front.plane.draining
        ):  # the common case, in one write
            pending.popleft()
            try:
                transport.write(self.front.ok + rest)
            except RuntimeError:
                transport.abort()
            return True
        return self.answer_with(place, Reply(200, rest))

    def answer_with(self, place: Place, reply: Reply) -> bool:
        """Answer, compressed where the client asks for it and it pays; see `deliver` and `answer`."""
        head = place.head
        if pays(reply, head.accepts) and head.method != "HEAD" and self.transport is not None:
            self.front.pool.submit(self._compress_aside, place, reply)
            return False
        self.deliver(place, reply)
        return place not in self._pending

    def _compress_aside(self, place: Place, reply: Reply) -> None:
        """In a pool thread."""
        try:
            reply = compress(reply, place.head.accepts)
        except Exception:  # noqa: BLE001 - boundary of a pool thread
            _log.exception("compressing an answer failed; it is sent as it is")
        self.front.loop.call_soon_threadsafe(self.deliver, place, reply)

    def deliver(self, place: Place, reply: Reply) -> None:
        """Send a response as it is, as soon as all before it are sent. Safe when the client is gone."""
        transport = self.transport
        if transport is None:
            return
        place.response = reply
        pending = self._pending
        try:
            while pending and (ready := pending[0].response) is not None:
                first = pending.popleft()
                self._write(transport, first, ready)
                if first.landed is not None:
                    first.landed(first.rendered)
                if first.close:
                    self._close(transport, first)
                    return
        except RuntimeError:
            # uvloop raises on a transport that is closing but has not told us yet; connection_lost follows
            transport.abort()
            return
        if self._paused_at:
            self._note_unsent()
        if self._full:
            self._unblock()

    def _write(self, transport: asyncio.Transport, place: Place, reply: Reply) -> None:
        head, status, rest = place.head, reply.status, reply.rest
        line = self.front.line(status)
        if place.own is not None:
            line += place.own.lines
        aged = self._aged and not self._pending and self._framing is None
        if (aged or self.front.plane.draining) and not self._closing:
            self._take_no_more(place)
        if not head.keep_alive or place.close:
            place.close = True
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

    def _take_no_more(self, place: Place) -> None:
        """The last of the requests that were taken, or the one answered now, ends the connection."""
        self._closing = True
        self._drop_input()
        (self._pending[-1] if self._pending else place).close = True

    def _close(self, transport: asyncio.Transport, last: Place) -> None:
        """End the connection after its last response; requests behind it are none (RFC 9112, 9.6)."""
        self._closing = True
        for place in self._pending:
            place.cancelled = True
        self._pending.clear()
        self._since = perf_counter()
        if last.head is _LAST and transport.can_write_eof():
            transport.write_eof()  # the sweep closes it when the client had time to read the answer
        else:
            transport.close()

    def _refuse(self, error: ModelyardError) -> None:
        """Answer something that cannot be framed, or held, then close."""
        self.front.plane.bad_requests += isinstance(error, InvalidInput)
        self._refuse_with(error_response(error))

    def _refuse_with(self, reply: Reply) -> None:
        """Answer in its place, then close; whatever else the client sends is dropped."""
        self._closing = True
        self._drop_input()
        self._full = False
        self._flow()
        self._since = perf_counter()
        slot = Slot(_LAST, None)
        slot.close = True
        self._pending.append(slot)
        self.deliver(slot, reply)

    def abort(self) -> None:
        """Reset the connection."""
        self._closing = True
        if self.transport is not None:
            self.transport.abort()

    # --- back-pressure

    def _next_turn(self) -> None:
        self._again = False
        self._unblock()

    def _unblock(self) -> None:
        """Go on with what the buffer holds, where nothing stands against it any more."""
        if not self._pending:
            self._big = False
        full = (
            bool(self._paused_at) or self._big or self._again or len(self._pending) >= self.front.limits.max_pipelined
        )
        if self._full and not full:
            self._since = now = perf_counter()  # the client could not send on while nothing was read
            self.front.loop.call_soon(self._advance, now)  # which reads on only when the buffer has nothing more to do
        self._full = full

    def _flow(self) -> None:
        """Read only while the client reads and what it sent fits."""
        if self._paused_at:
            self._full = True
        transport = self.transport
        want = not self._full
        if transport is None or want == self._reading or transport.is_closing():
            return
        self._reading = want
        if want:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def _note_unsent(self) -> None:
        """Tell how much waits for a client that does not read."""
        transport = self.transport
        if transport is None:
            return
        size, limits = transport.get_write_buffer_size(), self.front.limits
        patience_s = limits.slow_reader_s * (1 + size // limits.slow_reader_bytes)
        self._patience_s = max(self._patience_s, patience_s)
        held = 0 if self._framing is None else self._framing.size  # requests that were read and wait for it
        self.front.unsent.note(self, size + held, perf_counter())

    # --- deadlines

    def sweep(self, now: float, ahead: float) -> None:
        """Close the connection where its client would be too slow `ahead` seconds from now, or idle in a drain."""
        transport, limits = self.transport, self.front.limits
        if transport is None:
            return
        self._aged = now > self._until
        waited = now - self._since + ahead
        if self._paused_at:
            if now - self._paused_at + ahead > self._patience_s:
                self.abort()
        elif self._closing:
            limit = limits.slow_reader_s if transport.get_write_buffer_size() else limits.linger_s
            if not self._pending and waited > limit:
                self.abort()
        elif self._full:
            return
        elif self._framing is not None:
            part, limit = ("head", limits.head_s) if self._framing.head is None else ("body", limits.body_s)
            if waited > limit:
                self._refuse_with(error_text(408, f"the request {part} took longer than {limit:g} s"))
        elif not self._pending:
            idle = now - self._active
            if idle > limits.idle_s or (self.front.plane.draining and idle > limits.drain_idle_s):
                self._closing = True
                transport.close()


_LAST: Final = Head("", (), 0, False, False, False, NO_HEADER)
"""The head of what cannot be framed."""
