"""The models of the design-space experiment: made, proven, and loaded; sentences are as long as they are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import modelyard
from modelyard.domain.artifacts import Outcome, Target
from modelyard.domain.versions import ModelRef, Version
from modelyard.domain.workload import Arrival, Protocol, Workload
from modelyard.runtimes import Predictor, RuntimeOptions
from modelyard.workflow.profiling import payloads_of

ROOT = Path(__file__).parents[2]
MODELS = ("gan-discriminator", "resnet-cifar", "translation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("design-space")
    script = ROOT / "examples" / "design_space" / "models.py"
    subprocess.run([sys.executable, str(script), "--out", str(made)], check=True, capture_output=True, timeout=280)
    return made


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[modelyard.Yard]:
    with modelyard.open(modelyard.Settings.read({}, home=tmp_path_factory.mktemp("home"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def versions(yard: modelyard.Yard, folder: Path) -> dict[str, Version]:
    """Registered: their claimed metrics were measured on the way."""
    return {name: yard.register(folder / f"{name}.yaml").version for name in MODELS}


@contextmanager
def loaded(yard: modelyard.Yard, version: Version, target: str | None = None) -> Iterator[Predictor]:
    """The version's artifact in this process; its source where no target is named."""
    artifacts = yard.hub.artifacts.list(ModelRef(version.model, version.number), servable_only=True)
    wanted = target or version.definition.source.format
    (artifact,) = [a for a in artifacts if str(a.target) == wanted]
    runtime = yard.runtimes.for_format(artifact.target.format)[0]
    predictor = runtime.load(yard.hub.artifacts.checkout(artifact), RuntimeOptions())
    try:
        yield predictor
    finally:
        predictor.close()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_proven_in_fp32_and_int8(yard: modelyard.Yard, versions: dict[str, Version], name: str) -> None:
    outcomes = yard.convert(versions[name].ref, ["onnx", "openvino", "onnx:int8-static"])
    assert {str(c.target): c.outcome for c in outcomes} == {
        "onnx": Outcome.PROVEN,
        "openvino": Outcome.PROVEN,
        "onnx:int8-static": Outcome.PROVEN,
    }


def test_the_translator_keeps_its_dynamic_dimensions(yard: modelyard.Yard, versions: dict[str, Version]) -> None:
    """Also for a size that is in no data, and for a row that is padding and nothing else."""
    version = versions["translation"]
    yard.convert(version.ref, ["onnx"])
    with loaded(yard, version, "onnx") as predictor:
        for rows, tokens in ((1, 1), (3, 13), (2, 48)):
            answer = predictor.predict({"source": np.full((rows, tokens), 7, np.int64)})
            assert answer["target"].shape == answer["score"].shape == (rows, tokens)
            assert len(np.unique(answer["target"])) == 1  # a word has one translation, wherever it stands
        nothing = predictor.predict({"source": np.zeros((1, 8), np.int64)})
    assert np.isfinite(nothing["score"]).all()


def test_padding_does_not_change_a_translation(yard: modelyard.Yard, versions: dict[str, Version]) -> None:
    words = np.random.default_rng(0).integers(1, 4000, (4, 11))
    with loaded(yard, versions["translation"]) as predictor:
        bare = predictor.predict({"source": words})
        padded = predictor.predict({"source": np.pad(words, ((0, 0), (0, 5)))})
    assert np.array_equal(padded["target"][:, :11], bare["target"])
    assert np.allclose(padded["score"][:, :11], bare["score"], atol=1e-3)


@pytest.mark.parametrize("protocol", [Protocol.HTTP_BINARY, Protocol.GRPC])
def test_sentences_of_all_lengths_are_sent_and_answered(
    yard: modelyard.Yard, versions: dict[str, Version], protocol: Protocol
) -> None:
    version = versions["translation"]
    work = Workload(Arrival.CLOSED, concurrency=4, batch=2, protocol=protocol)
    payloads = payloads_of(yard.profiling.rows.groups(version), work, batched=True)
    assert {payload["source"].shape for payload in payloads} == {(2, tokens) for tokens in range(8, 49, 8)}
    yard.convert(version.ref, ["onnx"])
    request = modelyard.ProfileRequest(
        targets=(Target("onnx"),),
        threads=(1,),
        max_batches=(8,),
        batches=(2,),
        closed=(4,),
        protocols=(protocol,),
        blocks=1,
        requests=64,
    )
    (measured,) = yard.profile(version.ref, request).measurements
    assert measured.indicators.error_fraction == 0
    assert measured.indicators.requests >= 64
