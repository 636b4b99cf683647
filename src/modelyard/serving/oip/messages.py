"""The messages of the Open Inference Protocol's gRPC form: inference requests and responses to tensors and back.

Messages are tritonclient's generated ones.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2 as pb

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Tensor
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.oip import wire
from modelyard.serving.oip.plan import InferHead, InputHead, Interface, OutputHead, Plan, make_plan, ordered
from modelyard.serving.oip.rest import remember
from modelyard.serving.scheduling.executor import Executor

_CONTENTS: Final = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""The typed field of a datatype; FP16 travels only raw."""


class InferCodec:
    """ModelInfer: `grpc.ports.InferenceCodec`."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def decode(self, message: bytes) -> tuple[Executor, Plan, tuple[Tensor, ...]]:
        """Parse a ModelInferRequest; see `grpc.ports.InferenceCodec`."""
        request = parse(pb.ModelInferRequest, message)
        executor = self._plane.target(request.model_name, request.model_version).pick()
        plan, tensors = decode(executor.interface, request)
        return executor, plan, tensors

    def encode(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> bytes:
        """A ModelInferResponse."""
        return bytes(response(plan, outputs, start, stop).SerializeToString())


def parse(kind: Any, message: bytes) -> Any:
    """A message of a generated class. Raises InvalidInput."""
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the request is not a {kind.DESCRIPTOR.full_name}", why=str(error)) from None


def response(plan: Plan, outputs: list[Tensor], start: int, stop: int) -> Any:
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
