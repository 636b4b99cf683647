"""The tuner bench's models: made once for each state of their example, and a script that fails is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.tune.models import MODELS, get
from modelyard.domain.errors import BackendFailed, NotFound
from modelyard.manifest import load


def test_a_model_is_made_once_until_its_code_changes(tmp_path: Path) -> None:
    model = get("tumour")
    manifest = model.build(tmp_path)
    assert load(manifest).definition.name == "tumour"
    data = manifest.parent / "holdout.npz"
    data.write_bytes(b"not made again")
    assert model.build(tmp_path) == manifest
    assert data.read_bytes() == b"not made again"
    (manifest.parent / ".made").write_text("another state")
    model.build(tmp_path)
    assert load(manifest).definition.name == "tumour"


def test_a_script_that_fails_is_told_and_runs_again_next_time(tmp_path: Path) -> None:
    broken = replace(get("tumour"), script="absent.py")
    for _ in range(2):
        with pytest.raises(BackendFailed) as caught:
            broken.build(tmp_path)
        assert "absent.py" in caught.value.why
        assert "examples/tabular/absent.py" in caught.value.hint


def test_every_model_has_a_manifest_of_its_name() -> None:
    root = Path(__file__).parents[3] / "examples"
    for model in MODELS:
        assert f"\nname: {model.name}\n" in (root / model.example / model.manifest).read_text()
    with pytest.raises(NotFound, match="no model 'resnet'"):
        get("resnet")
