"""What the collector sees of a process after models came and went."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from modelyard.serving import heap


class Node:
    """Part of a cycle, as a framework's modules are."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    assert gc.get_freeze_count() == 0
    yield
    gc.unfreeze()


def test_what_is_settled_is_not_looked_at_again() -> None:
    model = [[k] for k in range(100_000)]
    heap.settle()
    assert len(gc.get_objects()) < len(model)


def test_a_model_that_has_gone_is_collected_although_it_was_settled() -> None:
    gone = weakref.ref(node := Node())
    heap.settle()
    del node
    gc.collect()
    assert gone() is not None
    heap.release()
    gc.collect()
    assert gone() is None
