"""Gradient-boosted trees by XGBoost."""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.artifacts import XGBOOST, LocalArtifact, Precision
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Signature
from modelyard.runtimes.boosting import Ensemble, booster_run
from modelyard.runtimes.loading import entry_file, installed, loading, require, require_device, require_precision
from modelyard.runtimes.ports import Availability, Containment, RuntimeOptions
from modelyard.runtimes.predictor import CheckedPredictor
from modelyard.runtimes.tabular import matrix

NAME: Final = "xgboost"
_HINT: Final = "save the model with booster.save_model('model.ubj') or model.save_model('model.json')"


class XgboostRuntime:
    """Runs `xgboost` artifacts, `.ubj` or `.json`; never pickles.

    Prediction is thread-safe, parallel, and releases the GIL. NaN means a missing value. Of a model trained with early
    stopping the trees up to the best iteration are used, as XGBoost's scikit-learn classes do.
    """

    name = NAME
    formats = frozenset({XGBOOST})

    def availability(self) -> Availability:
        return installed("xgboost", ("xgboost-cpu", "xgboost"), "sklearn")

    def containment(self, artifact: LocalArtifact) -> Containment:  # noqa: ARG002 - the Protocol's
        """Trees are walked from root to leaf, in native code."""
        return Containment.BOUNDED

    def load(self, artifact: LocalArtifact, options: RuntimeOptions) -> CheckedPredictor:
        require_device(NAME, options.device, ["cpu"])
        require_precision(NAME, artifact, (Precision.FP32,))
        booster = load_booster(artifact)
        booster.set_param({"nthread": options.threads, "device": "cpu"})
        ensemble = describe(booster)
        features = matrix(artifact.signature, ensemble.features, ensemble.names)
        generic = json.loads(booster.save_config())["learner"]["generic_param"]
        return CheckedPredictor(
            NAME,
            artifact.signature,
            booster_run(artifact, ensemble, features, _scorer(booster)),
            {
                "device": generic["device"],
                "threads": generic["nthread"],
                "precision": str(artifact.precision),
                "concurrency": "parallel",
            },
        )


def load_booster(artifact: LocalArtifact) -> Any:
    """The artifact's `xgboost.Booster`, cut to its best iteration. Raises InvalidInput if the file is none."""
    require(NAME, XgboostRuntime().availability())
    path = entry_file(artifact)
    if path.suffix not in (".ubj", ".json"):
        raise InvalidInput(f"'{artifact.entry}' is neither .ubj nor .json", hint=_HINT)
    with loading(NAME, artifact, _HINT):
        import xgboost

        booster = xgboost.Booster()
        booster.load_model(path)
        return best_trees(booster)


def best_trees(booster: Any) -> Any:
    """The booster up to its best iteration, if training stopped early; else the booster itself."""
    best = booster.attr("best_iteration")
    if best is None or int(best) + 1 >= booster.num_boosted_rounds():
        return booster
    return booster[: int(best) + 1]


def describe(booster: Any) -> Ensemble:
    """Features, names and kind of a booster."""
    learner = json.loads(booster.save_config())["learner"]
    parameters, objective = learner["learner_model_param"], learner["objective"]["name"]
    classes = int(parameters["num_class"])
    if objective == "binary:logistic":
        classes = 2
    names = tuple(booster.feature_names) if booster.feature_names else None
    outputs = 1 if classes else int(parameters.get("num_target", "1"))
    return Ensemble(booster.num_features(), names, classes, outputs)


def read_signature(artifact: LocalArtifact) -> Signature:
    """The default signature of the ensemble in the file."""
    return describe(load_booster(artifact)).signature()


def _scorer(booster: Any) -> Any:
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    if objective != "multi:softmax":  # that one predicts labels only, so take its margins
        return booster.inplace_predict

    def score(features: NDArray[Any]) -> NDArray[Any]:
        margins = booster.inplace_predict(features, predict_type="margin")
        exponentials = np.exp(margins - margins.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float32)

    return score
