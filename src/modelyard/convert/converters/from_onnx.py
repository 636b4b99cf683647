"""ONNX to its variants: optimized, fp16, int8 dynamic, int8 static."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from modelyard.convert.ports import ConversionJob, ConversionProblem, Edge, Product
from modelyard.domain.artifacts import ONNX, FailureClass, Target
from modelyard.domain.tensors import Tensors

_ONNX: Final = Target(ONNX)
_QUANTIZE: Final = ("onnx", "onnxruntime")
_EDGES: Final = (
    Edge("onnxslim", _ONNX, Target(ONNX, "optimized"), ("onnx", "onnxslim"), "onnx"),
    Edge("onnxruntime-basic", _ONNX, Target(ONNX, "optimized"), ("onnxruntime",), "onnx"),
    Edge("onnx-fp16", _ONNX, Target(ONNX, "fp16"), ("onnx", "onnxconverter-common"), "onnx"),
    Edge(
        "onnx-int8-dynamic", _ONNX, Target(ONNX, "int8-dynamic"), _QUANTIZE, "onnx", options={"weights": "per-channel"}
    ),
    Edge(
        "onnx-int8-qdq",
        _ONNX,
        Target(ONNX, "int8-static"),
        _QUANTIZE,
        "onnx",
        calibrates=True,
        options={"format": "qdq", "calibration": "minmax", "weights": "per-channel"},
    ),
)
_QUANTIZED_NODES: Final = frozenset({"MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "DynamicQuantizeMatMul"})


class FromOnnx:
    """Variants of an ONNX model; names and datatypes of inputs and outputs stay."""

    name = "onnx"
    edges: Sequence[Edge] = _EDGES

    def convert(self, job: ConversionJob) -> Product:
        source, made = Path(job.source.directory) / job.source.entry, job.directory / "model.onnx"
        check_external_data(source)
        {
            "onnxslim": _slim,
            "onnxruntime-basic": _optimize,
            "onnx-fp16": _half,
            "onnx-int8-dynamic": _quantize_dynamic,
            "onnx-int8-qdq": _quantize_static,
        }[job.route](source, made, job)
        return Product("model.onnx")


CONVERTER: Final = FromOnnx()


def check_external_data(path: Path) -> None:
    """Refuse a model whose external weights lie outside its folder or behind a link (CVE-2022-25882 and later).

    Raises ConversionProblem.
    """
    import onnx
    from onnx.external_data_helper import uses_external_data

    model = onnx.load(path, load_external_data=False)
    folder = path.parent.resolve()
    for tensor in model.graph.initializer:
        if not uses_external_data(tensor):
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        file = path.parent / location
        if not location or Path(location).is_absolute() or folder not in file.resolve().parents or not file.is_file():
            raise ConversionProblem(
                FailureClass.UNTRUSTED,
                f"external data of '{tensor.name}' lies outside the model: '{location}'",
                "keep the weights beside the .onnx file",
            )


def _slim(source: Path, made: Path, job: ConversionJob) -> None:  # noqa: ARG001 - one shape for all routes
    import onnx
    import onnxslim

    slimmed = onnxslim.slim(onnx.load(source))
    onnx.save(slimmed, made)


def _optimize(source: Path, made: Path, job: ConversionJob) -> None:
    """onnxruntime's own rewriting at its basic level: standard operators only, so that any runtime reads the result."""
    from modelyard.runtimes.onnxruntime import import_onnxruntime

    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(made)
    options.intra_op_num_threads = job.threads
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def _half(source: Path, made: Path, job: ConversionJob) -> None:  # noqa: ARG001 - one shape for all routes
    import onnx
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(source), keep_io_types=True), made)


def _quantize_dynamic(source: Path, made: Path, job: ConversionJob) -> None:  # noqa: ARG001 - one shape for all routes
    """Weights to int8 ahead, activations at run time. Convolutions stay: onnxruntime has no fast kernel for theirs."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        _prepared(source, made.parent),
        made,
        op_types_to_quantize=["MatMul", "Gemm", "Attention", "LSTM", "Gather", "EmbedLayerNormalization"],
        per_channel=True,
        weight_type=QuantType.QInt8,
    )
    _clean(made)
    kinds = {node.op_type for node in onnx.load(made, load_external_data=False).graph.node}
    if not kinds & _QUANTIZED_NODES:
        raise ConversionProblem(
            FailureClass.UNSUPPORTED_OPERATOR,
            "the model has nothing that dynamic quantisation covers (matrix products with constant weights)",
            "use onnx:int8-static, which covers convolutions",
        )


def _quantize_static(source: Path, made: Path, job: ConversionJob) -> None:
    """QDQ form, calibrated on real rows: symmetric int8 weights per channel, uint8 activations."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    quantize_static(
        _prepared(source, made.parent),
        made,
        _Reader(job.calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        calibration_providers=["CPUExecutionProvider"],
    )
    _clean(made)
    kinds = {node.op_type for node in onnx.load(made, load_external_data=False).graph.node}
    if "QuantizeLinear" not in kinds:
        raise ConversionProblem(FailureClass.UNSUPPORTED_OPERATOR, "the model has no operator that can be quantised")


class _Reader:
    """Calibration batches in the form onnxruntime's quantizer reads them."""

    def __init__(self, batches: Sequence[Tensors]) -> None:
        self._batches: Iterator[Tensors] = iter(batches)

    def get_next(self) -> Any:
        """The next batch, or None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else dict(batch)


def _prepared(source: Path, directory: Path) -> Path:
    """The model optimised and with shapes inferred, as the quantizer wants it: it folds batch norms and constants."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = directory / "prepared.onnx"
    # Symbolic inference needs sympy and fails on many a dynamic graph; ONNX's own is enough for per-channel weights.
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    model = onnx.load(prepared)
    weights = {tensor.name for tensor in model.graph.initializer}
    # The quantizer transposes Gemm weights in place and then trips over their recorded shapes.
    shapes = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(shapes)
    onnx.save(model, prepared)
    return prepared


def _clean(made: Path) -> None:
    for path in made.parent.glob("prepared.onnx*"):
        path.unlink()
