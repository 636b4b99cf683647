"""gRPC form of the Open Inference Protocol, on grpc.aio in the replica's own event loop.

Messages are tritonclient's generated ones. grpcio itself is the limit: seen once, by a script that was not kept (a
constant answer, 8 connections, h2load, 2 shared cores), grpc.aio reached 6.4k requests/s and sync threads 8.8k, but
those would still have to hand each call to the loop and wait for it. With inference: bench/serving_overhead.py.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import Any, Final

import grpc
import numpy as np
from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from modelyard.domain.errors import BackendFailed, Conflict, InvalidInput, ModelyardError
from modelyard.domain.tensors import Tensor
from modelyard.serving import wire
from modelyard.serving.dataplane import DataPlane
from modelyard.serving.faults import retry_after_header, status_of, text_of
from modelyard.serving.plan import InferHead, InputHead, Interface, OutputHead, Plan, make_plan, ordered
from modelyard.serving.rest import remember
from modelyard.serving.work import Work

_log = logging.getLogger(__name__)

_CONTENTS: Final = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""The typed field of a datatype; FP16 travels only raw."""


class GrpcWork(Work):
    """An inference request that came by gRPC."""

    __slots__ = ("done",)

    def __init__(self, plan: Plan, tensors: tuple[Tensor, ...], received: float, done: asyncio.Future[Any]) -> None:
        Work.__init__(self, plan, tensors, received)
        self.done = done

    def reply(self, outputs: list[Tensor], start: int, stop: int) -> None:
        """Build the response message and wake the call."""
        if not self.done.done():
            self.done.set_result(_response(self.plan, outputs, start, stop))

    def fail(self, error: ModelyardError) -> None:
        """Wake the call with the error."""
        if not self.done.done():
            self.done.set_exception(error)


def _response(plan: Plan, outputs: list[Tensor], start: int, stop: int) -> Any:
    face = plan.interface
    message = pb.ModelInferResponse(model_name=face.name, model_version=str(face.version), id=plan.id)
    for index, _ in plan.outputs:
        part = outputs[index][start:stop] if face.batched else outputs[index]
        spec = face.signature.outputs[index]
        message.outputs.add(name=spec.name, datatype=str(spec.datatype), shape=part.shape)
        message.raw_output_contents.append(wire.to_bytes(part))
    return message


def decode(interface: Interface, request: Any) -> tuple[Plan, tuple[Tensor, ...]]:
    """Decode and check a ModelInferRequest, raw or typed contents. Raises InvalidInput, Unsupported."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(
            f"expected {len(request.inputs)} raw input contents, got {len(raw)}",
            hint="send every input in raw_input_contents, or none",
        )
    plan = _plan(interface, request)
    tensors: list[Tensor] = []
    for i, item in enumerate(plan.inputs):
        if raw:
            tensors.append(wire.from_bytes(item.name, item.datatype, item.shape, raw[i], 0, len(raw[i])))
        else:
            tensors.append(_typed(item.name, item.datatype, item.shape, request.inputs[i].contents))
    return plan, ordered(plan, tensors)


def _plan(interface: Interface, request: Any) -> Plan:
    if request.id or request.parameters or request.outputs:
        return make_plan(interface, _head(request))
    key = ("grpc", *[(i.name, i.datatype, *i.shape) for i in request.inputs])
    plan = interface.json_plans.get(key)
    if plan is None:
        plan = make_plan(interface, _head(request))
        remember(interface.json_plans, key, plan)
    return plan


def _head(request: Any) -> InferHead:
    return InferHead(
        inputs=[InputHead(i.name, i.datatype, list(i.shape), _parameters(i.parameters)) for i in request.inputs],
        id=request.id,
        outputs=[OutputHead(o.name, _parameters(o.parameters)) for o in request.outputs],
        parameters=_parameters(request.parameters),
    )


def _parameters(given: Any) -> dict[str, Any]:
    return {name: getattr(p, p.WhichOneof("parameter_choice") or "bool_param") for name, p in given.items()}


def _typed(name: str, datatype: str, shape: tuple[int, ...], contents: Any) -> Tensor:
    field = _CONTENTS.get(datatype)
    if field is None:
        raise InvalidInput(f"input '{name}' of {datatype} must be sent in raw_input_contents")
    values = list(getattr(contents, field))
    count = wire.elements(name, shape)
    if len(values) != count:
        raise InvalidInput(f"input '{name}' has {len(values)} elements in {field}, but its shape needs {count}")
    if datatype == "BYTES":
        return wire.object_array(values).reshape(shape)
    try:
        return np.array(values, wire.NUMPY[datatype]).reshape(shape)
    except OverflowError:
        raise InvalidInput(f"a value of input '{name}' does not fit {datatype}") from None


class GrpcFront(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # generated, untyped
    """The service; methods that are not here answer UNIMPLEMENTED."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._loop = asyncio.get_running_loop()

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - gRPC's names
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        return pb.ServerReadyResponse(ready=self._plane.ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            return pb.ModelReadyResponse(ready=self._plane.is_ready(request.name, request.version))
        except ModelyardError as error:
            return await _abort(context, error)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        return ParseDict(self._plane.server_metadata(), pb.ServerMetadataResponse())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            metadata = self._plane.model_metadata(request.name, request.version)
        except ModelyardError as error:
            return await _abort(context, error)
        return ParseDict(metadata, pb.ModelMetadataResponse())

    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            statistics = self._plane.triton_statistics(request.name, request.version)
        except ModelyardError as error:
            return await _abort(context, error)
        return ParseDict(statistics, pb.ModelStatisticsResponse())

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        received = perf_counter()
        work: GrpcWork | None = None
        try:
            executor = self._plane.find(request.model_name, request.model_version)
            plan, tensors = decode(executor.interface, request)
            work = GrpcWork(plan, tensors, received, self._loop.create_future())
            left = context.time_remaining()
            if left is not None and (work.timeout_s is None or left < work.timeout_s):
                work.timeout_s = left
            executor.submit(work)
            return await work.done
        except ModelyardError as error:
            if work is None:
                self._plane.bad_requests += 1
            return await _abort(context, error)
        except asyncio.CancelledError:
            if work is not None:
                work.cancelled = True  # the client left or its deadline passed: the model need not run
            raise
        except Exception:  # noqa: BLE001 - boundary of a call
            _log.exception("a gRPC inference failed")
            return await _abort(context, BackendFailed("the request could not be served"))


async def _abort(context: Any, error: ModelyardError) -> None:
    _, code = status_of(error)
    after = retry_after_header(error)
    metadata = (("retry-after", after),) if after else ()
    await context.abort(grpc.StatusCode[code], text_of(error), trailing_metadata=metadata)


async def start(plane: DataPlane, address: str, *, reuse_port: bool, max_body_bytes: int) -> tuple[Any, int]:
    """Start serving; returns the server and its port. Raises Conflict where the port is taken."""
    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", int(reuse_port)),
            ("grpc.max_receive_message_length", max_body_bytes),
            ("grpc.max_send_message_length", -1),
        )
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(GrpcFront(plane), server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise Conflict(
            f"cannot listen for gRPC on {address}", why="the port is in use or not allowed", hint="choose another port"
        ) from error
    await server.start()
    return server, port
