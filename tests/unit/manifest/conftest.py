"""A folder with a small, complete, valid version of a model, and helpers to break it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modelyard.domain.errors import InvalidInput
from modelyard.manifest import ManifestDocument, load

MANIFEST = """\
apiVersion: modelyard/v1
name: digits
task: image-classification
framework: pytorch>=2.9,<3
source: {path: digits.pt2}
inputs:
  - {name: image, datatype: FP32, shape: [batch, 1, 8, 8]}
outputs:
  - {name: logits, datatype: FP32, shape: [batch, 10]}
dataset: {path: holdout.npz, inputs: {image: x}, label: y}
metrics: {accuracy: 0.98}
slo: {p99_ms: 20, rate_rps: 200}
convert: auto
"""


def zip_of(*names: str) -> bytes:
    """A zip archive with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return buffer.getvalue()


EXPORTED = zip_of("m/models/model.json", "m/archive_format")
TORCHSCRIPT = zip_of("m/code/__torch__.py", "m/constants.pkl", "m/data.pkl")
STATE_DICT = zip_of("m/data.pkl", "m/data/0", "m/version")
SAFETENSORS = (2).to_bytes(8, "little") + b"{}" + b"\0" * 8
SKOPS = zip_of("schema.json", "1.npy")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid version: digits.pt2, holdout.npz, model.yaml."""
    (tmp_path / "digits.pt2").write_bytes(EXPORTED)
    np.savez(tmp_path / "holdout.npz", x=np.zeros((6, 1, 8, 8), np.float32), y=np.zeros(6, np.int64))
    (tmp_path / "model.yaml").write_text(MANIFEST)
    return tmp_path


Check = Callable[..., ManifestDocument]


@pytest.fixture
def check(folder: Path) -> Check:
    """Load the manifest after replacing one piece of its text by another."""

    def run(old: str = "", new: str = "", *, trust: bool = False) -> ManifestDocument:
        assert old in MANIFEST
        (folder / "model.yaml").write_text(MANIFEST.replace(old, new) if old else MANIFEST)
        return load(folder / "model.yaml", trust=trust)

    return run


Problems = Callable[[str, str], list[str]]


@pytest.fixture
def problems(check: Check, folder: Path) -> Problems:
    """The problem lines of a broken manifest, without the folder's name."""

    def run(old: str, new: str) -> list[str]:
        with pytest.raises(InvalidInput) as caught:
            check(old, new)
        assert caught.value.hint
        return caught.value.why.replace(f"{folder}/", "").splitlines()

    return run
