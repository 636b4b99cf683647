"""The methods of `inference.GRPCInferenceService`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeAlias

import msgspec
from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2 as pb

from modelyard.domain.errors import InvalidInput
from modelyard.serving.grpc.ports import Call, Method, by_path
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.oip import control
from modelyard.serving.oip.fast_messages import FastInferCodec
from modelyard.serving.oip.messages import parse
from modelyard.serving.oip.metadata import model_config, model_metadata, server_metadata
from modelyard.serving.oip.routes import no_cuda
from modelyard.serving.oip.statistics import statistics
from modelyard.serving.oip.stream import InferStream

_SERVICE: Final = "/inference.GRPCInferenceService/"
Handler: TypeAlias = Callable[[Any], Any | Coroutine[Any, Any, Any]]


def methods(plane: DataPlane) -> dict[str, Method]:
    """The methods by path, on a data plane."""
    service = OipService(plane)

    def unary(name: str, handler: Handler) -> Method:
        request = getattr(
            pb, pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[name].input_type.name
        )
        return Method(_SERVICE + name, unary=_bytes_in_and_out(request, handler))

    codec = FastInferCodec(plane)
    return by_path(
        Method(_SERVICE + "ModelInfer", inference=codec),
        Method(_SERVICE + "ModelStreamInfer", stream=InferStream(plane, codec).serve),
        unary("ServerLive", service.server_live),
        unary("ServerReady", service.server_ready),
        unary("ModelReady", service.model_ready),
        unary("ServerMetadata", service.server_metadata),
        unary("ModelMetadata", service.model_metadata),
        unary("ModelConfig", service.model_config),
        unary("ModelStatistics", service.model_statistics),
        unary("RepositoryIndex", service.repository_index),
        unary("RepositoryModelLoad", service.load),
        unary("RepositoryModelUnload", service.unload),
        unary("SystemSharedMemoryStatus", service.memory_status),
        unary("SystemSharedMemoryRegister", service.register_memory),
        unary("SystemSharedMemoryUnregister", service.unregister_memory),
        unary("CudaSharedMemoryStatus", service.cuda_status),
        unary("CudaSharedMemoryRegister", service.register_cuda),
        unary("CudaSharedMemoryUnregister", service.unregister_cuda),
        unary("TraceSetting", service.trace_setting),
        unary("LogSettings", service.log_settings),
    )


def _bytes_in_and_out(request: Any, handler: Handler) -> Callable[[bytes, Call], Awaitable[bytes]]:
    async def answer(message: bytes, call: Call) -> bytes:  # noqa: ARG001 - Method's
        made = handler(parse(request, message))
        if isinstance(made, Coroutine):
            made = await made
        return bytes(made.SerializeToString())

    return answer


def _message(value: msgspec.Struct, kind: Any) -> Any:
    """A message of the same fields as a struct."""
    return ParseDict(msgspec.to_builtins(value), kind())


class OipService:
    """The calls other than inference. They raise ModelyardError."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    # --- health and metadata

    def server_live(self, request: Any) -> Any:  # noqa: ARG002
        return pb.ServerLiveResponse(live=True)

    def server_ready(self, request: Any) -> Any:  # noqa: ARG002
        return pb.ServerReadyResponse(ready=self._plane.ready)

    def model_ready(self, request: Any) -> Any:
        return pb.ModelReadyResponse(ready=self._plane.is_ready(request.name, request.version))

    def server_metadata(self, request: Any) -> Any:  # noqa: ARG002
        return _message(server_metadata(self._plane), pb.ServerMetadataResponse)

    def model_metadata(self, request: Any) -> Any:
        return _message(model_metadata(self._plane, request.name, request.version), pb.ModelMetadataResponse)

    def model_config(self, request: Any) -> Any:
        found = msgspec.to_builtins(model_config(self._plane, request.name, request.version))
        return ParseDict({"config": found}, pb.ModelConfigResponse())

    def model_statistics(self, request: Any) -> Any:
        return _message(statistics(self._plane, request.name, request.version), pb.ModelStatisticsResponse)

    # --- repository

    def repository_index(self, request: Any) -> Any:
        models = [msgspec.to_builtins(entry) for entry in control.index(self._plane, ready_only=request.ready)]
        return ParseDict({"models": models}, pb.RepositoryIndexResponse())

    async def load(self, request: Any) -> Any:
        await control.load(self._plane, request.model_name, _choices(request.parameters))
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: Any) -> Any:
        await control.unload(self._plane, request.model_name, _choices(request.parameters))
        return pb.RepositoryModelUnloadResponse()

    # --- shared memory

    def memory_status(self, request: Any) -> Any:
        message = pb.SystemSharedMemoryStatusResponse()
        for region in self._plane.regions.status(request.name):
            one = message.regions[region.name]
            one.name, one.key = region.name, region.key
            one.offset, one.byte_size = region.offset, region.byte_size
        return message

    def register_memory(self, request: Any) -> Any:
        self._plane.regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    def unregister_memory(self, request: Any) -> Any:
        self._plane.regions.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def cuda_status(self, request: Any) -> Any:  # noqa: ARG002
        return pb.CudaSharedMemoryStatusResponse()

    def register_cuda(self, request: Any) -> Any:
        raise no_cuda(request.name)

    def unregister_cuda(self, request: Any) -> Any:  # noqa: ARG002
        return pb.CudaSharedMemoryUnregisterResponse()

    # --- settings

    def trace_setting(self, request: Any) -> Any:
        model, tracer = request.model_name, self._plane.tracer
        if model:
            self._plane.find(model)
        wanted = {name: list(given.value) or None for name, given in request.settings.items()}
        now = tracer.update(wanted, model) if wanted else tracer.settings(model)
        message = pb.TraceSettingResponse()
        for name, value in now.items():
            message.settings[name].value.extend(value if isinstance(value, list) else [value])
        return message

    def log_settings(self, request: Any) -> Any:
        wanted = _choices(request.settings)
        logs = self._plane.logs
        now = logs.update(wanted) if wanted else logs.settings
        message = pb.LogSettingsResponse()
        for name, value in msgspec.to_builtins(now).items():
            kind = (
                "bool_param"
                if isinstance(value, bool)
                else "uint32_param"
                if isinstance(value, int)
                else "string_param"
            )
            setattr(message.settings[name], kind, value)
        return message


def _choices(given: Any) -> dict[str, Any]:
    """A map's values, each a message with one `parameter_choice`. Raises InvalidInput for an empty one."""
    found: dict[str, Any] = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidInput(f"parameter '{name[:100]}' has no value")
        found[name] = getattr(parameter, kind)
    return found
