"""The error family: what, why, hint; whole after a trip to another process."""

from __future__ import annotations

import pickle

import pytest

from modelyard.domain import errors
from modelyard.domain.errors import ModelyardError, Unavailable

LEAVES = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, ModelyardError)]


@pytest.mark.parametrize("kind", LEAVES)
def test_an_error_survives_pickling(kind: type[ModelyardError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what", why="why", hint="hint")))
    assert type(error) is kind
    assert (error.what, error.why, error.hint) == ("what", "why", "hint")
    assert str(error) == "what: why"


def test_retry_after_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(Unavailable("busy", retry_after_s=1.5))).retry_after_s == 1.5


def test_without_a_reason_only_what_is_said() -> None:
    assert str(ModelyardError("what", hint="hint")) == "what"


def test_every_leaf_is_one_level_below_the_root() -> None:
    assert all(kind.__bases__ == (ModelyardError,) for kind in LEAVES if kind is not ModelyardError)
