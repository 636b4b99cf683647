"""scikit-learn estimators and pipelines to ONNX by skl2onnx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from modelyard.convert.converters.onnx_outputs import finish
from modelyard.convert.ports import ConversionJob, ConversionProblem, Edge, Product
from modelyard.domain.artifacts import ONNX, SKLEARN, FailureClass, Target
from modelyard.domain.tensors import Datatype, Signature, TensorSpec

OPSET: Final = 18
_NEEDS: Final = ("scikit-learn", "skl2onnx", "onnx", "skops")
_EDGES: Final = (
    Edge("skl2onnx", Target(SKLEARN), Target(ONNX), _NEEDS, "sklearn,onnx", options={"opset": str(OPSET)}),
)


class FromSklearn:
    """One tensor of all features, or one per named column; zip maps (lists of dicts) never occur."""

    name = "sklearn"
    edges: Sequence[Edge] = _EDGES

    def convert(self, job: ConversionJob) -> Product:
        from skl2onnx import convert_sklearn
        from sklearn.base import is_classifier

        from modelyard.runtimes.sklearn import load_estimator

        estimator = load_estimator(job.source)
        options: dict[int, Any] = {}
        if is_classifier(estimator):
            options[id(estimator)] = {"zipmap": False}
            if any(spec.name == "scores" for spec in job.signature.outputs):
                options[id(estimator)]["raw_scores"] = True
        model = convert_sklearn(
            estimator,
            initial_types=initial_types(job.signature),
            options=options,
            target_opset={"": OPSET, "ai.onnx.ml": 3},
        )
        return finish(model, job.signature, job.directory)


CONVERTER: Final = FromSklearn()


def initial_types(signature: Signature) -> list[tuple[str, Any]]:
    """The inputs in skl2onnx's terms."""
    return [(spec.name, _tensor_type(spec)) for spec in signature.inputs]


def _tensor_type(spec: TensorSpec) -> Any:
    from skl2onnx.common import data_types

    kinds = {
        Datatype.FP32: data_types.FloatTensorType,
        Datatype.FP64: data_types.DoubleTensorType,
        Datatype.INT64: data_types.Int64TensorType,
        Datatype.INT32: data_types.Int32TensorType,
        Datatype.BOOL: data_types.BooleanTensorType,
        Datatype.BYTES: data_types.StringTensorType,
    }
    if spec.datatype not in kinds:
        raise ConversionProblem(
            FailureClass.UNSUPPORTED_OPERATOR,
            f"skl2onnx takes no {spec.datatype} input ('{spec.name}')",
            f"declare it as one of {', '.join(kinds)}",
        )
    return kinds[spec.datatype]([None if isinstance(dim, str) else dim for dim in spec.shape])
