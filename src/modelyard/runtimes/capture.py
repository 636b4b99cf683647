"""Stores a model that lives in memory as safe files, ready to be registered."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.artifacts import (
    LIGHTGBM,
    PYTORCH_EXPORTED,
    SKLEARN,
    XGBOOST,
    LocalArtifact,
    Precision,
    Target,
)
from modelyard.domain.errors import BackendFailed, InvalidInput, Rejected, Unsupported
from modelyard.domain.tensors import Datatype, Dim, Signature, Tensors, TensorSpec
from modelyard.domain.versions import SourceSpec
from modelyard.runtimes.loading import summary
from modelyard.runtimes.ports import RuntimeOptions
from modelyard.runtimes.safe_types import SAFE_TYPES
from modelyard.runtimes.strings import to_bytes
from modelyard.runtimes.tabular import BATCH, FEATURES, LABEL

_FACTORY_HINT: Final = (
    "register it by a factory instead: save the weights with safetensors, and in the manifest write "
    'source: {path: weights.safetensors, factory: "net:build"}; or save torch.jit.script(model)'
)


@dataclass(frozen=True, slots=True)
class CapturedModel:
    """A model stored as files: what a manifest would say of it. `files` maps paths in the version to local ones."""

    framework: str
    source: SourceSpec
    signature: Signature
    files: Mapping[str, Path]


def capture(
    model: object,
    directory: Path,
    *,
    inputs: Tensors | NDArray[Any] | None = None,
    outputs: Sequence[str] | None = None,
    trusted: bool = False,
) -> CapturedModel:
    """Store a PyTorch, scikit-learn, XGBoost or LightGBM model in `directory`, and infer its signature.

    `inputs` are example inputs by name with at least two rows (an array alone is one input; a pandas frame is one input
    per column); PyTorch needs them, the others need them unless their features are a plain matrix of numbers. The
    signature is what the model does on them, with a symbolic first dimension. `outputs` names a PyTorch module's
    outputs (default: the keys of a returned dict, else `output`, or `output_0`, `output_1` ...). `trusted` allows
    scikit-learn pipelines with types of your own. The stored file is loaded again and must agree with the model.

    Raises InvalidInput, Unsupported, Rejected (own types without `trusted`), BackendFailed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kind = _kind(model)
    if kind == "pytorch":
        return _capture_torch(model, directory, inputs, outputs)
    if outputs is not None:
        raise InvalidInput("only PyTorch outputs can be named", hint="the others' are label, probabilities and value")
    if kind == "xgboost":
        return _capture_xgboost(model, directory, inputs)
    if kind == "lightgbm":
        return _capture_lightgbm(model, directory, inputs)
    return _capture_sklearn(model, directory, inputs, trusted)


def _kind(model: object) -> str:
    """The framework whose class the model is an instance of; nothing is imported that the model has not imported."""
    classes = {(base.__module__.partition(".")[0], base.__name__) for base in type(model).__mro__}
    for kind, known in (
        ("pytorch", {("torch", "Module")}),
        ("xgboost", {("xgboost", "XGBModel"), ("xgboost", "Booster")}),
        ("lightgbm", {("lightgbm", "LGBMModel"), ("lightgbm", "Booster")}),
        ("sklearn", {("sklearn", "BaseEstimator")}),
    ):
        if classes & known:
            return kind
    raise Unsupported(
        f"a {type(model).__module__}.{type(model).__qualname__} cannot be captured",
        hint="give a torch.nn.Module, a scikit-learn estimator, an XGBoost or a LightGBM model, or register a file",
    )


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def _capture_torch(model: Any, directory: Path, inputs: Any, output_names: Sequence[str] | None) -> CapturedModel:
    torch = sys.modules["torch"]
    from modelyard.runtimes.torch import NAME, TorchRuntime, parameter_names

    if isinstance(model, torch.jit.ScriptModule):
        raise Unsupported("a TorchScript module is captured as a file", hint="torch.jit.save it and register the file")
    parameters = parameter_names(model)
    examples = _examples(inputs, parameters[0] if parameters else "input")
    if not examples:
        raise InvalidInput(
            "capturing a PyTorch module needs example inputs", hint="pass inputs={'x': array of >= 2 rows}"
        )
    rows = _rows(examples)
    names = [name for name in parameters if name in examples] if set(examples) <= set(parameters) else list(examples)
    if len(names) != len(examples) or (parameters and names != list(examples) and names != parameters[: len(names)]):
        raise InvalidInput(f"the inputs {', '.join(examples)} do not fit forward({', '.join(parameters)})")
    was_training = model.training
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model.eval()
    try:
        tensors = tuple(torch.from_numpy(np.array(examples[name])).to(device) for name in names)
        with torch.inference_mode():
            reference = model(*(tensor.clone() for tensor in tensors))
        program = _export(torch, model, tensors, rows)
        signature = _torch_signature(names, examples, reference, output_names, rows)
    finally:
        model.train(was_training)
    path = directory / "model.pt2"
    torch.export.save(program, path)
    artifact = _artifact(directory, path.name, PYTORCH_EXPORTED, signature)
    predictor = TorchRuntime().load(artifact, RuntimeOptions())
    _check_same(predictor.predict(examples), _numpy_outputs(reference, signature), NAME)
    predictor.predict({name: tensor[:1] if _batched(tensor, rows) else tensor for name, tensor in examples.items()})
    predictor.close()
    return CapturedModel("pytorch", SourceSpec(PYTORCH_EXPORTED, path.name), signature, {path.name: path})


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
    import inspect

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
        tuple(_spec(name, examples[name], rows) for name in names),
        tuple(_spec(name, array, rows) for name, array in zip(output_names, flat, strict=True)),
    )


def _numpy_outputs(reference: Any, signature: Signature) -> dict[str, NDArray[Any]]:
    from modelyard.runtimes.torch import flatten

    arrays = [tensor.detach().cpu().numpy() for tensor in flatten(reference)]
    return {spec.name: array for spec, array in zip(signature.outputs, arrays, strict=True)}


# --- scikit-learn, XGBoost, LightGBM ---------------------------------------------------------------------------------


def _capture_sklearn(model: Any, directory: Path, inputs: Any, trusted: bool) -> CapturedModel:
    import skops.io

    from modelyard.runtimes.sklearn import NAME, SklearnRuntime, default_signature, infer_outputs

    _require_fitted(model)
    path = directory / "model.skops"
    try:
        skops.io.dump(model, path)
    except Exception as error:  # boundary to skops and the estimator's own __getstate__
        raise BackendFailed("skops cannot store this estimator", why=summary(error)) from error
    unknown = sorted(set(skops.io.get_untrusted_types(file=path)) - SAFE_TYPES)
    if unknown and not trusted:
        path.unlink()
        raise Rejected(
            f"the estimator contains types that are not known to be safe: {', '.join(unknown[:5])}",
            hint="pass trusted=True if loading them may run code wherever the model is served",
        )
    examples = _examples(inputs, FEATURES)
    signature: Signature | None
    if examples:
        specs = tuple(_spec(name, tensor, _rows(examples)) for name, tensor in examples.items())
        signature = Signature(specs, infer_outputs(model, specs, examples))
    else:
        signature = default_signature(model)
        if signature is None:
            raise InvalidInput(
                "this estimator's inputs are not a plain matrix of numbers", hint="pass inputs={'column': array, ...}"
            )
    artifact = _artifact(directory, path.name, SKLEARN, signature, trusted=bool(unknown))
    _run_again(SklearnRuntime().load(artifact, RuntimeOptions()), examples, signature)
    source = SourceSpec(SKLEARN, path.name, trusted=bool(unknown))
    return CapturedModel(NAME, source, signature, {path.name: path})


def _capture_xgboost(model: Any, directory: Path, inputs: Any) -> CapturedModel:
    from modelyard.runtimes.xgboost import NAME, XgboostRuntime, best_trees, describe

    if hasattr(model, "get_booster"):
        _require_fitted(model)
        booster = best_trees(model.get_booster())
    else:
        booster = model  # a bare booster predicts with all its trees
        if booster.attr("best_iteration") is not None:
            booster = booster.copy()
            booster.set_attr(best_iteration=None)
    path = directory / "model.ubj"
    booster.save_model(path)
    examples = _examples(inputs, FEATURES)
    signature = _with_inputs(describe(booster).signature(), examples)
    artifact = _artifact(directory, path.name, XGBOOST, signature)
    _run_again(XgboostRuntime().load(artifact, RuntimeOptions()), examples, signature)
    return CapturedModel(NAME, SourceSpec(XGBOOST, path.name), signature, {path.name: path})


def _capture_lightgbm(model: Any, directory: Path, inputs: Any) -> CapturedModel:
    from modelyard.runtimes.lightgbm import NAME, LightgbmRuntime, describe

    booster, options = model, {}
    if hasattr(model, "booster_"):
        booster = model.booster_
        classes = getattr(model, "classes_", None)
        if classes is not None and not np.array_equal(classes, np.arange(len(classes))):
            options["classes"] = json.dumps(classes.tolist())
    elif not hasattr(model, "model_to_string"):
        _require_fitted(model)
    path = directory / "model.txt"
    booster.save_model(path)
    examples = _examples(inputs, FEATURES)
    signature = _with_inputs(describe(path).signature(), examples)
    if options:
        label = Datatype.of(np.asarray(json.loads(options["classes"])).dtype)
        outputs = tuple(replace(s, datatype=label) if s.name == LABEL else s for s in signature.outputs)
        signature = replace(signature, outputs=outputs)
    artifact = _artifact(directory, path.name, LIGHTGBM, signature, options=options)
    _run_again(LightgbmRuntime().load(artifact, RuntimeOptions()), examples, signature)
    return CapturedModel(NAME, SourceSpec(LIGHTGBM, path.name, options), signature, {path.name: path})


def _require_fitted(model: Any) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(model)
    except NotFittedError as error:
        raise InvalidInput(f"this {type(model).__name__} is not fitted", hint="call fit first") from error
    except TypeError as error:
        raise InvalidInput(f"a {type(model).__name__} cannot predict", why=summary(error)) from error


def _with_inputs(signature: Signature, examples: Tensors) -> Signature:
    if not examples:
        return signature
    rows = _rows(examples)
    return replace(signature, inputs=tuple(_spec(name, tensor, rows) for name, tensor in examples.items()))


def _run_again(predictor: Any, examples: Tensors, signature: Signature) -> None:
    """Load proved the file; running it proves the signature, with the given inputs or with zeros."""
    if not examples:
        examples = {
            spec.name: np.zeros([2 if isinstance(dim, str) else dim for dim in spec.shape], spec.datatype.numpy)
            for spec in signature.inputs
        }
    predictor.predict(examples)
    predictor.close()


# --- inputs ----------------------------------------------------------------------------------------------------------


def _examples(inputs: Any, default: str) -> dict[str, NDArray[Any]]:
    """Example inputs by name as contiguous arrays, strings as BYTES."""
    if inputs is None:
        return {}
    if hasattr(inputs, "columns") and hasattr(inputs, "iloc"):  # a pandas frame, without importing pandas
        inputs = {str(name): inputs[name].to_numpy() for name in inputs.columns}
    if not isinstance(inputs, Mapping):
        inputs = {default: inputs}
    examples: dict[str, NDArray[Any]] = {}
    for name, value in inputs.items():
        array = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
        array = to_bytes(array) if array.dtype.kind in "OSU" else np.ascontiguousarray(array)
        Datatype.of(array.dtype)  # refuses what no protocol carries
        examples[str(name)] = array
    return examples


def _rows(examples: Tensors) -> int:
    first = next(iter(examples.values()))
    rows = int(first.shape[0]) if first.ndim else 0
    if rows < 2:
        raise InvalidInput(
            "the example inputs have fewer than two rows", hint="with one row, the batch dimension cannot be told apart"
        )
    return rows


def _batched(array: NDArray[Any], rows: int) -> bool:
    return array.ndim > 0 and array.shape[0] == rows


def _spec(name: str, array: NDArray[Any], rows: int) -> TensorSpec:
    shape: tuple[Dim, ...] = array.shape
    if _batched(array, rows):
        shape = (BATCH, *array.shape[1:])
    return TensorSpec(name, Datatype.of(array.dtype), shape)


def _artifact(
    directory: Path,
    entry: str,
    fmt: str,
    signature: Signature,
    *,
    options: Mapping[str, str] | None = None,
    trusted: bool = False,
) -> LocalArtifact:
    wide = any(spec.datatype is Datatype.FP64 for spec in signature.inputs) and fmt == SKLEARN
    precision = Precision.FP64 if wide else Precision.FP32
    return LocalArtifact(str(directory), entry, Target(fmt), precision, signature, options or {}, trusted)


def _check_same(got: Mapping[str, NDArray[Any]], want: Mapping[str, NDArray[Any]], runtime: str) -> None:
    for name, expected in want.items():
        result = got[name]
        if result.shape != expected.shape or not np.allclose(result, expected, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise BackendFailed(
                f"the stored model gives another '{name}' than the module in memory",
                why=f"seen when {runtime} ran the file on the example inputs",
                hint="does the module use random numbers or global state in forward?",
            )
