"""The gRPC methods of TF Serving: PredictionService and ModelService."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage  # type: ignore[import-untyped]

from modelyard.domain.errors import InvalidInput, ModelyardError, Unsupported
from modelyard.domain.tensors import Tensor
from modelyard.serving.faults import status_of, text_of
from modelyard.serving.grpc.ports import Call, Method, by_path
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.oip.messages import parse
from modelyard.serving.oip.plan import Plan
from modelyard.serving.scheduling.executor import Executor
from modelyard.serving.scheduling.work import Work
from modelyard.serving.tfs import messages as pb
from modelyard.serving.tfs import models
from modelyard.serving.tfs.codecs import ClassifyCodec, PredictCodec, RegressCodec, chosen, decode_examples
from modelyard.serving.tfs.plan import CLASSIFY, DEFAULT_SIGNATURE, PREDICT, REGRESS
from modelyard.serving.tfs.reload import policies_of
from modelyard.serving.tfs.tensors import DT

_PREDICTION: Final = "/tensorflow.serving.PredictionService/"
_MODEL: Final = "/tensorflow.serving.ModelService/"
_SIGNATURES: Final = "signature_def"


def methods(plane: DataPlane) -> dict[str, Method]:
    """The methods by path, on a data plane."""
    service = TfsService(plane)
    return by_path(
        Method(_PREDICTION + "Predict", inference=PredictCodec(plane)),
        Method(_PREDICTION + "Classify", inference=ClassifyCodec(plane)),
        Method(_PREDICTION + "Regress", inference=RegressCodec(plane)),
        _unary(_PREDICTION + "MultiInference", pb.MultiInferenceRequest, service.multi_inference),
        _unary(_PREDICTION + "GetModelMetadata", pb.GetModelMetadataRequest, service.metadata),
        _unary(_MODEL + "GetModelStatus", pb.GetModelStatusRequest, service.status),
        _unary(_MODEL + "HandleReloadConfigRequest", pb.ReloadConfigRequest, service.reload),
    )


def _unary(path: str, request: Any, handler: Callable[[Any, Call], Awaitable[Any]]) -> Method:
    async def answer(message: bytes, call: Call) -> bytes:
        return bytes((await handler(parse(request, message), call)).SerializeToString())

    return Method(path, unary=answer)


class _TaskWork(Work):
    """One task of a MultiInference; its future gets the rows of the outputs."""

    __slots__ = ("done",)

    def __init__(self, plan: Plan, tensors: tuple[Tensor, ...], call: Call, done: asyncio.Future[list[Tensor]]) -> None:
        Work.__init__(self, plan, tensors, call.received)
        self.whole = call.whole or call.received
        self.timeout_s = call.timeout_s
        self.trace = call.trace.another() if call.trace is not None else None
        self.done = done

    def reply(self, outputs: list[Tensor], start: int, stop: int) -> float:
        """Wake the call with its rows: the answer is rendered when all tasks have theirs."""
        if not self.done.done():
            batched = self.plan.interface.batched
            self.done.set_result([o[start:stop].copy() if batched else o for o in outputs])
        return perf_counter()

    def fail(self, error: ModelyardError) -> None:
        """Wake the call with the error."""
        if not self.done.done():
            self.done.set_exception(error)


class TfsService:
    """The calls that are no plain inference. They raise ModelyardError."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def multi_inference(self, request: Any, call: Call) -> Any:
        """Several classifications and regressions of the same examples, by one version: the first task's."""
        executor = self._chosen_by_all(request.tasks)
        works: list[_TaskWork] = []
        try:
            works.extend(self._start(executor, task, request.input, call) for task in request.tasks)
            results = [await work.done for work in works]
        finally:
            for work in works:
                work.cancelled = not work.done.done()
                if work.done.done() and not work.done.cancelled():
                    work.done.exception()  # the first failure is the answer; the others' are thereby seen
        response = pb.MultiInferenceResponse()
        for task, work, outputs in zip(request.tasks, works, results, strict=True):
            codec = ClassifyCodec(self._plane) if task.method_name == CLASSIFY else RegressCodec(self._plane)
            rows = outputs[0].shape[0]
            result = response.results.add()
            whole = codec.response(work.plan, outputs, 0, rows)
            result.model_spec.CopyFrom(whole.model_spec)
            if task.method_name == CLASSIFY:
                result.classification_result.CopyFrom(whole.result)
            else:
                result.regression_result.CopyFrom(whole.result)
        return response

    def _chosen_by_all(self, tasks: Any) -> Executor:
        if not tasks:
            raise InvalidInput("Inference request must have at least one task")
        first = tasks[0].model_spec
        for spec in (task.model_spec for task in tasks):
            if spec.name != first.name:
                raise InvalidInput("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
            choice = spec.WhichOneof("version_choice")
            if choice is not None and (
                choice != first.WhichOneof("version_choice") or getattr(spec, choice) != getattr(first, choice)
            ):
                raise InvalidInput("All ModelSpecs in a MultiInferenceRequest must access the same version.")
        return chosen(self._plane, first).pick()

    @staticmethod
    def _start(executor: Executor, task: Any, given: Any, call: Call) -> _TaskWork:
        if task.method_name not in (CLASSIFY, REGRESS):
            raise Unsupported(f"Unsupported signature method_name: {task.method_name}")
        kind = ClassifyCodec if task.method_name == CLASSIFY else RegressCodec
        plan, tensors = decode_examples(executor.interface, task.model_spec, given, kind.check)
        work = _TaskWork(plan, tensors, call, asyncio.get_running_loop().create_future())
        executor.submit(work)
        return work

    async def metadata(self, request: Any, call: Call) -> Any:  # noqa: ARG002 - Method's
        """The model's signature; `signature_def` is the only metadata there is."""
        if not request.metadata_field:
            raise InvalidInput("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != _SIGNATURES:
                raise InvalidInput(f"Metadata field {name} is not supported")
        target = chosen(self._plane, request.model_spec)
        version = str(request.model_spec.version.value) if request.model_spec.HasField("version") else ""
        interface = (target.only or self._plane.find(request.model_spec.name, version)).interface  # no canary's turn
        signature = pb.SignatureDef(method_name=PREDICT)
        for side, specs in (
            (signature.inputs, interface.signature.inputs),
            (signature.outputs, interface.signature.outputs),
        ):
            for spec in specs:
                info = side[spec.name]
                info.name, info.dtype = spec.name, pb.DATA_TYPES[DT[spec.datatype]]
                for size in models.sizes(spec):
                    info.tensor_shape.dim.add(size=size)
        signatures = pb.SignatureDefMap()
        signatures.signature_def[DEFAULT_SIGNATURE].CopyFrom(signature)
        response = pb.GetModelMetadataResponse()
        response.model_spec.name = interface.name
        response.model_spec.version.value = interface.version
        packed = AnyMessage(
            type_url="type.googleapis.com/tensorflow.serving.SignatureDefMap", value=signatures.SerializeToString()
        )
        response.metadata[_SIGNATURES].ParseFromString(packed.SerializeToString())
        return response

    async def status(self, request: Any, call: Call) -> Any:  # noqa: ARG002
        """The states of a model's versions."""
        spec = request.model_spec
        choice = spec.WhichOneof("version_choice")
        version = str(spec.version.value) if choice == "version" else ""
        response = pb.GetModelStatusResponse()
        for state in models.states(self._plane, spec.name, version, spec.version_label):
            code, message = models.status(state)
            shown = response.model_version_status.add(version=state.version, state=pb.STATES[str(state.stage)])
            shown.status.error_code, shown.status.error_message = pb.ERROR_CODES[code], message
        return response

    async def reload(self, request: Any, call: Call) -> Any:  # noqa: ARG002
        """Serve what the config says, all of it or nothing; a refusal is in the answer's status, as in TF Serving."""
        response = pb.ReloadConfigResponse()
        try:
            policies = policies_of(request.config, self._plane.repository.directory)
            await self._plane.apply_policies(policies, exclusive=True)
        except ModelyardError as error:
            _, code = status_of(error)
            response.status.error_code = pb.ERROR_CODES[code]
            response.status.error_message = text_of(error)
        return response
