"""Models in memory become versions with safe files, without YAML, and convert like any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelyard
from modelyard.domain.artifacts import Outcome
from modelyard.domain.errors import InvalidInput, Rejected, Unsupported
from modelyard.workflow.progress import silent

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int64)


def torch_module() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()


def sklearn_estimator() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)


def xgboost_model() -> Any:
    import xgboost

    return xgboost.XGBClassifier(n_estimators=5, max_depth=2).fit(X, Y)


def lightgbm_model() -> Any:
    import lightgbm

    return lightgbm.LGBMClassifier(n_estimators=5, min_child_samples=2, verbose=-1).fit(X, Y)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[modelyard.Yard]:
    settings = modelyard.Settings.read({}, home=tmp_path_factory.mktemp("home"))
    with modelyard.open(settings) as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "make", "stored"),
    [
        ("net", torch_module, "pytorch-exported"),
        ("linear", sklearn_estimator, "sklearn"),
        ("boosted", xgboost_model, "xgboost"),
        ("leaves", lightgbm_model, "lightgbm"),
    ],
)
def test_every_framework_registers_from_memory_and_converts_to_onnx(
    yard: modelyard.Yard, name: str, make: Callable[[], Any], stored: str
) -> None:
    registered = yard.register_model(
        make(), name, inputs=X[:8], dataset=modelyard.Dataset(X, Y), task="classification", tags=["memory"]
    )
    assert registered.created
    version = registered.version
    assert version.definition.source.format == stored
    assert version.definition.signature.batched
    assert not any(f.path.endswith((".pkl", ".joblib")) for f in yard.hub.artifacts.get(version.source_artifact).files)
    outcomes = [c.outcome for c in yard.convert(version.ref, ["onnx"], listener=silent)]
    assert outcomes[-1] is Outcome.PROVEN


def test_the_same_model_again_is_the_same_version(yard: modelyard.Yard) -> None:
    first = yard.register_model(xgboost_model(), "twice", inputs=X[:8])
    again = yard.register_model(xgboost_model(), "twice", inputs=X[:8])
    assert (first.created, again.created) == (True, False)
    assert again.version == first.version


def test_a_claim_that_the_dataset_does_not_bear_out_is_rejected(yard: modelyard.Yard) -> None:
    with pytest.raises(Rejected, match="accuracy"):
        yard.register_model(
            sklearn_estimator(),
            "boast",
            dataset=modelyard.Dataset(X, 1 - Y),
            task="classification",
            metrics={"accuracy": 0.9},
        )
    assert "boast" not in {m.name for m in yard.hub.versions.models()}


def test_what_is_no_model_is_refused(yard: modelyard.Yard) -> None:
    with pytest.raises((Unsupported, InvalidInput)):
        yard.register_model(object(), "thing")


def test_a_module_without_inputs_says_that_it_needs_them(yard: modelyard.Yard) -> None:
    with pytest.raises(InvalidInput, match="input"):
        yard.register_model(torch_module(), "net2")


def test_only_the_runtime_of_the_proof_may_serve(yard: modelyard.Yard, tmp_path: Path) -> None:
    version = yard.register_model(xgboost_model(), "strict", inputs=X[:8]).version
    yard.convert(version.ref, ["onnx"])
    request = modelyard.DeployRequest(target=modelyard.Target("onnx"), runtime="openvino")
    with pytest.raises(Rejected, match="proven on onnxruntime"):
        yard.deploy(version.ref, request)
    assert yard.services() == []
