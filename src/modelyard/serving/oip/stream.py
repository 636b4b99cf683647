"""ModelStreamInfer: many requests at once on one stream, each answered when it is done, errors as messages.

Every model here answers a request once, so every response is the final one of its request, and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any, Final

from tritonclient.grpc import service_pb2 as pb

from modelyard.domain.errors import InvalidInput, ModelyardError
from modelyard.domain.tensors import Tensor
from modelyard.serving.faults import text_of
from modelyard.serving.grpc.ports import Call
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.oip.messages import InferCodec, decode, parse, response
from modelyard.serving.oip.plan import Plan
from modelyard.serving.scheduling.work import Work

MOST_HELD: Final = 256
"""Requests of one stream that may wait or be unread at a time; more are not taken from the connection."""
FINAL: Final = "triton_final_response"


class StreamWork(Work):
    """A request that came on a stream."""

    __slots__ = ("_session", "request_id")

    def __init__(self, plan: Plan, tensors: tuple[Tensor, ...], received: float, session: _Session) -> None:
        Work.__init__(self, plan, tensors, received)
        self._session = session

    def reply(self, outputs: list[Tensor], start: int, stop: int) -> float:
        """Queue the response; when the stream takes it is its client's affair."""
        message = response(self.plan, outputs, start, stop)
        message.parameters[FINAL].bool_param = True
        self._session.answered(pb.ModelStreamInferResponse(infer_response=message), self)
        return perf_counter()

    def fail(self, error: ModelyardError) -> None:
        """Queue the error; the stream goes on."""
        self._session.answered(_failure(self.plan.id, error), self)


class _Session:
    """One stream: what it holds, and the responses that its client has not taken yet."""

    def __init__(self) -> None:
        self.room = asyncio.Semaphore(MOST_HELD)
        self.held: set[StreamWork] = set()
        self._answers: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._ended = False

    def answered(self, message: Any, work: StreamWork | None) -> None:
        """A request is done."""
        if work is not None:
            self.held.discard(work)
        self._answers.put_nowait(message.SerializeToString())
        self._wake()

    def ended(self, problem: BaseException | None) -> None:
        """No more requests come: the client is done, or the stream broke."""
        self._ended = True
        if problem is not None:
            self._answers.put_nowait(problem)
        self._wake()

    def _wake(self) -> None:
        if self._ended and not self.held:
            self._answers.put_nowait(None)

    async def answers(self) -> AsyncIterator[bytes]:
        """Responses as they come, until every request of an ended stream is answered."""
        while (answer := await self._answers.get()) is not None:
            if isinstance(answer, BaseException):
                raise answer
            yield answer
            self.room.release()


class InferStream:
    """The method ModelStreamInfer."""

    def __init__(self, plane: DataPlane, codec: InferCodec) -> None:
        self._plane = plane
        self._codec = codec

    async def serve(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """Answer a stream of ModelInferRequest. A request that fails is answered with `error_message` and its id."""
        session = _Session()
        reader = asyncio.get_running_loop().create_task(self._read(requests, call, session))
        try:
            async for answer in session.answers():
                yield answer
        finally:
            reader.cancel()
            for work in session.held:
                work.cancelled = True  # the client left: the model need not run

    async def _read(self, requests: AsyncIterator[bytes], call: Call, session: _Session) -> None:
        problem: BaseException | None = None
        try:
            async for message in requests:
                await session.room.acquire()
                self._take(message, call, session)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - boundary of a task: the answering side raises it
            problem = error
        session.ended(problem)

    def _take(self, message: bytes, call: Call, session: _Session) -> None:
        received = perf_counter()
        request: Any = None
        try:
            request = parse(pb.ModelInferRequest, message)
            executor = self._plane.target(request.model_name, request.model_version).pick()
            plan, tensors = decode(executor.interface, request, self._plane.regions)
            work = StreamWork(plan, tensors, received, session)
            work.trace = call.trace.another() if call.trace is not None else None
            if call.timeout_s is not None:
                left = call.received + call.timeout_s - received
                work.timeout_s = left if work.timeout_s is None else min(left, work.timeout_s)
            session.held.add(work)
            try:
                executor.submit(work)
            except BaseException:
                session.held.discard(work)
                raise
        except ModelyardError as error:
            if isinstance(error, InvalidInput):
                self._plane.bad_requests += 1
            session.answered(_failure(request.id if request is not None else "", error), None)


def _failure(request_id: str, error: ModelyardError) -> Any:
    """The message of a failed request; its id, where the client gave one, is beside the text."""
    message = pb.ModelStreamInferResponse(error_message=text_of(error))
    message.infer_response.id = request_id
    message.infer_response.parameters[FINAL].bool_param = True
    return message
