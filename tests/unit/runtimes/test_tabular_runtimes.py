"""scikit-learn, XGBoost, LightGBM: the naming convention, trust, classes, early stopping."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import lightgbm as lgb
import numpy as np
import pytest
import skops.io
import xgboost as xgb
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from modelyard.domain.artifacts import LocalArtifact, Precision
from modelyard.domain.errors import BackendFailed, InvalidInput, ModelyardError, Rejected, Unsupported
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.runtimes import RuntimeOptions, read_signature
from modelyard.runtimes.lightgbm import LightgbmRuntime
from modelyard.runtimes.sklearn import SklearnRuntime, set_jobs
from modelyard.runtimes.xgboost import XgboostRuntime
from tests.contract.runtime_cases import (
    artifact,
    classifier_signature,
    data,
    lightgbm,
    rows,
    signature,
    sklearn_forest,
    xgboost,
)

FEATURES = {"features": (Datatype.FP32, (5,))}


def stored(directory: Path, estimator: Any, sig: Signature, **more: Any) -> LocalArtifact:
    skops.io.dump(estimator, directory / "model.skops")
    return artifact(directory, "model.skops", "sklearn", sig, **more)


# --- scikit-learn ----------------------------------------------------------------------------------------------------


def test_string_labels_come_out_as_bytes(tmp_path: Path) -> None:
    features, target = data(2)
    model = LogisticRegression().fit(features, np.where(target == 1, "ja", "nein"))
    sig = signature(FEATURES, {"label": (Datatype.BYTES, ())})
    labels = (
        SklearnRuntime().load(stored(tmp_path, model, sig), RuntimeOptions()).predict({"features": features})["label"]
    )
    assert labels.tolist() == [text.encode() for text in model.predict(features)]


def test_labels_that_do_not_fit_the_datatype_are_an_error(tmp_path: Path) -> None:
    features, target = data(2)
    model = LogisticRegression().fit(features, np.where(target == 1, "ja", "nein"))
    sig = signature(FEATURES, {"label": (Datatype.INT64, ())})
    with pytest.raises(BackendFailed, match="output 'label' is BYTES"):
        SklearnRuntime().load(stored(tmp_path, model, sig), RuntimeOptions()).predict({"features": features})


def test_columns_of_mixed_types_reach_the_pipeline(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    city = np.array(["Bern", "Köln", "Lyon"], dtype=object)[rng.integers(0, 3, 60)]
    age = rng.normal(size=60).astype(np.float32)
    table = np.column_stack([age.astype(object), city])
    target = ((city == "Köln") ^ (age > 0)).astype(int)
    columns = ColumnTransformer([("number", StandardScaler(), [0]), ("text", OneHotEncoder(), [1])])
    model = make_pipeline(columns, LogisticRegression()).fit(table, target)
    sig = signature(
        {"age": (Datatype.FP32, ()), "city": (Datatype.BYTES, (1,))}, {"probabilities": (Datatype.FP64, (2,))}
    )
    predictor = SklearnRuntime().load(stored(tmp_path, model, sig), RuntimeOptions())
    given = {"age": age, "city": np.array([[c.encode()] for c in city], dtype=object)}
    np.testing.assert_allclose(predictor.predict(given)["probabilities"], model.predict_proba(table))


def test_text_pipelines_take_one_string_per_row(tmp_path: Path) -> None:
    texts = ["good fun", "bad film", "good film", "bad bad"] * 3
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [1, 0, 1, 0] * 3)
    sig = signature({"text": (Datatype.BYTES, ())}, {"label": (Datatype.INT64, ())})
    predictor = SklearnRuntime().load(stored(tmp_path, model, sig), RuntimeOptions())
    given = np.array([text.encode() for text in texts], dtype=object)
    assert predictor.predict({"text": given})["label"].tolist() == model.predict(texts).tolist()
    assert read_signature(stored(tmp_path, model, sig)) is None


def test_numeric_columns_keep_the_order_of_the_signature(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    model = LinearRegression().fit(features, features[:, 0] - features[:, 1])
    sig = signature(
        {"a": (Datatype.FP32, ()), "b": (Datatype.FP32, ())},
        {"value": (Datatype.FP64, ())},
    )
    value = SklearnRuntime().load(stored(tmp_path, model, sig), RuntimeOptions())
    output = value.predict({"b": features[:, 1], "a": features[:, 0]})["value"]
    np.testing.assert_allclose(output, features[:, 0] - features[:, 1], atol=1e-6)


def test_one_numeric_column_needs_no_second_dimension(tmp_path: Path) -> None:
    x = np.arange(8, dtype=np.float32)
    model = LinearRegression().fit(x[:, None], 3 * x)
    sig = signature({"x": (Datatype.FP32, ())}, {"value": (Datatype.FP64, ())})
    output = SklearnRuntime().load(stored(tmp_path, model, sig), RuntimeOptions()).predict({"x": x})["value"]
    np.testing.assert_allclose(output, 3 * x, atol=1e-5)


@pytest.fixture
def fitted_on_a_frame() -> Any:
    """As if fitted on a pandas frame with columns b, a (this test must run without pandas)."""
    features = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(features, features[:, 0] - 10 * features[:, 1])
    model[0].feature_names_in_ = np.array(["b", "a"], dtype=object)
    return model


def test_columns_go_where_the_estimator_was_fitted_with_them(
    tmp_path: Path, fitted_on_a_frame: Any, recwarn: pytest.WarningsRecorder
) -> None:
    sig = signature({"a": (Datatype.FP32, ()), "b": (Datatype.FP32, ())}, {"value": (Datatype.FP64, ())})
    predictor = SklearnRuntime().load(stored(tmp_path, fitted_on_a_frame, sig), RuntimeOptions())
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    np.testing.assert_allclose(predictor.predict({"a": ones, "b": zeros})["value"], [-10] * 3, rtol=1e-4)
    assert not [w for w in recwarn if "feature names" in str(w.message)]


@pytest.mark.skipif(importlib.util.find_spec("pandas") is not None, reason="shows what happens without pandas")
def test_columns_selected_by_name_need_pandas(tmp_path: Path) -> None:
    columns = ColumnTransformer([("n", StandardScaler(), [0, 1])]).fit(np.ones((4, 2)))
    columns.feature_names_in_ = np.array(["b", "a"], dtype=object)
    sig = signature({"a": (Datatype.FP32, ()), "b": (Datatype.FP32, ())}, {"value": (Datatype.FP64, (2,))})
    with pytest.raises(Unsupported, match="pandas is not installed") as caught:
        SklearnRuntime().load(stored(tmp_path, columns, sig), RuntimeOptions())
    assert caught.value.hint == "pip install pandas"


def test_scores_and_labels_of_an_svm_and_no_probabilities(tmp_path: Path) -> None:
    features, target = data(2)
    model = SVC().fit(features, target)
    sig = signature(FEATURES, {"scores": (Datatype.FP64, ()), "label": (Datatype.INT64, ())})
    outputs = SklearnRuntime().load(stored(tmp_path, model, sig), RuntimeOptions()).predict({"features": features})
    np.testing.assert_allclose(outputs["scores"], model.decision_function(features))
    with pytest.raises(InvalidInput, match="SVC has no output 'probabilities'") as caught:
        SklearnRuntime().load(stored(tmp_path, model, classifier_signature(2)), RuntimeOptions())
    assert "label, scores" in caught.value.hint


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(3, random_state=0),
        HistGradientBoostingClassifier(max_iter=3),
        KNeighborsClassifier(3),
        xgb.XGBClassifier(n_estimators=3),
        lgb.LGBMClassifier(n_estimators=3, verbose=-1),
    ],
    ids=lambda e: type(e).__name__,
)
def test_common_classifiers_load_without_trust(tmp_path: Path, estimator: Any) -> None:
    features, target = data(2)
    model = make_pipeline(StandardScaler(), estimator).fit(features, target)
    predictor = SklearnRuntime().load(stored(tmp_path, model, classifier_signature(2)), RuntimeOptions(threads=2))
    expected = model.predict_proba(features)
    np.testing.assert_allclose(predictor.predict({"features": features})["probabilities"], expected, rtol=1e-5)


class Own(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    def fit(self, features: Any, target: Any) -> Own:
        self.classes_ = np.unique(target)
        self.n_features_in_ = features.shape[1]
        return self

    def predict(self, features: Any) -> Any:
        return np.full(len(features), self.classes_[-1])


def test_types_of_ones_own_need_trust(tmp_path: Path) -> None:
    model = Own().fit(*data(2))
    made = stored(tmp_path, model, signature(FEATURES, {"label": (Datatype.INT64, ())}))
    with pytest.raises(Rejected, match="Own") as caught:
        SklearnRuntime().load(made, RuntimeOptions())
    assert "trust" in caught.value.hint
    outputs = SklearnRuntime().load(replace(made, trusted=True), RuntimeOptions()).predict(rows(made.signature, 3))
    assert outputs["label"].tolist() == [1, 1, 1]


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("entry", ["model.joblib", "model.pkl"])
def test_a_pickle_is_not_opened_without_trust(tmp_path: Path, entry: str) -> None:
    joblib.dump(Bomb(tmp_path / "ran"), tmp_path / entry)
    made = artifact(tmp_path, entry, "sklearn", classifier_signature(2))
    for call in (lambda: SklearnRuntime().load(made, RuntimeOptions()), lambda: read_signature(made)):
        with pytest.raises(Rejected, match="pickle") as caught:
            call()
        assert "trust" in caught.value.hint
    assert not (tmp_path / "ran").exists()


def test_a_pickle_in_disguise_is_not_opened(tmp_path: Path) -> None:
    joblib.dump(Bomb(tmp_path / "ran"), tmp_path / "model.skops")
    with pytest.raises(InvalidInput):
        SklearnRuntime().load(artifact(tmp_path, "model.skops", "sklearn", classifier_signature(2)), RuntimeOptions())
    assert not (tmp_path / "ran").exists()


def test_n_jobs_of_inner_estimators_is_set() -> None:
    inner = RandomForestClassifier(2, n_jobs=-1)
    union = FeatureUnion([("scale", StandardScaler())], n_jobs=-1)
    columns = ColumnTransformer([("union", union, [0, 1])], n_jobs=-1)
    model = make_pipeline(columns, inner).fit(data(2)[0], data(2)[1])
    set_jobs(model, 2)
    fitted = model[0].named_transformers_["union"]
    assert (model[0].n_jobs, fitted.n_jobs, model[1].n_jobs) == (2, 2, 2)


def test_a_clusterer_and_a_transformer(tmp_path: Path) -> None:
    features, _ = data(0)
    model = KMeans(3, n_init=1, random_state=0).fit(features)
    sig = read_signature(stored(tmp_path, model, Signature((), ())))
    assert sig is not None
    assert [str(spec) for spec in sig.outputs] == ["label: INT32[batch]", "value: FP32[batch, 3]"]
    outputs = SklearnRuntime().load(stored(tmp_path, model, sig), RuntimeOptions()).predict({"features": features})
    np.testing.assert_array_equal(outputs["label"], model.predict(features))
    np.testing.assert_allclose(outputs["value"], model.transform(features), rtol=1e-6)


# --- boosting --------------------------------------------------------------------------------------------------------


def test_named_columns_follow_the_feature_names_of_the_model(tmp_path: Path) -> None:
    features, target = data(0)
    names = [f"f{i}" for i in range(5)]
    booster = xgb.train({"nthread": 1}, xgb.DMatrix(features, target, feature_names=names), 5)
    booster.save_model(tmp_path / "model.ubj")
    shuffled = dict.fromkeys(("f3", "f0", "f4", "f1", "f2"), (Datatype.FP32, ()))
    made = artifact(tmp_path, "model.ubj", "xgboost", signature(shuffled, {"value": (Datatype.FP32, ())}))
    given = {name: np.ascontiguousarray(features[:, int(name[1])]) for name in shuffled}
    output = XgboostRuntime().load(made, RuntimeOptions()).predict(given)["value"]
    np.testing.assert_allclose(output, booster.predict(xgb.DMatrix(features, feature_names=names)))


@pytest.mark.parametrize("objective", ["multi:softmax", "multi:softprob"])
def test_both_multiclass_objectives_give_probabilities(tmp_path: Path, objective: str) -> None:
    features, target = data(3)
    matrix = xgb.DMatrix(features, target)
    booster = xgb.train({"objective": "multi:softprob", "num_class": 3, "nthread": 1}, matrix, 4)
    expected = booster.predict(matrix)
    booster.set_param({"objective": objective})
    booster.save_model(tmp_path / "model.ubj")
    made = artifact(tmp_path, "model.ubj", "xgboost", classifier_signature(3))
    outputs = XgboostRuntime().load(made, RuntimeOptions()).predict({"features": features})
    np.testing.assert_allclose(outputs["probabilities"], expected, rtol=1e-5)
    np.testing.assert_array_equal(outputs["label"], expected.argmax(1))


def test_early_stopping_counts_the_trees_up_to_the_best(tmp_path: Path) -> None:
    features, target = data(2)
    noise = np.random.default_rng(9).integers(0, 2, 60)
    model = xgb.XGBClassifier(n_estimators=40, early_stopping_rounds=5, n_jobs=1)
    model.fit(features[:60], noise, eval_set=[(features[60:], target[60:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    model.save_model(tmp_path / "model.ubj")
    made = artifact(tmp_path, "model.ubj", "xgboost", classifier_signature(2))
    output = XgboostRuntime().load(made, RuntimeOptions()).predict({"features": features})["probabilities"]
    np.testing.assert_allclose(output, model.predict_proba(features), rtol=1e-6)


def test_missing_values_are_predicted(tmp_path: Path) -> None:
    for runtime, built in ((XgboostRuntime(), xgboost(tmp_path, 2)), (LightgbmRuntime(), lightgbm(tmp_path, 2))):
        inputs = rows(built.artifact.signature, 4)
        inputs["features"][::2, 0] = np.nan
        output = runtime.load(built.artifact, RuntimeOptions()).predict(inputs)
        np.testing.assert_allclose(output["probabilities"], built.reference(inputs)["probabilities"], rtol=1e-5)


@pytest.mark.parametrize("classes", [["no", "yes"], [3, 7]])
def test_lightgbm_class_names(tmp_path: Path, classes: list[Any]) -> None:
    made = lightgbm(tmp_path, 2)
    datatype = Datatype.BYTES if isinstance(classes[0], str) else Datatype.INT64
    label, probabilities = made.artifact.signature.outputs
    sig = replace(made.artifact.signature, outputs=(replace(label, datatype=datatype), probabilities))
    named = replace(made.artifact, signature=sig, options={"classes": json.dumps(classes)})
    inputs = rows(sig, 6)
    labels = LightgbmRuntime().load(named, RuntimeOptions()).predict(inputs)["label"].tolist()
    numbers = made.reference(inputs)["label"]
    assert labels == [classes[n].encode() if isinstance(classes[n], str) else classes[n] for n in numbers]


@pytest.mark.parametrize("text", ["[1]", "{}", "nonsense", "[]"])
def test_bad_class_names_are_refused(tmp_path: Path, text: str) -> None:
    made = lightgbm(tmp_path, 2).artifact
    with pytest.raises(InvalidInput, match="'classes'"):
        LightgbmRuntime().load(replace(made, options={"classes": text}), RuntimeOptions())


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
def test_a_lightgbm_file_cut_off_among_its_trees_is_refused(tmp_path: Path, cut: float) -> None:
    made = lightgbm(tmp_path, 2).artifact
    path = tmp_path / "model.txt"
    trees = path.read_text().partition("end of trees")[0]
    path.write_text(trees[: int(len(trees) * cut)])
    with pytest.raises(ModelyardError, match=r"model\.txt"):
        LightgbmRuntime().load(made, RuntimeOptions())


def test_a_wrong_number_of_features_is_named_at_load(tmp_path: Path) -> None:
    cases = (
        (XgboostRuntime(), xgboost(tmp_path, 0)),
        (LightgbmRuntime(), lightgbm(tmp_path, 0)),
        (SklearnRuntime(), sklearn_forest(tmp_path)),
    )
    for runtime, built in cases:
        four = signature({"features": (Datatype.FP32, (4,))}, {"value": (Datatype.FP32, (1,))})
        with pytest.raises(InvalidInput, match="4 features, the model takes 5"):
            runtime.load(replace(built.artifact, signature=four), RuntimeOptions())


def test_xgboost_opens_no_pickles(tmp_path: Path) -> None:
    joblib.dump(Bomb(tmp_path / "ran"), tmp_path / "model.ubj")
    joblib.dump(Bomb(tmp_path / "ran"), tmp_path / "model.pkl")
    for entry in ("model.ubj", "model.pkl"):
        with pytest.raises(InvalidInput):
            XgboostRuntime().load(artifact(tmp_path, entry, "xgboost", classifier_signature(2)), RuntimeOptions())
    assert not (tmp_path / "ran").exists()


def test_fp64_is_possible_where_the_library_computes_it(tmp_path: Path) -> None:
    built = lightgbm(tmp_path, 0)
    spec = TensorSpec("value", Datatype.FP64, ("batch",))
    made = replace(
        built.artifact, precision=Precision.FP64, signature=replace(built.artifact.signature, outputs=(spec,))
    )
    inputs = rows(made.signature, 5)
    output = LightgbmRuntime().load(made, RuntimeOptions()).predict(inputs)["value"]
    np.testing.assert_array_equal(output, built.reference(inputs)["value"].reshape(-1))
