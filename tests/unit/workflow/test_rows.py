"""Rows for probes and load: what clients send, which is not always what the model takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.domain.versions import DatasetSpec, Definition, Description, SourceSpec, StepSpec, Version
from modelyard.hub import Hub
from modelyard.manifest.steps import Phase, Pipeline
from modelyard.workflow.rows import Rows
from tests.builders import SIGNATURE

IMAGES = np.linspace(0, 1, 5 * 64, dtype=np.float32).reshape(5, 1, 8, 8)
NORMALIZE = StepSpec("normalize", {"tensor": "image", "scale": 1 / 255, "layout": "chw"})


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub.open(f"sqlite:///{tmp_path / 'hub.db'}", str(tmp_path / "blobs"), tmp_path / "cache") as opened:
        yield opened


def version(hub: Hub, tmp_path: Path, **changes: object) -> Version:
    np.savez(tmp_path / "data.npz", x=IMAGES, words=np.array(["a", "bb", "c", "d", "e"]))
    (tmp_path / "m.onnx").write_bytes(b"model")
    definition = Definition("digits", "onnx", SourceSpec("onnx", "m.onnx"), SIGNATURE)
    definition = replace(definition, **changes)  # type: ignore[arg-type]
    files = {"m.onnx": tmp_path / "m.onnx", "data.npz": tmp_path / "data.npz"}
    return hub.versions.register(definition, Description(), files, ["m.onnx"]).version


def test_rows_are_the_datasets(hub: Hub, tmp_path: Path) -> None:
    registered = version(hub, tmp_path, dataset=DatasetSpec("data.npz", {"image": "x"}))
    assert np.array_equal(Rows(hub).groups(registered)[0]["image"], IMAGES)
    assert Rows(hub).sample(registered)["image"].shape == (1, 1, 8, 8)


def test_without_a_dataset_rows_are_generated_to_fit_the_signature(hub: Hub, tmp_path: Path) -> None:
    registered = version(hub, tmp_path)
    (rows,) = Rows(hub).groups(registered)
    assert registered.definition.signature.check_inputs(rows) == 64


def test_strings_become_bytes(hub: Hub, tmp_path: Path) -> None:
    words = Signature((TensorSpec("word", Datatype.BYTES, ("batch",)),), SIGNATURE.outputs)
    registered = version(hub, tmp_path, signature=words, dataset=DatasetSpec("data.npz", {"word": "words"}))
    assert Rows(hub).groups(registered)[0]["word"].tolist() == [b"a", b"bb", b"c", b"d", b"e"]


def test_rows_of_a_version_with_steps_are_what_the_steps_take(hub: Hub, tmp_path: Path) -> None:
    """The dataset has model inputs under the same name: the steps are undone."""
    registered = version(hub, tmp_path, preprocess=(NORMALIZE,), dataset=DatasetSpec("data.npz", {"image": "x"}))
    rows = Rows(hub)
    (raw,) = rows.groups(registered)
    assert rows.outer_signature(registered).check_inputs(raw) == 5
    before = Pipeline.build((NORMALIZE,), tmp_path, Phase.BEFORE)
    assert np.allclose(before.apply(raw)["image"], IMAGES, atol=1 / 255)


def test_rows_of_different_sizes_come_in_groups_without_their_padding(hub: Hub, tmp_path: Path) -> None:
    lengths = np.array([2, 4, 2, 4, 4])
    tokens = np.where(np.arange(4) < lengths[:, None], 1, 0)
    np.savez(tmp_path / "tokens.npz", t=tokens, n=lengths)
    (tmp_path / "m.onnx").write_bytes(b"model")
    signature = Signature((TensorSpec("t", Datatype.INT64, ("batch", "length")),), SIGNATURE.outputs)
    dataset = DatasetSpec("tokens.npz", {"t": "t"}, lengths={"length": "n"})
    definition = Definition("words", "onnx", SourceSpec("onnx", "m.onnx"), signature, dataset=dataset)
    files = {name: tmp_path / name for name in ("m.onnx", "tokens.npz")}
    registered = hub.versions.register(definition, Description(), files, ["m.onnx"]).version
    rows = Rows(hub)
    groups = rows.groups(registered)
    assert [group["t"].shape for group in groups] == [(2, 2), (3, 4)]
    assert all(group["t"].all() for group in groups)
    assert rows.sample(registered)["t"].shape == (1, 2)
    assert rows.model_rows(registered)["t"].shape == (3, 4)
