"""Captures scikit-learn estimators and boosted trees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.domain.artifacts import LIGHTGBM, SKLEARN, XGBOOST
from modelyard.domain.errors import BackendFailed, InvalidInput, Rejected
from modelyard.domain.tensors import Datatype, Signature, Tensors
from modelyard.domain.versions import SourceSpec
from modelyard.runtimes.captured import CapturedModel, example_arrays, local_artifact, observed_spec, row_count
from modelyard.runtimes.loading import summary
from modelyard.runtimes.ports import RuntimeOptions
from modelyard.runtimes.safe_types import SAFE_TYPES
from modelyard.runtimes.tabular import FEATURES, LABEL


def capture_sklearn(model: Any, directory: Path, inputs: Any, trusted: bool) -> CapturedModel:
    """See `capture`."""
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
    examples = example_arrays(inputs, FEATURES)
    signature: Signature | None
    if examples:
        specs = tuple(observed_spec(name, tensor, row_count(examples)) for name, tensor in examples.items())
        signature = Signature(specs, infer_outputs(model, specs, examples))
    else:
        signature = default_signature(model)
        if signature is None:
            raise InvalidInput(
                "this estimator's inputs are not a plain matrix of numbers", hint="pass inputs={'column': array, ...}"
            )
    artifact = local_artifact(directory, path.name, SKLEARN, signature, trusted=bool(unknown))
    _run_again(SklearnRuntime().load(artifact, RuntimeOptions()), examples, signature)
    source = SourceSpec(SKLEARN, path.name, trusted=bool(unknown))
    return CapturedModel(NAME, source, signature, {path.name: path})


def capture_xgboost(model: Any, directory: Path, inputs: Any) -> CapturedModel:
    """See `capture`."""
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
    examples = example_arrays(inputs, FEATURES)
    signature = _with_inputs(describe(booster).signature(), examples)
    artifact = local_artifact(directory, path.name, XGBOOST, signature)
    _run_again(XgboostRuntime().load(artifact, RuntimeOptions()), examples, signature)
    return CapturedModel(NAME, SourceSpec(XGBOOST, path.name), signature, {path.name: path})


def capture_lightgbm(model: Any, directory: Path, inputs: Any) -> CapturedModel:
    """See `capture`."""
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
    examples = example_arrays(inputs, FEATURES)
    signature = _with_inputs(describe(path).signature(), examples)
    if options:
        label = Datatype.of(np.asarray(json.loads(options["classes"])).dtype)
        outputs = tuple(replace(s, datatype=label) if s.name == LABEL else s for s in signature.outputs)
        signature = replace(signature, outputs=outputs)
    artifact = local_artifact(directory, path.name, LIGHTGBM, signature, options=options)
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
    rows = row_count(examples)
    return replace(signature, inputs=tuple(observed_spec(name, tensor, rows) for name, tensor in examples.items()))


def _run_again(predictor: Any, examples: Tensors, signature: Signature) -> None:
    """Load proved the file; running it proves the signature, with the given inputs or with zeros."""
    if not examples:
        examples = {
            spec.name: np.zeros([2 if isinstance(dim, str) else dim for dim in spec.shape], spec.datatype.numpy)
            for spec in signature.inputs
        }
    predictor.predict(examples)
    predictor.close()
