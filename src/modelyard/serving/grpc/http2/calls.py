"""What becomes of a call whose request is there: an inference goes to its executor, others run as tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from modelyard.domain.errors import BackendFailed, ModelyardError
from modelyard.domain.tensors import Tensor
from modelyard.serving.faults import Expired
from modelyard.serving.grpc.http2.messages import Inbox, decompress
from modelyard.serving.grpc.http2.stream import Stream
from modelyard.serving.grpc.ports import LARGE_BYTES, LARGE_ELEMENTS, Call, Decoded, InferenceCodec, Method
from modelyard.serving.oip.plan import Plan
from modelyard.serving.scheduling.work import Work

if TYPE_CHECKING:
    from modelyard.serving.grpc.http2.connection import Connection

_log = logging.getLogger(__name__)


class Http2Work(Work):
    """An inference request that came by HTTP/2."""

    __slots__ = ("_aside", "_codec", "_connection", "_late", "_rendered", "_stream")

    def __init__(
        self,
        plan: Plan,
        tensors: tuple[Tensor, ...],
        connection: Connection,
        stream: Stream,
        codec: InferenceCodec,
    ) -> None:
        Work.__init__(self, plan, tensors, stream.since)
        self.whole = stream.whole
        self._connection = connection
        self._stream = stream
        self._codec = codec
        self._aside = False
        self._late: Callable[[float], None] | None = None
        head = stream.head
        limit = head.timeout_s
        if limit is not None and (self.timeout_s is None or limit < self.timeout_s):
            self.timeout_s = limit
        self.trace = stream.trace

    def reply(self, outputs: list[Tensor], start: int, stop: int) -> float | None:
        """Encode and send; much that is encoded one by one is encoded in the pool."""
        if self._stream.work is not self:
            return perf_counter()
        if (outputs[0].size if len(outputs) == 1 else sum(o.size for o in outputs)) > LARGE_ELEMENTS:
            self._aside = self._codec.slow_elements(self.plan, outputs, start, stop) > LARGE_ELEMENTS
            if self._aside:
                self._connection.front.pool.submit(self._encode_aside, outputs, start, stop)
                return None
        message = self._codec.encode(self.plan, outputs, start, stop)
        self._rendered = rendered = perf_counter()
        return rendered if self._connection.answer(self._stream, message) else None

    def later(self, sent: Callable[[float], None]) -> None:
        """See `Work.later`."""
        if self._aside:
            self._late = sent
        else:
            self._stream.landed = partial(sent, self._rendered)

    def _encode_aside(self, outputs: list[Tensor], start: int, stop: int) -> None:
        """In a pool thread."""
        call = self._connection.front.loop.call_soon_threadsafe
        try:
            message = self._codec.encode(self.plan, outputs, start, stop)
        except ModelyardError as error:
            call(self.fail, error)
        except Exception:  # noqa: BLE001 - boundary of a pool thread
            _log.exception("encoding an answer failed")
            call(self.fail, BackendFailed("the answer could not be written"))
        else:
            self._rendered = perf_counter()
            call(self._answer_late, message)

    def _answer_late(self, message: bytes) -> None:
        stream, late = self._stream, self._late
        if stream.work is not self:
            return
        sent = self._connection.answer(stream, message)
        if late is not None and sent:
            late(self._rendered)
        elif late is not None:
            stream.landed = partial(late, self._rendered)

    def fail(self, error: ModelyardError) -> None:
        """Send the error."""
        if self._stream.work is self:
            self._connection.fail(self._stream, error)


def infer(connection: Connection, stream: Stream, codec: InferenceCodec, message: bytes) -> None:
    """Hand an inference to its executor; whatever is wrong with it is answered."""
    try:
        if len(message) > LARGE_BYTES and (rest := codec.slow(message)) is not None:
            connection.front.pool.submit(_decode_aside, connection, stream, codec, rest)
            return
        decoded = codec.decode(message)
    except ModelyardError as error:
        connection.reject(stream, error)
        return
    except Exception:  # noqa: BLE001 - boundary of a call
        _log.exception("a gRPC inference failed")
        connection.fail(stream, BackendFailed("the request could not be served"))
        return
    _submit(connection, stream, codec, decoded)


def _decode_aside(connection: Connection, stream: Stream, codec: InferenceCodec, rest: Callable[[], Decoded]) -> None:
    """In a pool thread."""
    call = connection.front.loop.call_soon_threadsafe
    try:
        decoded = rest()
    except ModelyardError as error:
        call(connection.reject, stream, error)
    except Exception:  # noqa: BLE001 - boundary of a pool thread
        _log.exception("decoding a gRPC request failed")
        call(connection.fail, stream, BackendFailed("the request could not be decoded"))
    else:
        call(_submit, connection, stream, codec, decoded)


def _submit(connection: Connection, stream: Stream, codec: InferenceCodec, decoded: Decoded) -> None:
    if stream.id not in connection.streams:  # the client took it back meanwhile
        return
    executor, plan, tensors = decoded
    try:
        stream.work = work = Http2Work(plan, tensors, connection, stream, codec)
        executor.submit(work)
    except ModelyardError as error:
        connection.fail(stream, error)
    except Exception:  # noqa: BLE001 - boundary of a call
        _log.exception("a gRPC inference failed")
        connection.fail(stream, BackendFailed("the request could not be served"))


def start_unary(connection: Connection, stream: Stream, method: Method, message: bytes, *, compressed: bool) -> None:
    """Serve a unary call, other than a plain inference, in a task."""
    work = partial(_unary, connection, stream, method, message, compressed=compressed)
    stream.task = connection.front.run(_guarded(connection, stream, work))


def start_stream(connection: Connection, stream: Stream, method: Method, inbox: Inbox) -> None:
    """Serve a streaming call in a task."""
    stream.inbox = inbox
    work = partial(_streamed, connection, stream, method, inbox)
    stream.task = connection.front.run(_guarded(connection, stream, work))


async def _guarded(connection: Connection, stream: Stream, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a call within its deadline and answer what it raises. A cancelled one has nobody to answer."""
    try:
        async with asyncio.timeout(stream.head.timeout_s):
            await work()
    except TimeoutError:
        connection.fail(stream, Expired("Deadline Exceeded"))
    except ModelyardError as error:
        connection.reject(stream, error)
    except Exception:  # noqa: BLE001 - boundary of a task
        path = stream.head.method.path if stream.head.method else ""
        _log.exception("%s failed", path)
        connection.fail(stream, BackendFailed("the request could not be served"))


async def _unary(connection: Connection, stream: Stream, method: Method, message: bytes, *, compressed: bool) -> None:
    if compressed:
        front = connection.front
        encoding, limit = stream.head.encoding, front.max_body_bytes
        message = await front.loop.run_in_executor(front.pool, decompress, message, encoding, limit)
    if method.inference is not None:
        infer(connection, stream, method.inference, message)
    elif method.unary is not None:
        connection.answer(stream, await method.unary(message, _call(stream)))


async def _streamed(connection: Connection, stream: Stream, method: Method, inbox: Inbox) -> None:
    assert method.stream is not None  # noqa: S101 - for the type checker; only then is this called
    messages = method.stream(inbox, _call(stream))
    async with aclosing(messages):  # type: ignore[type-var] # handlers are async generators
        async for message in messages:
            await connection.send(stream, message)
    connection.finish(stream)


def _call(stream: Stream) -> Call:
    head = stream.head
    return Call(stream.since, head.timeout_s, head.metadata, head.binary, stream.whole, stream.trace)
