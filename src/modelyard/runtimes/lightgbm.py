"""Gradient-boosted trees by LightGBM."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from modelyard.domain.artifacts import LIGHTGBM, LocalArtifact, Precision
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Signature
from modelyard.runtimes.boosting import Ensemble, booster_run
from modelyard.runtimes.loading import entry_file, installed, loading, require, require_device, require_precision
from modelyard.runtimes.ports import Availability, Containment, RuntimeOptions
from modelyard.runtimes.predictor import CheckedPredictor
from modelyard.runtimes.tabular import matrix

NAME: Final = "lightgbm"
_HINT: Final = "save the model with booster.save_model('model.txt')"
_CLASSIFIERS: Final = ("binary", "multiclass", "multiclassova", "cross_entropy_multi")


class LightgbmRuntime:
    """Runs `lightgbm` artifacts (`.txt`); never pickles.

    Prediction is thread-safe, parallel, and releases the GIL. Its arithmetic is FP64 inside; outputs are given in the
    signature's datatype. The file has class numbers only; the option `classes` (a JSON list) gives them names.
    """

    name = NAME
    formats = frozenset({LIGHTGBM})

    def availability(self) -> Availability:
        return installed("lightgbm", ("lightgbm",), "sklearn")

    def containment(self, artifact: LocalArtifact) -> Containment:  # noqa: ARG002 - the Protocol's
        """Trees are walked from root to leaf, in native code."""
        return Containment.BOUNDED

    def load(self, artifact: LocalArtifact, options: RuntimeOptions) -> CheckedPredictor:
        require_device(NAME, options.device, ["cpu"])
        require_precision(NAME, artifact, (Precision.FP32, Precision.FP64))
        booster = load_booster(artifact, options.threads)
        ensemble = describe(entry_file(artifact))
        threads = options.threads

        def score(features: NDArray[Any]) -> NDArray[Any]:
            result: NDArray[Any] = booster.predict(features, num_threads=threads)
            return result

        features = matrix(artifact.signature, ensemble.features, ensemble.names)
        return CheckedPredictor(
            NAME,
            artifact.signature,
            booster_run(artifact, ensemble, features, score),
            {
                "device": options.device,
                "threads": str(booster.params["num_threads"]),
                "precision": str(artifact.precision),
                "concurrency": "parallel",
            },
        )


def load_booster(artifact: LocalArtifact, threads: int = 1) -> Any:
    """The artifact's `lightgbm.Booster`. Raises InvalidInput if the file is none."""
    require(NAME, LightgbmRuntime().availability())
    path = entry_file(artifact)
    describe(path)  # the header first: the C++ reader prints to the terminal when it meets another file
    _check_complete(path)
    with loading(NAME, artifact, _HINT):
        import lightgbm

        booster = lightgbm.Booster(model_file=path)
        booster.params["num_threads"] = threads
        return booster


def _check_complete(path: Path) -> None:
    """Raise InvalidInput for a file cut off or changed among its trees: LightGBM 4.7 aborts the process over one."""
    content = path.read_bytes()
    start, end = content.find(b"\nTree=0"), content.find(b"\nend of trees")
    sizes = content[: max(start, 0)].partition(b"tree_sizes=")[2].partition(b"\n")[0].split()
    if start < 0 or end < 0 or not all(size.isdigit() for size in sizes):
        raise InvalidInput(f"'{path.name}' is not a whole LightGBM model", why="its trees do not end", hint=_HINT)
    position = start + 1
    for number, size in enumerate(sizes):
        if not content.startswith(b"Tree=%d\n" % number, position):
            raise InvalidInput(
                f"'{path.name}' is damaged", why=f"tree {number} is not where the header says", hint=_HINT
            )
        position += int(size)
    if sizes and content[position:].lstrip()[:12] != b"end of trees":
        raise InvalidInput(f"'{path.name}' is damaged", why="its last tree has another size", hint=_HINT)


def describe(path: Path) -> Ensemble:
    """Features, names and kind of the ensemble in a model file, from its header. Raises InvalidInput."""
    header: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8") as file:
            if file.readline().strip() != "tree":
                raise InvalidInput(f"'{path.name}' is not a LightGBM model", hint=_HINT)
            for line in file:
                if line.startswith("Tree="):
                    break
                key, _, value = line.strip().partition("=")
                header[key] = value
        features = int(header["max_feature_idx"]) + 1
        per_class = int(header["num_class"])
    except (UnicodeDecodeError, KeyError, ValueError) as error:
        raise InvalidInput(f"'{path.name}' is not a LightGBM model", why=f"bad header ({error})", hint=_HINT) from error
    objective = header.get("objective", "").split(" ", 1)[0]
    classes = {"binary": 2}.get(objective, per_class) if objective in _CLASSIFIERS else 0
    names = tuple(header.get("feature_names", "").split())
    return Ensemble(features, names if len(names) == features else None, classes, 1 if classes else per_class)


def read_signature(artifact: LocalArtifact) -> Signature:
    """The default signature of the ensemble in the file."""
    return describe(entry_file(artifact)).signature()
