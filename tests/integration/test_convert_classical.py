"""scikit-learn, XGBoost and LightGBM to ONNX, strings included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modelyard.convert import ConversionService, Converters
from modelyard.domain.artifacts import Outcome, RejectionReason, Target
from modelyard.domain.tensors import Datatype, Signature
from modelyard.runtimes import RuntimeOptions, Runtimes
from tests.integration import convert_models as models
from tests.integration.convert_models import spec

FEATURES = 6
BINARY = Signature(
    (spec("features", Datatype.FP32, FEATURES),),
    (spec("label", Datatype.INT64), spec("probabilities", Datatype.FP32, 2)),
)
VALUE = Signature((spec("features", Datatype.FP32, FEATURES),), (spec("value", Datatype.FP32, 1),))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ConversionService]:
    with ConversionService(Runtimes.discover(), Converters.discover(), tmp_path / "work") as made:
        yield made


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, FEATURES)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(np.int64)


def test_xgboost_classifier(service: ConversionService, tmp_path: Path, data: tuple[np.ndarray, np.ndarray]) -> None:
    import xgboost

    x, y = data
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 4}, xgboost.DMatrix(x, y), 20)
    source = models.xgboost(tmp_path / "source", booster, BINARY)
    evidence = models.dataset(
        tmp_path / "d.npz", {"features": x}, y, task="classification", metrics=("accuracy", "auc")
    )
    result = service.convert(source, Target("onnx"), evidence)
    assert result.outcome is Outcome.PROVEN, result.deciding
    assert result.equivalence
    metrics = {m.metric: m for m in result.equivalence.metrics}
    assert metrics["auc"].artifact == pytest.approx(metrics["auc"].source, abs=1e-3)
    assert metrics["accuracy"].rows == 300


def test_xgboost_multiclass_with_feature_names(
    service: ConversionService, tmp_path: Path, data: tuple[np.ndarray, np.ndarray]
) -> None:
    import xgboost

    x, _ = data
    y = np.digitize(x[:, 0], [-0.5, 0.5])
    names = [f"column {i}" for i in range(FEATURES)]
    matrix = xgboost.DMatrix(x, y, feature_names=names)
    booster = xgboost.train({"objective": "multi:softprob", "num_class": 3, "max_depth": 3}, matrix, 10)
    signature = Signature(BINARY.inputs, (spec("probabilities", Datatype.FP32, 3), spec("label", Datatype.INT64)))
    source = models.xgboost(tmp_path / "source", booster, signature)
    result = service.convert(source, Target("onnx"), models.dataset(tmp_path / "d.npz", {"features": x}, y))
    assert result.outcome is Outcome.PROVEN, result.deciding


@pytest.mark.parametrize("objective", ["reg:squarederror", "reg:logistic"])
def test_xgboost_regressor(
    service: ConversionService, tmp_path: Path, data: tuple[np.ndarray, np.ndarray], objective: str
) -> None:
    """onnxmltools 1.16 drops the sigmoid of reg:logistic without a word: the proof refuses what it makes."""
    import xgboost

    x, y = data
    booster = xgboost.train({"objective": objective, "max_depth": 4}, xgboost.DMatrix(x, y * 1.0), 20)
    source = models.xgboost(tmp_path / "source", booster, VALUE)
    evidence = models.dataset(tmp_path / "d.npz", {"features": x}, task="regression")
    result = service.convert(source, Target("onnx"), evidence)
    if objective == "reg:squarederror":
        assert result.outcome is Outcome.PROVEN, result.deciding
        return
    assert result.outcome is Outcome.REJECTED
    assert result.equivalence
    assert result.equivalence.reason is RejectionReason.NUMERICAL_ERROR


@pytest.mark.parametrize("objective", ["binary", "regression"])
def test_lightgbm(
    service: ConversionService, tmp_path: Path, data: tuple[np.ndarray, np.ndarray], objective: str
) -> None:
    import lightgbm

    x, y = data
    parameters = {"objective": objective, "verbosity": -1, "num_threads": 1}
    booster = lightgbm.train(parameters, lightgbm.Dataset(x, y), 20)
    source = models.lightgbm(tmp_path / "source", booster, BINARY if objective == "binary" else VALUE)
    result = service.convert(source, Target("onnx"), models.dataset(tmp_path / "d.npz", {"features": x}, y))
    assert result.outcome is Outcome.PROVEN, result.deciding


def test_sklearn_forest_keeps_names_and_datatypes(
    service: ConversionService, tmp_path: Path, data: tuple[np.ndarray, np.ndarray]
) -> None:
    from sklearn.ensemble import RandomForestClassifier

    x, y = data
    forest = RandomForestClassifier(10, max_depth=5, random_state=0).fit(x, y)
    source = models.sklearn(tmp_path / "source", forest, BINARY)
    result = service.convert(source, Target("onnx"), models.dataset(tmp_path / "d.npz", {"features": x}, y))
    assert result.outcome is Outcome.PROVEN, result.deciding
    assert result.artifact
    predictor = Runtimes.discover().get("onnxruntime").load(result.artifact, RuntimeOptions())
    outputs = predictor.predict({"features": x[:5]})
    assert {name: (o.dtype, o.shape) for name, o in outputs.items()} == {
        "label": (np.dtype(np.int64), (5,)),
        "probabilities": (np.dtype(np.float32), (5, 2)),
    }


def test_sklearn_pipeline_with_string_columns_and_string_labels(service: ConversionService, tmp_path: Path) -> None:
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    rng = np.random.default_rng(1)
    color = rng.choice(np.array(["red", "grün", "blue"]), 200)
    size = rng.standard_normal(200)
    table = np.array([color.astype(object), size.astype(object)], dtype=object).T
    y = np.where((color == "red") ^ (size > 0), "yes", "no")
    pipeline = Pipeline(
        [
            (
                "columns",
                ColumnTransformer([("c", OneHotEncoder(handle_unknown="ignore"), [0]), ("s", StandardScaler(), [1])]),
            ),
            ("model", LogisticRegression()),
        ]
    ).fit(table, y)
    signature = Signature(
        (spec("color", Datatype.BYTES, 1), spec("size", Datatype.FP32, 1)),
        (spec("label", Datatype.BYTES), spec("probabilities", Datatype.FP32, 2)),
    )
    source = models.sklearn(tmp_path / "source", pipeline, signature)
    inputs = {"color": np.char.encode(color, "utf-8").reshape(-1, 1), "size": size.astype(np.float32).reshape(-1, 1)}
    evidence = models.dataset(tmp_path / "d.npz", inputs, y, task="classification")
    check = service.verify_source(source, evidence, {"accuracy": 0.5})
    assert not check.unmet
    result = service.convert(source, Target("onnx"), evidence)
    assert result.outcome is Outcome.PROVEN, result.deciding
    assert result.equivalence
    assert {o.output: o.decision_agreement for o in result.equivalence.outputs}["label"] == 1.0


def test_an_estimator_without_a_converter_is_an_unsupported_operator(
    service: ConversionService, tmp_path: Path, data: tuple[np.ndarray, np.ndarray]
) -> None:
    from sklearn.neighbors import NearestCentroid

    from modelyard.domain.artifacts import FailureClass

    x, y = data
    signature = Signature(BINARY.inputs, (spec("label", Datatype.INT64),))
    source = models.sklearn(tmp_path / "source", NearestCentroid().fit(x, y), signature)
    result = service.convert(source, Target("onnx"), models.dataset(tmp_path / "d.npz", {"features": x}, y))
    assert result.outcome is Outcome.FAILED
    assert result.deciding.failure is FailureClass.UNSUPPORTED_OPERATOR
    assert result.deciding.hint
