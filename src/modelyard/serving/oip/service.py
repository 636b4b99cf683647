"""The methods of `inference.GRPCInferenceService`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2 as pb

from modelyard.serving.grpc.ports import Call, Method, by_path
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.oip.messages import InferCodec, parse

_SERVICE: Final = "/inference.GRPCInferenceService/"


def methods(plane: DataPlane) -> dict[str, Method]:
    """The methods by path, on a data plane."""
    service = OipService(plane)

    def unary(name: str, request: Any, handler: Callable[[Any], Any]) -> Method:
        return Method(_SERVICE + name, unary=_bytes_in_and_out(request, handler))

    return by_path(
        Method(_SERVICE + "ModelInfer", inference=InferCodec(plane)),
        unary("ServerLive", pb.ServerLiveRequest, service.server_live),
        unary("ServerReady", pb.ServerReadyRequest, service.server_ready),
        unary("ModelReady", pb.ModelReadyRequest, service.model_ready),
        unary("ServerMetadata", pb.ServerMetadataRequest, service.server_metadata),
        unary("ModelMetadata", pb.ModelMetadataRequest, service.model_metadata),
        unary("ModelStatistics", pb.ModelStatisticsRequest, service.model_statistics),
    )


def _bytes_in_and_out(request: Any, handler: Callable[[Any], Any]) -> Callable[[bytes, Call], Awaitable[bytes]]:
    async def answer(message: bytes, call: Call) -> bytes:  # noqa: ARG001 - Method's
        return bytes(handler(parse(request, message)).SerializeToString())

    return answer


class OipService:
    """The calls other than inference. They raise ModelyardError."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def server_live(self, request: Any) -> Any:  # noqa: ARG002
        return pb.ServerLiveResponse(live=True)

    def server_ready(self, request: Any) -> Any:  # noqa: ARG002
        return pb.ServerReadyResponse(ready=self._plane.ready)

    def model_ready(self, request: Any) -> Any:
        return pb.ModelReadyResponse(ready=self._plane.is_ready(request.name, request.version))

    def server_metadata(self, request: Any) -> Any:  # noqa: ARG002
        return ParseDict(self._plane.server_metadata(), pb.ServerMetadataResponse())

    def model_metadata(self, request: Any) -> Any:
        return ParseDict(self._plane.model_metadata(request.name, request.version), pb.ModelMetadataResponse())

    def model_statistics(self, request: Any) -> Any:
        return ParseDict(self._plane.triton_statistics(request.name, request.version), pb.ModelStatisticsResponse())
