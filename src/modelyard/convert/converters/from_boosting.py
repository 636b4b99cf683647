"""XGBoost and LightGBM ensembles to ONNX by onnxmltools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from modelyard.convert.converters.onnx_outputs import finish
from modelyard.convert.ports import ConversionJob, ConversionProblem, Edge, Product
from modelyard.domain.artifacts import LIGHTGBM, ONNX, XGBOOST, FailureClass, Target
from modelyard.domain.tensors import Datatype, Signature

OPSET: Final = 15  # onnxmltools 1.16 declares no newer one
_NEEDS: Final = ("onnxmltools", "skl2onnx", "onnx")
_EDGES: Final = (
    Edge("onnxmltools-xgboost", Target(XGBOOST), Target(ONNX), (*_NEEDS, "xgboost-cpu"), "sklearn,onnx"),
    Edge("onnxmltools-lightgbm", Target(LIGHTGBM), Target(ONNX), (*_NEEDS, "lightgbm"), "sklearn,onnx"),
)


class FromBoosting:
    """Ensembles over one matrix of features."""

    name = "boosting"
    edges: Sequence[Edge] = _EDGES

    def convert(self, job: ConversionJob) -> Product:
        types = _types(job.signature)
        made = _xgboost(job, types) if job.source.target.format == XGBOOST else _lightgbm(job, types)
        return finish(made, job.signature, job.directory)


CONVERTER: Final = FromBoosting()


def _types(signature: Signature) -> list[tuple[str, Any]]:
    from onnxmltools.convert.common import data_types

    spec = signature.inputs[0]
    if len(signature.inputs) != 1 or len(spec.shape) != 2 or spec.datatype is not Datatype.FP32:
        raise ConversionProblem(
            FailureClass.UNSUPPORTED_OPERATOR,
            "boosted trees are converted over one FP32 input of shape [batch, features]",
            "declare a single matrix input in the manifest",
        )
    columns = spec.shape[1]
    return [(spec.name, data_types.FloatTensorType([None, columns if isinstance(columns, int) else None]))]


def _xgboost(job: ConversionJob, types: list[tuple[str, Any]]) -> Any:
    from onnxmltools.convert import convert_xgboost

    from modelyard.runtimes.xgboost import load_booster

    booster = load_booster(job.source)
    booster.feature_names = None  # the converter wants f0, f1, ...; positions are what ONNX keeps anyway
    return convert_xgboost(booster, initial_types=types, target_opset=OPSET)


def _lightgbm(job: ConversionJob, types: list[tuple[str, Any]]) -> Any:
    from onnxmltools.convert import convert_lightgbm

    from modelyard.runtimes.lightgbm import load_booster

    return convert_lightgbm(load_booster(job.source), initial_types=types, target_opset=OPSET, zipmap=False)
