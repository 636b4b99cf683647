"""Captures PyTorch modules as exported programs with a dynamic batch."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.artifacts import PYTORCH_EXPORTED
from modelyard.domain.errors import BackendFailed, InvalidInput, Unsupported
from modelyard.domain.tensors import Signature, Tensors
from modelyard.domain.versions import SourceSpec
from modelyard.runtimes.captured import (
    CapturedModel,
    example_arrays,
    is_batched,
    local_artifact,
    observed_spec,
    row_count,
)
from modelyard.runtimes.loading import summary
from modelyard.runtimes.ports import RuntimeOptions
from modelyard.runtimes.tabular import BATCH

_FACTORY_HINT: Final = (
    "register it by a factory instead: save the weights with safetensors, and in the manifest write "
    'source: {path: weights.safetensors, factory: "net:build"}; or save torch.jit.script(model)'
)


def capture_torch(model: Any, directory: Path, inputs: Any, output_names: Sequence[str] | None) -> CapturedModel:
    """See `capture`."""
    torch = sys.modules["torch"]
    from modelyard.runtimes.torch import NAME, TorchRuntime, parameter_names

    if isinstance(model, torch.jit.ScriptModule):
        raise Unsupported("a TorchScript module is captured as a file", hint="torch.jit.save it and register the file")
    parameters = parameter_names(model)
    examples = example_arrays(inputs, parameters[0] if parameters else "input")
    if not examples:
        raise InvalidInput(
            "capturing a PyTorch module needs example inputs", hint="pass inputs={'x': array of >= 2 rows}"
        )
    rows = row_count(examples)
    names = _call_order(parameters, list(examples))
    was_training = model.training
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model.eval()
    try:
        tensors = tuple(torch.from_numpy(np.array(examples[name])).to(device) for name in names)
        reference = _first_call(torch, model, tensors)
        program = _export(torch, model, tensors, rows)
        signature = _torch_signature(names, examples, reference, output_names, rows)
    finally:
        model.train(was_training)
    path = directory / "model.pt2"
    torch.export.save(program, path)
    artifact = local_artifact(directory, path.name, PYTORCH_EXPORTED, signature)
    predictor = TorchRuntime().load(artifact, RuntimeOptions())
    _check_same(predictor.predict(examples), _numpy_outputs(reference, signature), NAME)
    predictor.predict({name: tensor[:1] if is_batched(tensor, rows) else tensor for name, tensor in examples.items()})
    predictor.close()
    return CapturedModel("pytorch", SourceSpec(PYTORCH_EXPORTED, path.name), signature, {path.name: path})


def _call_order(parameters: list[str], given: list[str]) -> list[str]:
    """The inputs in forward's order if they are named after its parameters, else in the given order."""
    if not set(given) & set(parameters):
        return given
    names = [name for name in parameters if name in given]
    if names != parameters[: len(names)] or len(names) != len(given):
        raise InvalidInput(
            f"the inputs {', '.join(given)} do not fit forward({', '.join(parameters)})",
            hint="name them as forward does",
        )
    return names


def _first_call(torch: Any, model: Any, tensors: tuple[Any, ...]) -> Any:
    try:
        with torch.inference_mode():
            return model(*(tensor.clone() for tensor in tensors))
    except Exception as error:  # boundary to the user's code
        raise InvalidInput(
            "the module fails on the example inputs",
            why=f"{type(error).__name__}: {summary(error)}",
            hint="name them as forward does",
        ) from error


def _export(torch: Any, model: Any, tensors: tuple[Any, ...], rows: int) -> Any:
    batch = torch.export.Dim(BATCH, min=1)
    # keyed by position through a tuple: forward(*args) has no names to key by
    shapes = tuple({0: batch} if tensor.ndim and tensor.shape[0] == rows else {} for tensor in tensors)
    if any(p.kind.name == "VAR_POSITIONAL" for p in _forward_parameters(model)):
        shapes = (shapes,)  # type: ignore[assignment]
    try:
        # inference_mode's tensors cannot be saved for export; no_grad is what torch.export's guide uses
        with torch.no_grad():
            return torch.export.export(model, tensors, dynamic_shapes=shapes)
    except Exception as error:  # boundary to the exporter, which raises dozens of classes
        raise BackendFailed(
            "torch.export cannot capture this module with a dynamic batch", why=summary(error), hint=_FACTORY_HINT
        ) from error


def _forward_parameters(model: Any) -> list[Any]:
    return list(inspect.signature(model.forward).parameters.values())


def _torch_signature(
    names: list[str], examples: Tensors, reference: Any, output_names: Sequence[str] | None, rows: int
) -> Signature:
    from modelyard.runtimes.torch import flatten

    flat = [tensor.detach().cpu().numpy() for tensor in flatten(reference)]
    if output_names is None:
        if isinstance(reference, Mapping) and len(reference) == len(flat):
            output_names = [str(key) for key in reference]
        else:
            output_names = ["output"] if len(flat) == 1 else [f"output_{i}" for i in range(len(flat))]
    if len(output_names) != len(flat):
        raise InvalidInput(f"{len(output_names)} output names for {len(flat)} outputs")
    return Signature(
        tuple(observed_spec(name, examples[name], rows) for name in names),
        tuple(observed_spec(name, array, rows) for name, array in zip(output_names, flat, strict=True)),
    )


def _numpy_outputs(reference: Any, signature: Signature) -> dict[str, NDArray[Any]]:
    from modelyard.runtimes.torch import flatten

    arrays = [tensor.detach().cpu().numpy() for tensor in flatten(reference)]
    return {spec.name: array for spec, array in zip(signature.outputs, arrays, strict=True)}


def _check_same(got: Mapping[str, NDArray[Any]], want: Mapping[str, NDArray[Any]], runtime: str) -> None:
    for name, expected in want.items():
        result = got[name]
        if result.shape != expected.shape or not np.allclose(result, expected, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise BackendFailed(
                f"the stored model gives another '{name}' than the module in memory",
                why=f"seen when {runtime} ran the file on the example inputs",
                hint="does the module use random numbers or global state in forward?",
            )
