"""Estimators and pipelines by scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.artifacts import SKLEARN, LocalArtifact, Precision
from modelyard.domain.errors import Rejected, Unsupported
from modelyard.domain.tensors import Datatype, Signature, Tensors, TensorSpec
from modelyard.runtimes.loading import entry_file, installed, loading, require, require_device, require_precision
from modelyard.runtimes.ports import Availability, RuntimeOptions
from modelyard.runtimes.predictor import CheckedPredictor, Run
from modelyard.runtimes.safe_types import SAFE_TYPES
from modelyard.runtimes.sklearn_inputs import feature_builder, has_pandas
from modelyard.runtimes.tabular import (
    BATCH,
    LABEL,
    PROBABILITIES,
    SCORES,
    VALUE,
    check_outputs,
    feature_specs,
    shaped,
)

NAME: Final = "sklearn"
_HINT: Final = "save the estimator with skops.io.dump(estimator, 'model.skops')"
_PICKLES: Final = (".joblib", ".pkl", ".pickle")
_TRUST_HINT: Final = (
    "if you trust the author, allow code with `--trust`, or `trust: true` in the manifest's source; "
    "or save it with skops"
)


class SklearnRuntime:
    """Runs `sklearn` artifacts: `.skops`, and `.joblib` or `.pkl` only if the artifact is trusted.

    Types in a .skops file that neither skops nor `safe_types.py` knows to be safe need trust as well. Inputs and
    outputs follow the naming convention of `tabular.py`; BYTES reach the estimator as `str`. Columns become a
    pandas frame where the estimator was fitted with column names, else an array. Predictions are cast to the
    signature's datatype. Calls run in parallel as far as scikit-learn releases the GIL; BLAS and OpenMP threads are
    limited per call.
    """

    name = NAME
    formats = frozenset({SKLEARN})

    def availability(self) -> Availability:
        return installed("sklearn", ("scikit-learn",), "sklearn")

    def load(self, artifact: LocalArtifact, options: RuntimeOptions) -> CheckedPredictor:
        require_device(NAME, options.device, ["cpu"])
        require_precision(NAME, artifact, (Precision.FP32, Precision.FP64))
        estimator = load_estimator(artifact)
        set_jobs(estimator, options.threads)
        signature = artifact.signature
        check_outputs(signature, offered(estimator), type(estimator).__name__)
        return CheckedPredictor(
            NAME,
            signature,
            _runner(estimator, signature, options.threads),
            {
                "device": options.device,
                "threads": str(options.threads),
                "precision": str(artifact.precision),
                "concurrency": "parallel",
            },
        )


def load_estimator(artifact: LocalArtifact) -> Any:
    """The artifact's estimator. Raises Rejected if opening it could run code and it is not trusted."""
    require(NAME, SklearnRuntime().availability())
    path = entry_file(artifact)
    if path.suffix in _PICKLES:
        if not artifact.trusted:
            raise Rejected(
                f"'{artifact.entry}' is a pickle, which can run any code when opened, and is not trusted",
                hint=_TRUST_HINT,
            )
        with loading(NAME, artifact, _HINT):
            import joblib  # type: ignore[import-untyped]

            return joblib.load(path)
    require(NAME, installed("skops", ("skops",), "sklearn"))
    with loading(NAME, artifact, _HINT):
        import skops.io

        listed = skops.io.get_untrusted_types(file=path)
        unknown = sorted(set(listed) - SAFE_TYPES)
        if unknown and not artifact.trusted:
            raise Rejected(
                f"'{artifact.entry}' contains types that are not known to be safe: {', '.join(unknown[:5])}",
                hint="if you trust the author, allow code with `--trust`, or `trust: true` in the manifest's source",
            )
        return skops.io.load(path, trusted=listed)


def offered(estimator: Any) -> tuple[str, ...]:
    """The outputs an estimator has, by the naming convention."""
    from sklearn.base import is_classifier

    if is_classifier(estimator):
        optional = ((PROBABILITIES, "predict_proba"), (SCORES, "decision_function"))
        return (LABEL, *(name for name, method in optional if hasattr(estimator, method)))
    if hasattr(estimator, "predict") and not _is_clusterer(estimator):
        return (VALUE,)
    if hasattr(estimator, "predict"):
        return (LABEL, *((VALUE,) if hasattr(estimator, "transform") else ()))
    return (VALUE,) if hasattr(estimator, "transform") else ()


def read_signature(artifact: LocalArtifact) -> Signature | None:
    """The default signature: FP32 features; label and probabilities, or value. None where the estimator does not know
    how many features it takes (text pipelines, for instance)."""
    return default_signature(load_estimator(artifact))


def default_signature(estimator: Any) -> Signature | None:
    """As `read_signature`, of an estimator in memory."""
    columns = getattr(estimator, "n_features_in_", None)
    names = offered(estimator)
    if columns is None or getattr(estimator, "feature_names_in_", None) is not None or not names:
        return None
    inputs = feature_specs(int(columns))
    zeros = np.zeros((2, int(columns)), dtype=np.float32)
    return Signature(inputs, tuple(_observed(estimator, name, zeros) for name in names if name != SCORES))


def infer_outputs(estimator: Any, inputs: tuple[TensorSpec, ...], tensors: Tensors) -> tuple[TensorSpec, ...]:
    """The output specs, observed by running the estimator on `tensors`, which fit `inputs`."""
    features = feature_builder(estimator, inputs)(tensors)
    wide = any(spec.datatype is Datatype.FP64 for spec in inputs)
    return tuple(_observed(estimator, name, features, wide) for name in offered(estimator) if name != SCORES)


def forget_names_without_pandas(estimator: Any) -> None:
    """Let an estimator that was fitted on a pandas frame take arrays where pandas is not installed.

    Its column names only serve to check a frame's; without one, scikit-learn would warn at every call. Raises
    Unsupported where the names select columns.
    """
    if getattr(estimator, "feature_names_in_", None) is None or has_pandas():
        return
    parts = list(_parts(estimator, set()))
    if any(hasattr(part, "transformers_") for part in parts):
        raise Unsupported(
            "the estimator selects columns of a pandas frame, and pandas is not installed", hint="pip install pandas"
        )
    for part in parts:
        vars(part).pop("feature_names_in_", None)


def set_jobs(estimator: Any, threads: int) -> None:
    """Set `n_jobs` of the estimator and of every fitted one inside it."""
    for part in _parts(estimator, set()):
        if getattr(part, "n_jobs", ...) is not ...:
            part.n_jobs = threads


def _observed(estimator: Any, name: str, features: Any, wide: bool = False) -> TensorSpec:
    result = np.asarray(_METHODS[name](estimator, features))
    datatype = Datatype.of(result.dtype)
    if datatype is Datatype.FP64 and not wide and name != LABEL:
        datatype = Datatype.FP32  # what comes of FP32 inputs is no more exact than that, and converters give FP32
    tail = result.shape[1:] if result.ndim > 1 else (() if name == LABEL else (1,))
    return TensorSpec(name, datatype, (BATCH, *(int(n) for n in tail)))


def _is_clusterer(estimator: Any) -> bool:
    from sklearn.base import is_clusterer

    return bool(is_clusterer(estimator))


def _value(estimator: Any, features: Any) -> Any:
    if hasattr(estimator, "predict") and not _is_clusterer(estimator):
        return estimator.predict(features)
    transformed = estimator.transform(features)
    return transformed.toarray() if hasattr(transformed, "toarray") else transformed


_METHODS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    LABEL: lambda estimator, features: estimator.predict(features),
    PROBABILITIES: lambda estimator, features: estimator.predict_proba(features),
    SCORES: lambda estimator, features: estimator.decision_function(features),
    VALUE: _value,
}


def _runner(estimator: Any, signature: Signature, threads: int) -> Run:
    import joblib
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    features = feature_builder(estimator, signature.inputs)
    forget_names_without_pandas(estimator)
    methods = [(spec, _METHODS[spec.name]) for spec in signature.outputs]
    pools = ThreadpoolController()  # once: finding the libraries takes milliseconds, limiting them 12 us

    def run(tensors: Tensors) -> Sequence[NDArray[Any]]:
        data = features(tensors)
        # Threads, so that no estimator with n_jobs starts worker processes inside a server.
        with pools.limit(limits=threads), joblib.parallel_config("threading", n_jobs=threads):
            return [shaped(spec, np.asarray(method(estimator, data))) for spec, method in methods]

    return run


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """The estimator and all estimators within it, fitted ones included."""
    from sklearn.base import BaseEstimator

    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, BaseEstimator):
        yield value
        for inner in vars(value).values():
            yield from _parts(inner, seen)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            if isinstance(inner, (BaseEstimator, list, tuple)):
                yield from _parts(inner, seen)
    elif isinstance(value, dict):
        for inner in value.values():
            if isinstance(inner, BaseEstimator):
                yield from _parts(inner, seen)
