"""What a connection does not do itself: large, compressed and unknown requests, and all that is no inference."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from modelyard.domain.errors import BackendFailed, ModelyardError
from modelyard.serving.http.compression import Inflation
from modelyard.serving.http.ports import Body, Inference, Reply
from modelyard.serving.http.router import error_text
from modelyard.serving.http.work import HttpWork, Slot
from modelyard.serving.scheduling.executor import Executor

if TYPE_CHECKING:
    from modelyard.serving.http.connection import Connection
    from modelyard.serving.http.front import HttpFront

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

LARGE_JSON_BYTES: Final = 64 * 1024
"""More JSON, or strings, than this is decoded off the event loop: it would hold it for more than about 50 us, 16 MiB of
short binary strings for more than a second."""


class Handling:
    """Handles the requests of all connections of a front that take more than one step. Event-loop thread only."""

    def __init__(self, front: HttpFront) -> None:
        self._front = front
        self.above = min(LARGE_JSON_BYTES, front.limits.big_body_bytes)
        """A body of more bytes is no common case."""

    def take(self, connection: Connection, slot: Slot, body: Body, received: float, whole: float) -> None:
        """Handle a whole request, whose answer has its place. Raises ModelyardError."""
        head, front = slot.head, self._front
        if len(body) > front.limits.big_body_bytes:
            connection.take_alone()
        if head.problem is not None:
            front.plane.bad_requests += 1
            connection.deliver(slot, error_text(*head.problem))
            return
        if not head.coding or not body:
            self._dispatch(connection, slot, body, received, whole)
            return
        inflation = Inflation(head.coding, body, front.limits)
        plain = inflation.start()
        if plain is not None:
            self._dispatch(connection, slot, plain, received, whole)
            return
        connection.take_alone()  # what it unfolds to is not known yet

        def unfolded(plain: Body) -> None:
            self._unfolded(connection, slot, plain, received, whole)

        self._aside(connection, slot, "unfolding", inflation.finish, unfolded)

    def _unfolded(self, connection: Connection, slot: Slot, body: Body, received: float, whole: float) -> None:
        if slot.cancelled:
            return
        try:
            connection.hold(len(body))
            self._dispatch(connection, slot, body, received, whole)
        except ModelyardError as error:
            connection.fail(slot, error)
        except Exception:  # noqa: BLE001 - boundary of a request, as in `Connection._handle`
            _log.exception("taking a request failed")
            connection.fail(slot, BackendFailed("the request could not be taken"))

    def _dispatch(self, connection: Connection, slot: Slot, body: Body, received: float, whole: float) -> None:
        """Send a plain body to its model, or have the routes answer. Raises ModelyardError."""
        head, front = slot.head, self._front
        if head.inference is None:
            head.inference = front.router.inference(head)
        if head.inference is not None:
            self._infer(connection, slot, head.inference, body, received, whole)
            return
        reply = front.router.respond(head, body)
        if isinstance(reply, Reply):
            connection.answer_with(slot, reply)
        else:
            front.run(self._respond_later(connection, slot, reply))

    async def _respond_later(self, connection: Connection, slot: Slot, reply: Coroutine[Any, Any, Reply]) -> None:
        try:
            connection.answer_with(slot, await reply)
        except ModelyardError as error:
            connection.fail(slot, error)
        except Exception:  # noqa: BLE001 - boundary of a task
            _log.exception("answering %s failed", "/".join(slot.head.segments))
            connection.fail(slot, BackendFailed("the request could not be served"))

    def _infer(
        self, connection: Connection, slot: Slot, inference: Inference, body: Body, received: float, whole: float
    ) -> None:
        executor, codec = inference.target.pick(), inference.codec

        def decode() -> HttpWork:
            plan, tensors = codec.decode(executor.interface, slot.head, body)
            return HttpWork(plan, tensors, received, whole, connection, slot.head, slot.own, codec)

        def submit(work: HttpWork) -> None:
            self._submit(connection, slot, executor, work)

        if codec.slow_bytes(executor.interface, slot.head, body) > LARGE_JSON_BYTES:
            self._aside(connection, slot, "decoding", decode, submit)
        else:
            submit(decode())

    @staticmethod
    def _submit(connection: Connection, slot: Slot, executor: Executor, work: HttpWork) -> None:
        """Queue a work in its slot's place. Never raises."""
        if slot.cancelled:
            return
        connection.put(slot, work)
        try:
            executor.submit(work)
        except ModelyardError as error:
            connection.fail(work, error)
        except Exception:  # noqa: BLE001 - boundary of a request, as in `Connection._handle`
            _log.exception("taking a request failed")
            connection.fail(work, BackendFailed("the request could not be taken"))

    def _aside(
        self, connection: Connection, slot: Slot, doing: str, work: Callable[[], _T], then: Callable[[_T], None]
    ) -> None:
        """Work in a pool thread, then go on in the loop with what came of it; a failure is the slot's answer."""
        self._front.pool.submit(self._in_thread, connection, slot, doing, work, then)

    def _in_thread(
        self, connection: Connection, slot: Slot, doing: str, work: Callable[[], _T], then: Callable[[_T], None]
    ) -> None:
        call = self._front.loop.call_soon_threadsafe
        try:
            result = work()
        except ModelyardError as error:
            call(connection.fail, slot, error)
        except Exception:  # noqa: BLE001 - boundary of a pool thread
            _log.exception("%s a request failed", doing)
            call(connection.fail, slot, BackendFailed(f"{doing} the request failed"))
        else:
            call(then, result)
