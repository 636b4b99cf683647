"""gRPC on grpc.aio in the replica's own event loop: every method and every kind of client, at grpcio's speed.

grpcio itself is the limit: seen once, by a script that was not kept (a constant answer, 8 connections, h2load, 2
shared cores), grpc.aio reached 6.4k requests/s. With inference: bench/serving_overhead.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor as Pool
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc

from modelyard.domain.errors import BackendFailed, Conflict, InvalidInput, ModelyardError
from modelyard.domain.services import ReplicaSpec, Tls
from modelyard.domain.tensors import Tensor
from modelyard.serving.faults import retry_after_header, status_of, text_of
from modelyard.serving.grpc.ports import LARGE_BYTES, LARGE_ELEMENTS, Call, InferenceCodec, Method, Methods
from modelyard.serving.http.limits import SHARED_S
from modelyard.serving.http.tls import ServerTls
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.observe.context import TraceContext
from modelyard.serving.observe.context import parse as parse_trace
from modelyard.serving.oip.plan import Plan
from modelyard.serving.scheduling.work import Work

_log = logging.getLogger(__name__)


class AioWork(Work):
    """An inference request that came by grpc.aio."""

    __slots__ = ("_codec", "done")

    def __init__(
        self,
        plan: Plan,
        tensors: tuple[Tensor, ...],
        received: float,
        codec: InferenceCodec,
        done: asyncio.Future[bytes | Callable[[], bytes]],
    ) -> None:
        Work.__init__(self, plan, tensors, received)
        self._codec = codec
        self.done = done

    def reply(self, outputs: list[Tensor], start: int, stop: int) -> float:
        """Build the response message and wake the call; when grpcio sends it, it tells nobody."""
        if not self.done.done():
            encode = partial(self._codec.encode, self.plan, outputs, start, stop)
            slow = self._codec.slow_elements(self.plan, outputs, start, stop) > LARGE_ELEMENTS
            self.done.set_result(encode if slow else encode())
        return perf_counter()

    def fail(self, error: ModelyardError) -> None:
        """Wake the call with the error."""
        if not self.done.done():
            self.done.set_exception(error)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc] # grpcio is untyped
    """Finds a call's method; others answer UNIMPLEMENTED."""

    def __init__(self, plane: DataPlane, methods: Methods, pool: Pool) -> None:
        self._handlers = {path: _handler(plane, method, pool) for path, method in methods.items()}

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)


def _handler(plane: DataPlane, method: Method, pool: Pool) -> Any:
    """grpcio's handler of a method; messages stay bytes."""
    if method.stream is not None:
        stream = method.stream

        async def streamed(requests: Any, context: Any) -> Any:
            try:
                async for message in stream(requests, _call(context)):
                    yield message
            except ModelyardError as error:
                await _abort(context, error)
            except Exception:  # noqa: BLE001 - boundary of a call
                _log.exception("%s failed", method.path)
                await _abort(context, BackendFailed("the request could not be served"))

        return grpc.stream_stream_rpc_method_handler(streamed)
    codec, unary = method.inference, method.unary
    if codec is not None:
        return grpc.unary_unary_rpc_method_handler(_inference(plane, codec, pool))

    async def answered(request: bytes, context: Any) -> Any:
        assert unary is not None  # noqa: S101 - for the type checker: exactly one handler is set
        try:
            call = _call(context)
            _echo(context, call.trace)
            return await unary(request, call)
        except ModelyardError as error:
            return await _abort(context, error)
        except Exception:  # noqa: BLE001 - boundary of a call
            _log.exception("%s failed", method.path)
            return await _abort(context, BackendFailed("the request could not be served"))

    return grpc.unary_unary_rpc_method_handler(answered)


def _inference(plane: DataPlane, codec: InferenceCodec, pool: Pool) -> Any:
    loop = asyncio.get_running_loop()

    async def infer(request: bytes, context: Any) -> Any:
        received = perf_counter()
        work: AioWork | None = None
        trace = _trace(context)
        _echo(context, trace)
        try:
            rest = codec.slow(request) if len(request) > LARGE_BYTES else None
            if rest is not None:
                executor, plan, tensors = await loop.run_in_executor(pool, rest)
            if rest is None or executor.gone is not None:  # it was replaced meanwhile: by its successor, then
                executor, plan, tensors = codec.decode(request)
            work = AioWork(plan, tensors, received, codec, loop.create_future())
            work.trace = trace
            left = context.time_remaining()
            if left is not None and (work.timeout_s is None or left < work.timeout_s):
                work.timeout_s = left
            executor.submit(work)
            answer = await work.done
            return answer if isinstance(answer, bytes) else await loop.run_in_executor(pool, answer)
        except ModelyardError as error:
            if work is None and isinstance(error, InvalidInput):
                plane.bad_requests += 1
            return await _abort(context, error)
        except asyncio.CancelledError:
            if work is not None:
                work.cancelled = True  # the client left or its deadline passed: the model need not run
            raise
        except Exception:  # noqa: BLE001 - boundary of a call
            _log.exception("a gRPC inference failed")
            return await _abort(context, BackendFailed("the request could not be served"))

    return infer


def _trace(context: Any) -> TraceContext | None:
    """The trace that the caller is part of."""
    parent = state = b""
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent":
            parent = value.encode()
        elif key == "tracestate":
            state = value.encode()
    return parse_trace(parent, state) if parent else None


def _echo(context: Any, trace: TraceContext | None) -> None:
    """Tell the caller of our span: in the trailers, which every answer has."""
    if trace is not None:
        context.set_trailing_metadata((("traceparent", trace.header),))


def _call(context: Any) -> Call:
    given = tuple(context.invocation_metadata() or ())
    metadata = {key: value for key, value in given if isinstance(value, str)}
    binary = {key: value for key, value in given if isinstance(value, bytes)}
    return Call(perf_counter(), context.time_remaining(), metadata, binary, trace=_trace(context))


async def _abort(context: Any, error: ModelyardError) -> None:
    _, code = status_of(error)
    after = retry_after_header(error)
    metadata = (*context.trailing_metadata(), *((("retry-after", after),) if after else ()))
    await context.abort(grpc.StatusCode[code], text_of(error), trailing_metadata=metadata)


class AioFront:
    """A grpc.aio server as `grpc.fronts.Front`."""

    def __init__(self, server: Any, port: int) -> None:
        self._server = server
        self.port = port

    def sweep(self, now: float) -> None:
        """grpcio keeps its own deadlines."""

    def reload(self) -> None:
        """grpcio asks for its credentials anew at every handshake (`_credentials`)."""

    async def stop(self, grace: float) -> None:
        """See `grpc.fronts.Front`."""
        await self._server.stop(grace)


def _credentials(tls: Tls) -> Any:
    """Credentials that follow the files. Raises InvalidInput where they cannot be used."""
    checked = ServerTls(tls)

    def read() -> Any:
        checked.reload()
        chain, key = Path(tls.certificate).read_bytes(), Path(tls.key).read_bytes()
        root = Path(tls.client_ca).read_bytes() if tls.client_ca else None
        return grpc.ssl_server_certificate_configuration([(key, chain)], root)

    def renewed() -> Any:
        try:
            return read()
        except (InvalidInput, OSError) as error:
            _log.error("%s; the old TLS files stay in use", error)
            return None

    return grpc.dynamic_ssl_server_credentials(read(), renewed, require_client_authentication=bool(tls.client_ca))


async def start(spec: ReplicaSpec, plane: DataPlane, methods: Methods, pool: Pool) -> AioFront:
    """Start serving. Raises Conflict where the port is taken, InvalidInput where the TLS files cannot be used."""
    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", int(spec.reuse_port)),
            ("grpc.max_receive_message_length", spec.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            # a shared port: see `http.limits.Limits.shared_s`; grpcio spreads it by a tenth, calls may end
            *((("grpc.max_connection_age_ms", int(SHARED_S * 1e3)),) if spec.reuse_port else ()),
        )
    )
    server.add_generic_rpc_handlers((_Handlers(plane, methods, pool),))
    host = f"[{spec.host}]" if ":" in spec.host else spec.host
    address = f"{host}:{spec.grpc_port}"
    try:
        if spec.tls is not None:
            port = server.add_secure_port(address, _credentials(spec.tls))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise Conflict(
            f"cannot listen for gRPC on {address}", why="the port is in use or not allowed", hint="choose another port"
        ) from error
    await server.start()
    return AioFront(server, port)
