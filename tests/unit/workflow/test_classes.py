"""Names of classes come from the source alone, and only where the columns are its own."""

from __future__ import annotations

import json

import pytest

from modelyard.domain.versions import Definition, SourceSpec, StepSpec
from modelyard.workflow.classes import class_names
from tests.builders import SIGNATURE


def definition(*steps: StepSpec, classes: list[str | int] | None = None) -> Definition:
    options = {} if classes is None else {"classes": json.dumps(classes)}
    source = SourceSpec("xgboost", "m.ubj", options)
    return Definition(name="m", framework="xgboost", source=source, signature=SIGNATURE, postprocess=steps)


def test_the_sources_classes_are_the_names() -> None:
    assert class_names(definition(classes=["no", 7])) == ("no", "7")
    assert class_names(definition(StepSpec("softmax", {}), classes=["a", "b"])) == ("a", "b")
    assert class_names(definition()) == ()


@pytest.mark.parametrize("kind", ["top_k", "argmax", "python"])
def test_where_a_step_may_move_columns_there_are_none(kind: str) -> None:
    assert class_names(definition(StepSpec(kind, {}), classes=["a", "b"])) == ()
