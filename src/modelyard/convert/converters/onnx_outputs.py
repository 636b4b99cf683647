"""Makes the outputs of a converted classical model what its source's signature says: names, datatypes, shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelyard.convert.ports import ConversionProblem, Product
from modelyard.domain.artifacts import FailureClass
from modelyard.domain.tensors import Datatype, Signature, TensorSpec

_OPSET = 15
_ROLES = {
    "label": ("label", "output_label"),
    "probabilities": ("probabilities", "output_probability", "probability_tensor"),
    "value": ("variable", "value", "predictions", "transformed_column", "variable1"),
    "scores": ("scores", "decision", "probabilities"),
}


def finish(model: Any, signature: Signature, directory: Path) -> Product:
    """Select, rename, cast and reshape `model`'s outputs to the signature's, check and save it."""
    import onnx

    found = {value.name: value for value in model.graph.output}
    chosen = [(spec, _source_of(spec, found)) for spec in signature.outputs]
    del model.graph.output[:]
    for index, (spec, name) in enumerate(chosen):
        _append(onnx, model.graph, spec, found[name], f"modelyard_{index}")
    if not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("", _OPSET))  # a bare tree ensemble imports ai.onnx.ml only
    onnx.checker.check_model(model)
    onnx.save(model, directory / "model.onnx")
    return Product("model.onnx")


def _source_of(spec: TensorSpec, found: dict[str, Any]) -> str:
    for name in (spec.name, *_ROLES.get(spec.name, ())):
        if name in found:
            return name
    if len(found) == 1:
        return next(iter(found))
    raise ConversionProblem(
        FailureClass.CONVERTER_ERROR, f"the converter made no output for '{spec.name}', only {', '.join(found)}"
    )


def _append(onnx: Any, graph: Any, spec: TensorSpec, value: Any, prefix: str) -> None:
    """Cast -> Reshape -> Identity from the converter's output to one that fits the spec."""
    helper, current = onnx.helper, value.name
    element = element_type(onnx, spec.datatype)
    if not value.type.HasField("tensor_type"):
        raise ConversionProblem(FailureClass.CONVERTER_ERROR, f"output '{value.name}' is no tensor")
    if value.type.tensor_type.elem_type != element:
        graph.node.append(helper.make_node("Cast", [current], [f"{prefix}_cast"], to=element))
        current = f"{prefix}_cast"
    # -1 for the rows: converters disagree on (n), (n, 1); a symbolic first dimension is the only one here.
    shape = [-1 if isinstance(dim, str) else dim for dim in spec.shape]
    if shape.count(-1) == 1:
        constant = helper.make_tensor(f"{prefix}_shape", onnx.TensorProto.INT64, [len(shape)], shape)
        graph.initializer.append(constant)
        graph.node.append(helper.make_node("Reshape", [current, f"{prefix}_shape"], [f"{prefix}_shaped"]))
        current = f"{prefix}_shaped"
    if current == spec.name:
        graph.output.append(helper.make_tensor_value_info(spec.name, element, list(spec.shape)))
        return
    if any(spec.name in node.output for node in graph.node):
        _rename(graph, spec.name, f"{prefix}_inner")
        current = f"{prefix}_inner" if current == spec.name else current
    graph.node.append(helper.make_node("Identity", [current], [spec.name]))
    graph.output.append(helper.make_tensor_value_info(spec.name, element, list(spec.shape)))


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new


def element_type(onnx: Any, datatype: Datatype) -> int:
    """The ONNX element type of a datatype."""
    if datatype is Datatype.BYTES:
        return int(onnx.TensorProto.STRING)
    return int(onnx.helper.np_dtype_to_tensor_dtype(datatype.numpy))
