"""capture: a model in memory becomes safe files whose runtime answers as the object does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
import torch
import xgboost as xgb
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.errors import BackendFailed, InvalidInput, Rejected, Unsupported
from modelyard.runtimes import CapturedModel, RuntimeOptions, Runtimes, capture
from tests.contract.runtime_cases import data


def predict(captured: CapturedModel, directory: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """Load the captured files as the hub would give them back, and predict."""
    source = captured.source
    artifact = LocalArtifact(
        str(directory),
        source.entry,
        Target(source.format),
        Precision.FP32,
        captured.signature,
        source.options,
        source.trusted,
    )
    runtime = Runtimes.discover().for_format(source.format)[0]
    return runtime.load(artifact, RuntimeOptions()).predict(inputs)


def specs(captured: CapturedModel) -> tuple[list[str], list[str]]:
    return [str(s) for s in captured.signature.inputs], [str(s) for s in captured.signature.outputs]


# --- PyTorch ---------------------------------------------------------------------------------------------------------


class TwoHeads(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(4, 3)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, image: torch.Tensor, shift: torch.Tensor) -> dict[str, torch.Tensor]:
        body = self.drop(self.body(image)) + shift
        return {"logits": body, "best": body.argmax(1)}


IMAGE = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
SHIFT = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)


def test_a_module_with_two_inputs_and_a_dict_of_outputs(tmp_path: Path) -> None:
    module = TwoHeads().train()
    captured = capture(module, tmp_path, inputs={"shift": SHIFT, "image": IMAGE})
    assert captured.framework == "pytorch"
    assert specs(captured) == (
        ["image: FP32[batch, 4]", "shift: FP32[batch, 3]"],
        ["logits: FP32[batch, 3]", "best: INT64[batch]"],
    )
    assert module.training, "capture leaves the module as it found it"
    module.eval()
    for count in (1, 3, 5):
        expected = module(torch.from_numpy(IMAGE[:count]), torch.from_numpy(SHIFT[:count]))
        got = predict(captured, tmp_path, {"image": IMAGE[:count], "shift": SHIFT[:count]})
        np.testing.assert_allclose(got["logits"], expected["logits"].detach(), rtol=1e-5)
        np.testing.assert_array_equal(got["best"], expected["best"])


def test_one_array_and_named_outputs(tmp_path: Path) -> None:
    captured = capture(torch.nn.Linear(4, 3), tmp_path, inputs=torch.from_numpy(IMAGE), outputs=["logits"])
    assert specs(captured) == (["input: FP32[batch, 4]"], ["logits: FP32[batch, 3]"])
    assert set(captured.files) == {captured.source.entry}
    assert captured.files[captured.source.entry].is_file()


def test_torch_needs_inputs_of_two_rows(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="needs example inputs"):
        capture(torch.nn.Linear(4, 3), tmp_path)
    with pytest.raises(InvalidInput, match="fewer than two rows"):
        capture(torch.nn.Linear(4, 3), tmp_path, inputs=IMAGE[:1])


class DataDependent(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def test_a_module_that_cannot_be_exported_says_what_else_to_do(tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match=r"torch\.export cannot capture") as caught:
        capture(DataDependent(), tmp_path, inputs=IMAGE)
    assert "factory" in caught.value.hint
    assert caught.value.why


class FixedBatch(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(5, 4) * 2


def test_a_module_that_fixes_the_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match="dynamic batch"):
        capture(FixedBatch(), tmp_path, inputs=IMAGE)


class Random(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


def test_a_module_whose_file_answers_differently_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match="another 'output'") as caught:
        capture(Random(), tmp_path, inputs=IMAGE)
    assert "random" in caught.value.hint


def test_inputs_with_a_gap_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="do not fit forward"):
        capture(TwoHeads(), tmp_path, inputs={"shift": SHIFT})


def test_inputs_that_do_not_fit_forward_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"fails on the example inputs: TypeError: .*'shift'"):
        capture(TwoHeads(), tmp_path, inputs={"image": IMAGE})


# --- the others ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_pipeline(StandardScaler(), LogisticRegression()),
        lambda: xgb.XGBClassifier(n_estimators=3),
        lambda: lgb.LGBMClassifier(n_estimators=3, verbose=-1),
    ],
    ids=["sklearn", "xgboost", "lightgbm"],
)
@pytest.mark.parametrize("with_inputs", [True, False])
def test_classifiers(tmp_path: Path, make: Any, with_inputs: bool) -> None:
    features, target = data(3)
    model = make().fit(features, target)
    captured = capture(model, tmp_path, inputs=features[:4] if with_inputs else None)
    assert specs(captured) == (["features: FP32[batch, 5]"], ["label: INT64[batch]", "probabilities: FP32[batch, 3]"])
    assert not captured.source.trusted
    got = predict(captured, tmp_path, {"features": features})
    np.testing.assert_allclose(got["probabilities"], model.predict_proba(features), rtol=1e-5)
    np.testing.assert_array_equal(got["label"], model.predict(features))


@pytest.mark.parametrize(
    "model",
    [
        RandomForestRegressor(3, random_state=0),
        xgb.XGBRegressor(n_estimators=3),
        lgb.LGBMRegressor(n_estimators=3, verbose=-1),
    ],
    ids=["sklearn", "xgboost", "lightgbm"],
)
def test_regressors(tmp_path: Path, model: Any) -> None:
    features, target = data(0)
    captured = capture(model.fit(features, target), tmp_path)
    assert specs(captured) == (["features: FP32[batch, 5]"], ["value: FP32[batch, 1]"])
    value = predict(captured, tmp_path, {"features": features})["value"]
    np.testing.assert_allclose(value[:, 0], model.predict(features), rtol=1e-5)


def test_bare_boosters(tmp_path: Path) -> None:
    features, target = data(2)
    bare = xgb.train({"objective": "binary:logistic", "nthread": 1}, xgb.DMatrix(features, target), 4)
    captured = capture(bare, tmp_path / "xgb")
    got = predict(captured, tmp_path / "xgb", {"features": features})["probabilities"]
    np.testing.assert_allclose(got[:, 1], bare.predict(xgb.DMatrix(features)), rtol=1e-6)
    light = lgb.train({"objective": "regression", "verbose": -1, "num_threads": 1}, lgb.Dataset(features, target), 4)
    captured = capture(light, tmp_path / "lgb")
    got = predict(captured, tmp_path / "lgb", {"features": features})["value"]
    np.testing.assert_allclose(got[:, 0], light.predict(features), rtol=1e-5)


def test_a_bare_booster_keeps_all_its_trees(tmp_path: Path) -> None:
    """XGBoost's Booster.predict uses them all even after early stopping, unlike its scikit-learn classes."""
    features, target = data(0)
    matrix, other = xgb.DMatrix(features[:60], target[:60]), xgb.DMatrix(features[60:], -target[60:])
    booster = xgb.train({"nthread": 1}, matrix, 20, evals=[(other, "o")], early_stopping_rounds=3, verbose_eval=False)
    assert booster.best_iteration + 1 < booster.num_boosted_rounds()
    captured = capture(booster, tmp_path)
    got = predict(captured, tmp_path, {"features": features})["value"][:, 0]
    np.testing.assert_allclose(got, booster.predict(xgb.DMatrix(features)), rtol=1e-6)
    assert booster.attr("best_iteration") is not None, "the caller's booster is left alone"


def test_early_stopping_of_the_scikit_learn_class(tmp_path: Path) -> None:
    features, target = data(0)
    model = xgb.XGBRegressor(n_estimators=20, early_stopping_rounds=3, n_jobs=1)
    model.fit(features[:60], target[:60], eval_set=[(features[60:], -target[60:])], verbose=False)
    captured = capture(model, tmp_path)
    got = predict(captured, tmp_path, {"features": features})["value"][:, 0]
    np.testing.assert_allclose(got, model.predict(features), rtol=1e-6)
    kept = xgb.Booster(model_file=captured.files["model.ubj"]).num_boosted_rounds()
    assert kept == model.best_iteration + 1


def test_lightgbm_keeps_class_names(tmp_path: Path) -> None:
    features, target = data(2)
    names = np.where(target == 1, "spam", "ham")
    model = lgb.LGBMClassifier(n_estimators=3, verbose=-1).fit(features, names)
    captured = capture(model, tmp_path)
    assert specs(captured)[1][0] == "label: BYTES[batch]"
    got = predict(captured, tmp_path, {"features": features})["label"]
    assert [label.decode() for label in got] == model.predict(features).tolist()


def test_columns_with_strings(tmp_path: Path) -> None:
    city = np.array(["a", "b", "c"] * 20, dtype=object)
    size = np.arange(60, dtype=np.float32)
    table = np.column_stack([size.astype(object), city])
    columns = ColumnTransformer([("n", StandardScaler(), [0]), ("t", OneHotEncoder(), [1])])
    model = make_pipeline(columns, LogisticRegression()).fit(table, city == "b")
    captured = capture(model, tmp_path, inputs={"size": size, "city": city})
    assert specs(captured) == (
        ["size: FP32[batch]", "city: BYTES[batch]"],
        ["label: BOOL[batch]", "probabilities: FP32[batch, 2]"],
    )
    encoded = np.array([c.encode() for c in city], dtype=object)
    got = predict(captured, tmp_path, {"size": size, "city": encoded})["probabilities"]
    np.testing.assert_allclose(got, model.predict_proba(table), rtol=1e-5)


class Own(BaseEstimator):  # type: ignore[misc]
    def fit(self, features: Any) -> Own:
        self.n_features_in_ = features.shape[1]
        return self

    def transform(self, features: Any) -> Any:
        return features * 2


def test_types_of_ones_own_need_trust(tmp_path: Path) -> None:
    model = Own().fit(data(0)[0])
    with pytest.raises(Rejected, match="Own") as caught:
        capture(model, tmp_path / "no")
    assert "trusted=True" in caught.value.hint
    assert not list((tmp_path / "no").iterdir())
    captured = capture(model, tmp_path / "yes", trusted=True)
    assert captured.source.trusted
    features = data(0)[0]
    np.testing.assert_array_equal(predict(captured, tmp_path / "yes", {"features": features})["value"], features * 2)


@pytest.mark.parametrize(
    "model", [LogisticRegression(), xgb.XGBClassifier(), lgb.LGBMClassifier()], ids=lambda m: type(m).__name__
)
def test_a_model_that_is_not_fitted_is_refused(tmp_path: Path, model: Any) -> None:
    with pytest.raises(InvalidInput, match="is not fitted"):
        capture(model, tmp_path)


def test_other_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"builtins\.dict cannot be captured"):
        capture({}, tmp_path)
    with pytest.raises(InvalidInput, match="only PyTorch outputs"):
        capture(LogisticRegression().fit(*data(2)), tmp_path, outputs=["y"])
