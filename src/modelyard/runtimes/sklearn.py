"""Estimators and pipelines by scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.artifacts import SKLEARN, LocalArtifact, Precision
from modelyard.domain.errors import InvalidInput, Rejected, Unsupported
from modelyard.domain.tensors import Datatype, Signature, Tensors, TensorSpec
from modelyard.runtimes.loading import entry_file, installed, loading, require, require_device, require_precision
from modelyard.runtimes.ports import Availability, RuntimeOptions
from modelyard.runtimes.predictor import CheckedPredictor, Run
from modelyard.runtimes.safe_types import SAFE_TYPES
from modelyard.runtimes.strings import to_text
from modelyard.runtimes.tabular import (
    BATCH,
    LABEL,
    PROBABILITIES,
    SCORES,
    VALUE,
    check_column_specs,
    check_outputs,
    column_order,
    feature_specs,
    shaped,
)

NAME: Final = "sklearn"
_HINT: Final = "save the estimator with skops.io.dump(estimator, 'model.skops')"
_PICKLES: Final = (".joblib", ".pkl", ".pickle")
_TRUST_HINT: Final = (
    "if you trust the author, allow code: `trust: true` in the manifest's source; or save it with skops"
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
                hint="if you trust the author, allow code: `trust: true` in the manifest's source",
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
    features = _features(estimator, inputs)(tensors)
    wide = any(spec.datatype is Datatype.FP64 for spec in inputs)
    return tuple(_observed(estimator, name, features, wide) for name in offered(estimator) if name != SCORES)


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

    features = _features(estimator, signature.inputs)
    methods = [(spec, _METHODS[spec.name]) for spec in signature.outputs]
    pools = ThreadpoolController()  # once: finding the libraries takes milliseconds, limiting them 12 us

    def run(tensors: Tensors) -> Sequence[NDArray[Any]]:
        data = features(tensors)
        # Threads, so that no estimator with n_jobs starts worker processes inside a server.
        with pools.limit(limits=threads), joblib.parallel_config("threading", n_jobs=threads):
            return [shaped(spec, np.asarray(method(estimator, data))) for spec, method in methods]

    return run


def _features(estimator: Any, specs: tuple[TensorSpec, ...]) -> Callable[[Tensors], Any]:
    """How to make what the estimator takes from the inputs."""
    fitted_names = getattr(estimator, "feature_names_in_", None)
    if len(specs) == 1 and fitted_names is None:
        only = specs[0]
        return lambda tensors: _decoded(only, tensors)
    if len(specs) == 1 and len(specs[0].shape) == 2 and specs[0].shape[1] != 1:
        matrix = specs[0]
        return lambda tensors: _frame(list(fitted_names), _decoded(matrix, tensors).T)  # type: ignore[arg-type]
    check_column_specs(specs)
    by_name = {spec.name: spec for spec in specs}
    ordered = column_order(list(by_name), fitted_names)
    if fitted_names is not None and set(ordered) != set(fitted_names):
        raise InvalidInput(
            f"the estimator was fitted with columns {', '.join(map(str, fitted_names))}",
            hint="name the inputs after them, or give one input [batch, features]",
        )

    def columns(tensors: Tensors) -> list[NDArray[Any]]:
        return [_decoded(by_name[name], tensors).reshape(-1) for name in ordered]

    if fitted_names is not None:
        return lambda tensors: _frame(ordered, columns(tensors))
    if any(spec.datatype is Datatype.BYTES for spec in specs):
        return lambda tensors: np.array([column.astype(object) for column in columns(tensors)], dtype=object).T
    return lambda tensors: np.column_stack(columns(tensors))


def _decoded(spec: TensorSpec, tensors: Tensors) -> NDArray[Any]:
    tensor = tensors[spec.name]
    return to_text(spec.name, tensor) if spec.datatype is Datatype.BYTES else tensor


def _frame(names: list[str], columns: Sequence[NDArray[Any]] | NDArray[Any]) -> Any:
    try:
        import pandas  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise Unsupported(
            "the estimator was fitted with a pandas frame, and pandas is not installed", hint="pip install pandas"
        ) from None
    return pandas.DataFrame(dict(zip(names, columns, strict=True)))


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
