"""Predict, Classify and Regress over gRPC: `grpc.ports.InferenceCodec` of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Tensor
from modelyard.serving.grpc.ports import Decoded
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.models.target import Target
from modelyard.serving.oip.messages import parse
from modelyard.serving.oip.plan import Interface, Plan
from modelyard.serving.scheduling.executor import Executor
from modelyard.serving.tfs import heads, models
from modelyard.serving.tfs import messages as pb
from modelyard.serving.tfs.plan import check_names, plan_of
from modelyard.serving.tfs.tensors import DATATYPES, DT, from_proto, into_proto


def chosen(plane: DataPlane, spec: Any) -> Target:
    """The target of a ModelSpec. Raises NotFound, InvalidInput, Unavailable."""
    choice = spec.WhichOneof("version_choice")
    version = str(spec.version.value) if choice == "version" else ""
    return models.target(plane, spec.name, version, spec.version_label if choice == "version_label" else "")


class PredictCodec:
    """Predict: named tensors in and out."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def decode(self, message: bytes) -> tuple[Executor, Plan, tuple[Tensor, ...]]:
        """Parse a PredictRequest; see `grpc.ports.InferenceCodec`."""
        request = parse(pb.PredictRequest, message)
        return self._decoded(chosen(self._plane, request.model_spec).pick(), request)

    def slow(self, message: bytes) -> Callable[[], Decoded] | None:
        """See `grpc.ports.InferenceCodec`: all but `tensor_content` becomes an array one by one."""
        request = parse(pb.PredictRequest, message)
        if all(proto.tensor_content for proto in request.inputs.values()):
            return None
        return partial(self._decoded, chosen(self._plane, request.model_spec).pick(), request)

    @staticmethod
    def _decoded(executor: Executor, request: Any) -> Decoded:
        interface = executor.interface
        check_names(interface, request.inputs)
        tensors: dict[str, Tensor] = {}
        for spec in interface.signature.inputs:
            proto = request.inputs[spec.name]
            if DATATYPES.get(proto.dtype) is not spec.datatype:
                got = next((name for name, number in pb.DATA_TYPES.items() if number == proto.dtype), str(proto.dtype))
                raise InvalidInput(f"input '{spec.name}' is {got}", why=f"the model takes {DT[spec.datatype]}")
            tensors[spec.name] = from_proto(spec, proto)
        signature = request.model_spec.signature_name
        return executor, *plan_of(interface, tensors, signature, wanted=request.output_filter)

    def encode(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> bytes:
        """A PredictResponse."""
        interface = plan.interface
        response = pb.PredictResponse()
        _identify(response.model_spec, plan)
        for index, _ in plan.outputs:
            spec = interface.signature.outputs[index]
            part = outputs[index][start:stop] if interface.batched else outputs[index]
            into_proto(response.outputs[spec.name], spec.datatype, part)
        return bytes(response.SerializeToString())

    def slow_elements(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> int:
        """See `grpc.ports.InferenceCodec`."""
        return _elements(plan, outputs, start, stop)


def _elements(plan: Plan, outputs: list[Tensor], start: int, stop: int) -> int:
    parts = [outputs[i] for i, _ in plan.outputs]
    if not plan.interface.batched:
        return sum(o.size for o in parts)
    return sum(o.size * (stop - start) // max(o.shape[0], 1) for o in parts)


def _identify(spec: Any, plan: Plan) -> None:
    spec.name = plan.interface.name
    spec.version.value = plan.interface.version
    spec.signature_name = getattr(plan, "signature", "") or "serving_default"


class _ExamplesCodec:
    """Classify and Regress: examples in."""

    request: Any
    check: Callable[[Interface], object]

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def decode(self, message: bytes) -> tuple[Executor, Plan, tuple[Tensor, ...]]:
        """Parse the request; see `grpc.ports.InferenceCodec`."""
        request = parse(self.request, message)
        return self._decoded(chosen(self._plane, request.model_spec).pick(), request)

    def slow(self, message: bytes) -> Callable[[], Decoded] | None:
        """See `grpc.ports.InferenceCodec`: examples always are."""
        request = parse(self.request, message)
        return partial(self._decoded, chosen(self._plane, request.model_spec).pick(), request)

    def _decoded(self, executor: Executor, request: Any) -> Decoded:
        return executor, *decode_examples(executor.interface, request.model_spec, request.input, type(self).check)

    def response(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> Any:
        """The response message."""
        raise NotImplementedError

    def encode(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> bytes:
        """The response's bytes."""
        return bytes(self.response(plan, outputs, start, stop).SerializeToString())

    def slow_elements(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> int:
        """See `grpc.ports.InferenceCodec`."""
        return _elements(plan, outputs, start, stop)


class ClassifyCodec(_ExamplesCodec):
    """Classify: label and score of every class."""

    request = pb.ClassificationRequest
    check = staticmethod(heads.classified)

    def response(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> Any:
        """A ClassificationResponse."""
        response = pb.ClassificationResponse()
        _identify(response.model_spec, plan)
        for row in heads.classes(plan, outputs, start, stop):
            shown = response.result.classifications.add()
            for label, score in row:
                shown.classes.add(label=label, score=score)
        return response


class RegressCodec(_ExamplesCodec):
    """Regress: a number per example."""

    request = pb.RegressionRequest
    check = staticmethod(heads.regressed)

    def response(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> Any:
        """A RegressionResponse."""
        response = pb.RegressionResponse()
        _identify(response.model_spec, plan)
        for value in heads.numbers(plan, outputs, start, stop):
            response.result.regressions.add(value=value)
        return response


def decode_examples(
    interface: Interface, spec: Any, given: Any, check: Callable[[Interface], object]
) -> tuple[Plan, tuple[Tensor, ...]]:
    """Plan and tensors of an Input of examples, for a model that `check` allows. Raises InvalidInput."""
    check(interface)
    kind = given.WhichOneof("kind")
    if kind is None:
        raise InvalidInput("Input is empty.", hint="send example_list or example_list_with_context")
    examples = getattr(given, kind).examples
    context = _features(given.example_list_with_context.context) if kind == "example_list_with_context" else {}
    tensors = heads.tensors_of(interface, [_features(example) for example in examples], context)
    return plan_of(interface, tensors, spec.signature_name)


def _features(example: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found
