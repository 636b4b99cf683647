"""A request's place in its connection's order, and inference requests that came by HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

from modelyard.domain.errors import BackendFailed, ModelyardError
from modelyard.domain.tensors import Tensor
from modelyard.serving.http.compression import compress, pays
from modelyard.serving.http.head import Head
from modelyard.serving.http.percall import PerCall
from modelyard.serving.http.ports import Codec, Reply
from modelyard.serving.http.router import error_response
from modelyard.serving.oip.plan import Plan
from modelyard.serving.scheduling.work import Work

if TYPE_CHECKING:
    from modelyard.serving.http.connection import Connection

_log = logging.getLogger(__name__)

LARGE_JSON_ELEMENTS: Final = 4096
"""Responses with more elements than this in JSON, or strings, are rendered off the event loop."""


class Slot:
    """The place of an answer that no `HttpWork` stands for (yet)."""

    landed: ClassVar[None] = None
    __slots__ = ("cancelled", "close", "head", "own", "response")

    def __init__(self, head: Head, own: PerCall | None) -> None:
        self.head = head
        self.own = own
        self.response: Reply | None = None
        self.close = False
        self.cancelled = False


class HttpWork(Work):
    """An inference request that came by HTTP; it holds its own place in the connection's order."""

    __slots__ = ("_codec", "_connection", "close", "head", "landed", "own", "rendered", "response")

    def __init__(
        self,
        plan: Plan,
        tensors: tuple[Tensor, ...],
        received: float,
        whole: float,
        connection: Connection,
        head: Head,
        own: PerCall | None,
        codec: Codec,
    ) -> None:
        # `Work`'s first, without the call: it is a tenth of what taking a request costs (a test compares)
        self.plan = plan
        self.tensors = tensors
        self.rows = plan.rows
        self.shape_key = plan.shape_key
        self.received = self.enqueued = received
        self.whole = whole
        self.timeout_s = timeout_s = plan.timeout_s
        self.priority = plan.priority
        self.trace = None if own is None else own.trace
        self.deadline = self.pre_s = self.post_s = 0.0
        self.cancelled = False
        self.landed: Callable[[float], None] | None = None  # whom to tell of an answer that is sent late
        self.head = head
        self.own = own
        self.response: Reply | None = None
        self.close = False
        self._connection = connection
        self._codec = codec
        limit = head.timeout_s
        if limit is not None and (timeout_s is None or limit < timeout_s):
            self.timeout_s = limit
        if head.priority and not plan.priority:
            self.priority = head.priority

    def reply(self, outputs: list[Tensor], start: int, stop: int) -> float | None:
        """Render and send; large JSON and many strings are rendered in the pool."""
        connection = self._connection
        if connection.transport is None:
            return perf_counter()
        if (outputs[0].size if len(outputs) == 1 else sum(o.size for o in outputs)) > LARGE_JSON_ELEMENTS:
            rows = outputs[0].shape[0] if outputs[0].ndim else 1
            if self._codec.slow_elements(self.plan, outputs, stop - start, rows) > LARGE_JSON_ELEMENTS:
                connection.front.pool.submit(self._render_aside, outputs, start, stop)
                return None
        answer = self._codec.render(self.plan, outputs, start, stop)
        rendered = perf_counter()
        if connection.answer(self, answer):
            return rendered
        self.rendered = rendered
        return None

    def later(self, sent: Callable[[float], None]) -> None:
        """See `Work.later`."""
        self.landed = sent

    def _render_aside(self, outputs: list[Tensor], start: int, stop: int) -> None:
        """In a pool thread."""
        try:
            reply = Reply(200, self._codec.render(self.plan, outputs, start, stop))
            if pays(reply, self.head.accepts):
                reply = compress(reply, self.head.accepts)
        except ModelyardError as error:
            reply = error_response(error)
        except Exception:  # noqa: BLE001 - boundary of a pool thread
            _log.exception("rendering a response failed")
            reply = error_response(BackendFailed("the response could not be rendered"))
        self.rendered = perf_counter()
        self._connection.front.loop.call_soon_threadsafe(self._connection.deliver, self, reply)

    def fail(self, error: ModelyardError) -> None:
        """Send the error."""
        self._connection.deliver(self, error_response(error))


Place: TypeAlias = Slot | HttpWork
