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


def tracked() -> int:
    return len(gc.get_objects())


def test_what_is_settled_or_kept_is_not_looked_at_again() -> None:
    heap.settle()
    few = tracked()
    model = [[k] for k in range(100_000)]
    assert tracked() >= few + len(model)
    heap.keep()
    assert tracked() < len(model)


def test_a_model_that_has_gone_is_collected_although_it_was_kept() -> None:
    heap.settle()
    gone = weakref.ref(node := Node())
    heap.keep()
    del node
    gc.collect()
    assert gone() is not None
    heap.release()
    assert gone() is None


def test_a_process_that_never_settled_is_left_alone() -> None:
    heap.keep()
    heap.release()
    assert gc.get_freeze_count() == 0
