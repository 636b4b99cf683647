"""PyTorch: exported programs, TorchScript, and eager modules built by a factory."""

from __future__ import annotations

import inspect
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.artifacts import PYTORCH_EAGER, PYTORCH_EXPORTED, TORCHSCRIPT, LocalArtifact, Precision
from modelyard.domain.errors import BackendFailed, InvalidInput, Rejected
from modelyard.domain.tensors import Datatype, Dim, Signature, Tensors, TensorSpec
from modelyard.runtimes.factory import build_from_factory
from modelyard.runtimes.loading import (
    entry_file,
    installed,
    loading,
    require,
    require_device,
    require_no_strings,
    require_precision,
)
from modelyard.runtimes.ports import Availability, RuntimeOptions
from modelyard.runtimes.predictor import CheckedPredictor, Run
from modelyard.runtimes.pt2 import check_exported_program, wants_code

NAME: Final = "torch"
_PRECISIONS: Final = (Precision.FP32, Precision.FP64, Precision.INT8)
_HINTS: Final = {
    PYTORCH_EXPORTED: "save it with torch.export.save(torch.export.export(module, inputs), 'model.pt2')",
    TORCHSCRIPT: "save it with torch.jit.save(torch.jit.trace(module, inputs), 'model.pt')",
    PYTORCH_EAGER: "the factory must build the module that the state dict was saved from",
}


class TorchRuntime:
    """Runs `pytorch-exported`, `torchscript` and `pytorch-eager` artifacts.

    Threads are a setting of the whole process in PyTorch: each call sets the predictor's own number first if another
    predictor changed it, so two predictors with different numbers should not run at the same time. Calls run in
    parallel and release the GIL inside operators. Inputs are copied, so a model that works in place harms nobody.

    Only safe loads: `weights_only=True` for state dicts; exported programs are scanned first (`pt2.py`), because
    `torch.export.load` falls back to unpickling. A factory is Python code, hence needs a trusted artifact.
    """

    name = NAME
    formats = frozenset({PYTORCH_EXPORTED, TORCHSCRIPT, PYTORCH_EAGER})

    def availability(self) -> Availability:
        return installed("torch", ("torch",), "torch")

    def load(self, artifact: LocalArtifact, options: RuntimeOptions) -> CheckedPredictor:
        require(NAME, self.availability())
        require_precision(NAME, artifact, _PRECISIONS)
        require_no_strings(NAME, artifact)
        import torch

        device = _device(torch, options.device)
        torch.set_float32_matmul_precision("highest")  # no TF32 or bf16 behind the artifact's back; process-wide
        torch.set_num_threads(options.threads)
        module, parameters = load_callable(artifact, device)
        return CheckedPredictor(
            NAME,
            artifact.signature,
            _runner(torch, module, parameters, artifact.signature, device, options.threads),
            {
                "device": options.device,
                "threads": str(torch.get_num_threads()),
                "precision": str(artifact.precision),
                "concurrency": "parallel",
            },
        )


def load_module(artifact: LocalArtifact, device: str = "cpu") -> Any:
    """The artifact as a callable module in evaluation mode: `torch.nn.Module`, `ScriptModule`, or the exported
    program's module. For converters; raises as `TorchRuntime.load` does."""
    path = entry_file(artifact)
    with loading(NAME, artifact, _HINTS[artifact.target.format]):
        if artifact.target.format == PYTORCH_EXPORTED:
            return _exported_module(load_exported(artifact), device)
        if artifact.target.format == TORCHSCRIPT:
            return _scripted_module(path, device)
        module = build_from_factory(artifact)
        load_state(module, path)
        return module.to(device).eval()


def load_exported(artifact: LocalArtifact) -> Any:
    """The `torch.export.ExportedProgram` of an artifact. Raises Rejected if loading would run code and it is not
    trusted, InvalidInput if the file is none."""
    path = entry_file(artifact)
    with loading(NAME, artifact, _HINTS[PYTORCH_EXPORTED]):
        import torch

        check_exported_program(path, trusted=artifact.trusted)
        return torch.export.load(path)


def load_state(module: Any, path: Path) -> None:
    """Fill a module from a state dict: `.safetensors`, or a torch file opened with `weights_only=True`.

    Raises Rejected if the file needs more than that, InvalidInput if it is damaged.
    """
    if path.suffix == ".safetensors":
        import safetensors.torch

        safetensors.torch.load_model(module, path, strict=True)
        return
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its text advises to open the file unsafely: not passed on
        if wanted := wants_code(error):
            raise Rejected(
                f"'{path.name}' could run code when it is loaded",
                why=f"it holds more than tensors: {wanted}",
                hint="store the weights with safetensors.torch.save_file(module.state_dict(), 'weights.safetensors')",
            ) from None
        raise InvalidInput(
            f"'{path.name}' is no state dict", why="it is damaged or of another kind", hint=_HINTS[PYTORCH_EAGER]
        ) from None
    module.load_state_dict(state, strict=True)


def read_signature(artifact: LocalArtifact) -> Signature | None:
    """The signature of an exported program; None for the other formats, whose files do not carry it."""
    require(NAME, TorchRuntime().availability())
    if artifact.target.format != PYTORCH_EXPORTED:
        return None
    program = load_exported(artifact)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    user_inputs = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    if not user_inputs or any(not hasattr(values[name], "shape") for name in user_inputs):
        return None
    symbols: dict[str, str] = {}
    inputs = tuple(_spec(name, values[name], symbols) for name in user_inputs)
    results = next(node for node in program.graph.nodes if node.op == "output").args[0]
    user_outputs = [results[i].meta["val"] for i in _user_output_indices(program)]
    names = _output_names(program.call_spec.out_spec, len(user_outputs))
    return Signature(
        inputs, tuple(_spec(name, value, symbols) for name, value in zip(names, user_outputs, strict=True))
    )


def parameter_names(module: Any) -> list[str]:
    """The names of the tensors that `module` takes, in order; empty where they cannot be known."""
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        return [argument.name for argument in module.forward.schema.arguments[1:]]
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return []
    return [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]


def load_callable(artifact: LocalArtifact, device: str = "cpu") -> tuple[Any, list[str]]:
    """What takes the model's tensors by position, and their names (empty where they cannot be known): the module
    itself, or a `FlatCall` of an exported program, whose own arguments may be nested or keywords."""
    if artifact.target.format != PYTORCH_EXPORTED:
        module = load_module(artifact, device)
        return module, parameter_names(module)
    program = load_exported(artifact)
    user_inputs = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    spec = program.call_spec.in_spec
    with loading(NAME, artifact, _HINTS[PYTORCH_EXPORTED]):
        module = _exported_module(program, device)
    if spec.num_leaves != len(user_inputs):
        raise InvalidInput(
            f"the exported program takes {spec.num_leaves} values, of which {len(user_inputs)} are tensors",
            hint="export a module whose forward takes tensors only",
        )
    return FlatCall(module, spec), user_inputs


class FlatCall:
    """Calls an exported module, whose arguments may be nested or keywords, with its tensors in flat order."""

    def __init__(self, module: Any, spec: Any) -> None:
        self.module = module
        self._spec = spec

    def __call__(self, *tensors: Any) -> Any:
        from torch.utils import _pytree

        args, kwargs = _pytree.tree_unflatten(list(tensors), self._spec)
        return self.module(*args, **kwargs)


def _scripted_module(path: Path, device: str) -> Any:
    import torch

    with warnings.catch_warnings():  # the user need not be told that torch would like another format
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(path, map_location=device).eval()


def _exported_module(program: Any, device: str) -> Any:
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program.module()


def _device(torch: Any, device: str) -> str:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    available = {"cpu": "cpu"} | {f"gpu:{i}": f"cuda:{i}" for i in range(count)}
    require_device(NAME, device, list(available))
    return available[device]


def _runner(
    torch: Any, module: Callable[..., Any], parameters: list[str], signature: Signature, device: str, threads: int
) -> Run:
    names = _call_order(parameters, [spec.name for spec in signature.inputs])
    outputs = [spec.name for spec in signature.outputs]

    def run(inputs: Tensors) -> Sequence[NDArray[Any]]:
        # OpenMP keeps the number per thread, so setting it at load would not reach the server's worker thread.
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            # copies: arrays made by frombuffer are read-only, and a module may write into its input
            tensors = [torch.from_numpy(np.array(inputs[name], order="C")).to(device) for name in names]
            results = _by_output(module(*tensors), outputs)
            return [np.array(result.detach().cpu().resolve_conj().numpy(), order="C") for result in results]

    return run


def _call_order(parameters: list[str], names: list[str]) -> list[str]:
    """Input names in the order of the call: the parameters' own order where all names occur there, else as declared."""
    if set(names) <= set(parameters):
        ordered = [name for name in parameters if name in names]
        # a gap (an optional parameter left out in the middle) cannot be called by position
        if ordered == parameters[: len(ordered)]:
            return ordered
    if parameters and len(names) > len(parameters):
        raise InvalidInput(
            f"the signature has {len(names)} inputs, the model takes {len(parameters)}",
            hint=f"it takes {', '.join(parameters)}",
        )
    return names


def _by_output(result: Any, names: list[str]) -> list[Any]:
    """The tensors of a module's result in the signature's order: by key where it is a dict with those keys."""
    tensors: list[Any]
    if isinstance(result, Mapping) and set(names) <= set(result):
        tensors = [result[name] for name in names]
    else:
        tensors = flatten(result)
    if len(tensors) != len(names):
        raise BackendFailed(
            f"the model gave {len(tensors)} outputs, its signature has {len(names)}",
            hint="correct the outputs in the manifest",
        )
    return tensors


def flatten(result: Any) -> list[Any]:
    """The tensors of a module's result, whatever tuples and dicts they come in, in order."""
    if hasattr(result, "detach"):
        return [result]
    if isinstance(result, Mapping):
        return [tensor for value in result.values() for tensor in flatten(value)]
    if isinstance(result, (tuple, list)):
        return [tensor for value in result for tensor in flatten(value)]
    if result is None:
        return []
    raise BackendFailed(
        f"the model returned a {type(result).__name__}", hint="return tensors, or tuples or dicts of them"
    )


def _user_output_indices(program: Any) -> list[int]:
    kinds = [spec.kind.name for spec in program.graph_signature.output_specs]
    return [i for i, kind in enumerate(kinds) if kind == "USER_OUTPUT"]


def _output_names(spec: Any, count: int) -> list[str]:
    if spec.type is dict and spec.num_leaves == len(spec.context) == count:
        return [str(key) for key in spec.context]
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def _spec(name: str, value: Any, symbols: dict[str, str]) -> TensorSpec:
    dims: list[Dim] = []
    for i, dim in enumerate(value.shape):
        if isinstance(dim, int):
            dims.append(dim)
        else:
            first = i == 0 and "batch" not in symbols.values()
            dims.append(symbols.setdefault(str(dim), "batch" if first else f"{name}_{i}"))
    dtype = str(value.dtype).removeprefix("torch.")
    return TensorSpec(name, Datatype.of(np.dtype(dtype)), tuple(dims))
