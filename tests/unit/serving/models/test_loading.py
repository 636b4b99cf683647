"""What is checked of a served model before it takes traffic."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Signature
from modelyard.serving.models.loading import _check_classes
from modelyard.serving.models.source import fingerprint
from tests.serving_harness import scripted, tensor

SCORES = Signature((tensor("x", "FP32", "batch", 4),), (tensor("y", "FP32", "batch", 3),))
OPEN = Signature((tensor("x", "FP32", "batch", 4),), (tensor("y", "FP32", "batch", "classes"),))


def test_class_names_must_be_as_many_as_columns_where_those_are_known():
    served = scripted("echo", SCORES)
    _check_classes(replace(served, classes=("a", "b", "c")), SCORES)
    _check_classes(replace(served, classes=("a", "b")), OPEN)
    with pytest.raises(InvalidInput, match=r"2 names in 'classes'.*3 columns"):
        _check_classes(replace(served, classes=("a", "b")), SCORES)


def test_changed_steps_are_a_changed_model(tmp_path: Path):
    files, steps = tmp_path / "files", tmp_path / "steps"
    for folder in (files, steps):
        folder.mkdir()
        (folder / "file").write_text("1")
    served = scripted("echo")
    served = replace(served, artifact=replace(served.artifact, directory=str(files)), steps_directory=str(steps))
    before = fingerprint(served)
    assert fingerprint(served) == before
    os.utime(steps / "file", ns=(1, 1))
    assert fingerprint(served) != before
