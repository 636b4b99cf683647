"""The messages of the Open Inference Protocol's gRPC form: inference requests and responses to tensors and back.

Messages are tritonclient's generated ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2 as pb

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Tensor
from modelyard.serving.grpc.ports import Decoded
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.oip import wire
from modelyard.serving.oip.answers import answers
from modelyard.serving.oip.plan import (
    InferHead,
    InputHead,
    InputPlan,
    Interface,
    OutputHead,
    Plan,
    from_region,
    make_plan,
    ordered,
)
from modelyard.serving.oip.regions import Regions
from modelyard.serving.oip.rest import remember
from modelyard.serving.scheduling.executor import Executor

_CONTENTS: Final = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""The typed field of a datatype; FP16 and BF16 travel only raw."""
_AS_ARRAYS: Final = ("BOOL", "FP32", "FP64")
"""Whose typed field, packed, holds the bytes of the array (https://protobuf.dev/programming-guides/encoding/)."""


class InferCodec:
    """ModelInfer: `grpc.ports.InferenceCodec`."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def decode(self, message: bytes) -> tuple[Executor, Plan, tuple[Tensor, ...]]:
        """Parse a ModelInferRequest; see `grpc.ports.InferenceCodec`."""
        request = parse(pb.ModelInferRequest, message)
        executor = self._plane.target(request.model_name, request.model_version).pick()
        plan, tensors = decode(executor.interface, request, self._plane.regions)
        return executor, plan, tensors

    def slow(self, message: bytes) -> Callable[[], Decoded] | None:
        """See `grpc.ports.InferenceCodec`: strings and typed contents become arrays one by one."""
        request = parse(pb.ModelInferRequest, message)
        if request.raw_input_contents and all(given.datatype != "BYTES" for given in request.inputs):
            return None
        executor = self._plane.target(request.model_name, request.model_version).pick()
        regions = self._plane.regions
        return lambda: (executor, *decode(executor.interface, request, regions))

    def encode(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> bytes:
        """A ModelInferResponse."""
        return bytes(response(plan, outputs, start, stop).SerializeToString())

    def slow_elements(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> int:
        """See `grpc.ports.InferenceCodec`: strings."""
        strings = [outputs[i] for i, _ in plan.outputs if outputs[i].dtype.kind == "O"]
        if not plan.interface.batched:
            return sum(o.size for o in strings)
        return sum(o.size * (stop - start) // max(o.shape[0], 1) for o in strings)


def parse(kind: Any, message: bytes) -> Any:
    """A message of a generated class. Raises InvalidInput."""
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the request is not a {kind.DESCRIPTOR.full_name}", why=str(error)) from None


def response(plan: Plan, outputs: list[Tensor], start: int, stop: int) -> Any:
    """A ModelInferResponse for rows `start:stop` of a batch's outputs; raw contents, as Triton sends them."""
    face = plan.interface
    message = pb.ModelInferResponse(model_name=face.name, model_version=str(face.version), id=plan.id)
    if plan.wishes is not None:
        _fill_wishes(message, plan, outputs, start, stop)
        return message
    for index, _ in plan.outputs:
        part = outputs[index][start:stop] if face.batched else outputs[index]
        spec = face.signature.outputs[index]
        message.outputs.add(name=spec.name, datatype=str(spec.datatype), shape=part.shape)
        message.raw_output_contents.append(wire.to_bytes(part, spec.datatype))
    return message


def _fill_wishes(message: Any, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> None:
    for answer in answers(plan, outputs, start, stop):
        output = message.outputs.add(name=answer.name, datatype=answer.datatype, shape=answer.shape)
        raw = b""  # clients count: what is in shared memory has an empty place here
        if answer.region is not None:
            output.parameters["shared_memory_region"].string_param = answer.region.region.name
            output.parameters["shared_memory_byte_size"].int64_param = answer.size
            output.parameters["shared_memory_offset"].int64_param = answer.region.offset
        elif answer.values is not None:
            raw = wire.to_bytes(answer.values, answer.datatype)
        message.raw_output_contents.append(raw)


def decode(interface: Interface, request: Any, regions: Regions | None = None) -> tuple[Plan, tuple[Tensor, ...]]:
    """Decode and check a ModelInferRequest: raw or typed contents, or shared memory.

    Raises InvalidInput, NotFound, Unsupported.
    """
    raw = request.raw_input_contents
    plan = _plan(interface, request, regions)
    inputs = plan.inputs
    if raw and len(raw) != (sent := sum(i.region is None for i in inputs)):
        raise InvalidInput(
            f"expected {sent} raw input contents, got {len(raw)}",
            hint="send every input in raw_input_contents, or none",
        )
    tensors: list[Tensor] = []
    rest = iter(raw)
    for item, given in zip(inputs, request.inputs, strict=True):
        if item.region is not None:
            tensors.append(from_region(item, item.region))
        elif raw:
            if given.HasField("contents"):
                raise InvalidInput(
                    "contents field must not be specified when using raw_input_contents for "
                    f"'{item.name}' for model '{interface.name}'"
                )
            data = next(rest)
            tensors.append(wire.from_bytes(item.name, item.datatype, item.shape, data, 0, len(data), copy=False))
        else:
            tensors.append(_typed(interface, item, given.contents))
    return plan, ordered(plan, tensors)


def _plan(interface: Interface, request: Any, regions: Regions | None) -> Plan:
    if request.id or request.parameters or request.outputs or any(i.parameters for i in request.inputs):
        return make_plan(interface, _head(request), regions)
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
    return {name: getattr(p, kind) if (kind := p.WhichOneof("parameter_choice")) else None for name, p in given.items()}


def _typed(interface: Interface, item: InputPlan, contents: Any) -> Tensor:
    field = _CONTENTS.get(item.datatype)
    if field is None:
        raise InvalidInput(
            f"unexpected explicit tensor data for input tensor '{item.name}' for model '{interface.name}' "
            f"of type '{item.datatype}'",
            hint="send it in raw_input_contents",
        )
    if any(other.name != field for other, _ in contents.ListFields()):
        raise InvalidInput(
            f"unexpected explicit tensor data for input tensor '{item.name}' for model '{interface.name}' "
            f"of type '{item.datatype}', expected {field}"
        )
    values = getattr(contents, field)
    if len(values) != item.count:
        raise InvalidInput(
            f"input '{item.name}' has {len(values)} elements in {field}, but its shape needs {item.count}"
        )
    if item.datatype == "BYTES":
        return wire.object_array(list(values)).reshape(item.shape)
    if item.datatype in _AS_ARRAYS:  # a fiftieth of what the way over Python's numbers takes
        contents.DiscardUnknownFields()
        packed = contents.SerializeToString()
        return np.frombuffer(packed, item.dtype, item.count, len(packed) - item.count * item.dtype.itemsize).reshape(
            item.shape
        )
    try:
        return np.array(list(values), item.dtype).reshape(item.shape)
    except OverflowError:
        raise InvalidInput(f"a value of input '{item.name}' does not fit {item.datatype}") from None
