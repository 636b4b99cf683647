"""PyTorch (eager, exported program, TorchScript) to exported program, TorchScript, ONNX and OpenVINO.

No exporter does every model, so ONNX has several routes. `dynamo` reads the program and names what it cannot follow;
the legacy exporter traces one call, which may freeze a branch (the proof then rejects it); `scripted` compiles the
Python source and so keeps data-dependent branches and loops.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from modelyard.convert.ports import ConversionJob, ConversionProblem, Edge, Product
from modelyard.domain.artifacts import (
    ONNX,
    OPENVINO,
    PYTORCH_EAGER,
    PYTORCH_EXPORTED,
    TORCHSCRIPT,
    FailureClass,
    LocalArtifact,
    Target,
)
from modelyard.domain.tensors import Signature, TensorSpec

OPSET: Final = 18
"""The dynamo exporter's own opset; older ones are made from it by a lossy down-conversion."""
_INLINE_LIMIT_BYTES: Final = 1 << 30
"""Weights up to this size stay inside the `.onnx` file; protobuf ends at 2 GiB."""
_TORCH: Final = ("torch",)
_TORCH_ONNX: Final = ("torch", "onnx", "onnxscript")

_EAGER, _EXPORTED, _SCRIPT = Target(PYTORCH_EAGER), Target(PYTORCH_EXPORTED), Target(TORCHSCRIPT)
_EDGES: Final = (
    Edge("torch-export", _EAGER, _EXPORTED, _TORCH, "torch"),
    Edge("torch-trace", _EAGER, _SCRIPT, _TORCH, "torch"),
    Edge("torch-script", _EAGER, _SCRIPT, _TORCH, "torch"),
    Edge("exported-trace", _EXPORTED, _SCRIPT, _TORCH, "torch"),
    Edge("torch-onnx-dynamo", _EAGER, Target(ONNX), _TORCH_ONNX, "torch,onnx", options={"opset": str(OPSET)}),
    Edge("exported-onnx-dynamo", _EXPORTED, Target(ONNX), _TORCH_ONNX, "torch,onnx", options={"opset": str(OPSET)}),
    Edge("torch-onnx-legacy", _EAGER, Target(ONNX), _TORCH_ONNX, "torch,onnx", options={"opset": str(OPSET)}),
    Edge("exported-onnx-legacy", _EXPORTED, Target(ONNX), _TORCH_ONNX, "torch,onnx", options={"opset": str(OPSET)}),
    Edge("torch-onnx-scripted", _EAGER, Target(ONNX), _TORCH_ONNX, "torch,onnx", options={"opset": str(OPSET)}),
    Edge("torchscript-onnx-legacy", _SCRIPT, Target(ONNX), _TORCH_ONNX, "torch,onnx", options={"opset": str(OPSET)}),
    Edge("torch-openvino", _EAGER, Target(OPENVINO), ("torch", "openvino"), "torch,openvino"),
    Edge("exported-openvino", _EXPORTED, Target(OPENVINO), ("torch", "openvino"), "torch,openvino"),
    Edge("torchscript-openvino", _SCRIPT, Target(OPENVINO), ("torch", "openvino"), "torch,openvino"),
)


class FromPytorch:
    """Everything that needs torch."""

    name = "pytorch"
    edges: Sequence[Edge] = _EDGES

    def convert(self, job: ConversionJob) -> Product:
        import torch

        torch.set_num_threads(job.threads)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        if job.route == "torch-export":
            return _export(torch, job)
        if job.target.format == TORCHSCRIPT:
            return _torchscript(torch, job)
        if job.target.format == OPENVINO:
            return _openvino(torch, job)
        if job.route == "exported-onnx-dynamo":
            return _onnx_of_program(torch, job)
        if job.route == "torch-onnx-dynamo":
            return _onnx_of_module(torch, job)
        return _onnx_legacy(torch, job)


CONVERTER: Final = FromPytorch()


def _module(torch: Any, artifact: LocalArtifact, signature: Signature) -> Any:
    """The source as a module that takes the signature's inputs by position and gives its outputs in order."""
    from modelyard.runtimes.torch import FlatCall, load_callable

    call, parameters = load_callable(artifact)
    if isinstance(call, torch.jit.ScriptModule):
        return call
    names = [spec.name for spec in signature.inputs]
    outputs = [spec.name for spec in signature.outputs]
    flat = isinstance(call, FlatCall)  # an exported program refuses keywords that it was not exported with
    by_name = set(names) <= set(parameters)

    class Ordered(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = call.module if flat else call  # registered, so that its weights are this module's

        def forward(self, *tensors: Any) -> Any:
            given = dict(zip(names, tensors, strict=True))
            if not by_name:
                result = call(*tensors)
            elif flat:
                result = call(*(given[name] for name in parameters))
            else:
                result = call(**given)
            if isinstance(result, dict):
                result = [result[name] for name in outputs] if set(outputs) <= set(result) else list(result.values())
            if isinstance(result, torch.Tensor):
                return result
            return result[0] if len(result) == 1 else tuple(result)

        def train(self, mode: bool = True) -> Any:  # noqa: ARG002
            """Stay as loaded, in evaluation mode: exporters switch it, and an exported program's module refuses."""
            return self

    module = Ordered()
    module.training = False
    return module


def _example(torch: Any, job: ConversionJob) -> tuple[Any, ...]:
    return tuple(torch.from_numpy(job.example[spec.name].copy()) for spec in job.signature.inputs)


def _dynamic(torch: Any, specs: Sequence[TensorSpec]) -> tuple[dict[int, Any], ...]:
    """Per input, its symbolic axes; the same name is the same dimension everywhere."""
    dims: dict[str, Any] = {}
    return tuple(
        {
            axis: dims.setdefault(dim, torch.export.Dim(_identifier(dim)))
            for axis, dim in enumerate(spec.shape)
            if isinstance(dim, str)
        }
        for spec in specs
    )


def _identifier(name: str) -> str:
    cleaned = "".join(c if c.isalnum() else "_" for c in name)
    return cleaned if cleaned[:1].isalpha() else f"d_{cleaned}"


def _program(torch: Any, job: ConversionJob) -> Any:
    module = _module(torch, job.source, job.signature)
    shapes = _dynamic(torch, job.signature.inputs)
    with torch.no_grad():
        return torch.export.export(module, _example(torch, job), dynamic_shapes={"tensors": shapes}, strict=False)


def _export(torch: Any, job: ConversionJob) -> Product:
    torch.export.save(_program(torch, job), job.directory / "model.pt2")
    return Product("model.pt2")


def _torchscript(torch: Any, job: ConversionJob) -> Product:
    if job.route == "torch-script":
        from modelyard.runtimes.torch import load_module

        scripted = torch.jit.script(load_module(job.source))
    else:
        module = _module(torch, job.source, job.signature)
        with torch.no_grad():
            scripted = torch.jit.trace(module, _example(torch, job), check_trace=False, strict=False)
    torch.jit.save(scripted, str(job.directory / "model.pt"))
    return Product("model.pt")


def _names(job: ConversionJob) -> tuple[list[str], list[str]]:
    return [spec.name for spec in job.signature.inputs], [spec.name for spec in job.signature.outputs]


def _onnx_of_module(torch: Any, job: ConversionJob) -> Product:
    inputs, outputs = _names(job)
    with torch.no_grad():
        made = torch.onnx.export(
            _program(torch, job), dynamo=True, input_names=inputs, output_names=outputs, opset_version=OPSET
        )
    return _save(made, job)


def _onnx_of_program(torch: Any, job: ConversionJob) -> Product:
    from modelyard.runtimes.torch import load_exported

    program = load_exported(job.source)
    inputs, outputs = _names(job)
    user_inputs = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    if set(inputs) == set(user_inputs):
        inputs = user_inputs
    spec = program.call_spec.out_spec
    if spec.type is dict and set(map(str, spec.context)) == set(outputs):
        outputs = list(map(str, spec.context))
    if len(user_inputs) != len(inputs):
        raise ConversionProblem(
            FailureClass.INVALID_MODEL,
            f"the program takes {', '.join(user_inputs)}; the signature has {', '.join(inputs)}",
            "correct the inputs in the manifest",
        )
    with torch.no_grad():
        made = torch.onnx.export(program, dynamo=True, input_names=inputs, output_names=outputs, opset_version=OPSET)
    return _save(made, job)


def _save(program: Any, job: ConversionJob) -> Product:
    if program is None:
        raise ConversionProblem(FailureClass.CONVERTER_ERROR, "torch.onnx gave no program")
    size = sum(p.const_value.nbytes for p in program.model.graph.initializers.values() if p.const_value is not None)
    program.save(str(job.directory / "model.onnx"), external_data=size > _INLINE_LIMIT_BYTES)
    name_dimensions(job.directory / "model.onnx", job.signature)
    return Product("model.onnx")


def name_dimensions(path: Path, signature: Signature) -> None:
    """Give symbolic dimensions the signature's names; the exporter numbers them (`s87`)."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    specs = {spec.name: spec for spec in (*signature.inputs, *signature.outputs)}
    names: dict[str, str] = {}
    for value in (*model.graph.input, *model.graph.output):
        for dim, name in zip(value.type.tensor_type.shape.dim, specs[value.name].shape, strict=False):
            if dim.dim_param and isinstance(name, str):
                names.setdefault(dim.dim_param, name)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
    onnx.save(model, path)


def _onnx_legacy(torch: Any, job: ConversionJob) -> Product:
    inputs, outputs = _names(job)
    if job.route == "torch-onnx-scripted":
        from modelyard.runtimes.torch import load_module

        module = torch.jit.script(load_module(job.source))
    else:
        module = _module(torch, job.source, job.signature)
    axes = {
        spec.name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for spec in (*job.signature.inputs, *job.signature.outputs)
    }
    with torch.no_grad():
        torch.onnx.export(
            module,
            _example(torch, job),
            str(job.directory / "model.onnx"),
            dynamo=False,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            dynamic_axes={name: dims for name, dims in axes.items() if dims},
        )
    return Product("model.onnx")


def _openvino(torch: Any, job: ConversionJob) -> Product:
    from modelyard.convert.converters.from_openvino import save
    from modelyard.runtimes.openvino import import_openvino

    openvino = import_openvino()
    module = _module(torch, job.source, job.signature)
    shapes = [
        openvino.PartialShape([-1 if isinstance(dim, str) else dim for dim in spec.shape])
        for spec in job.signature.inputs
    ]
    with torch.no_grad():
        model = openvino.convert_model(module, example_input=_example(torch, job), input=shapes)
    for kind, specs, ports in (
        ("input", job.signature.inputs, model.inputs),
        ("output", job.signature.outputs, model.outputs),
    ):
        if len(specs) != len(ports):
            raise ConversionProblem(
                FailureClass.CONVERTER_ERROR, f"OpenVINO made {len(ports)} {kind}s of the {len(specs)} in the signature"
            )
        for spec, port in zip(specs, ports, strict=True):
            port.get_tensor().set_names({spec.name})
    return save(openvino, model, Path(job.directory))
