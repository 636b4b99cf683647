"""The mirror and the shadow: who gets which answer, and what is dropped, with executors that answer on command."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from types import SimpleNamespace

import numpy as np
import pytest

from modelyard.domain.errors import BackendFailed, Unavailable
from modelyard.serving.models.shadow import Mirror, Shadow
from modelyard.serving.oip.plan import InferHead, InputHead, Interface, make_plan
from modelyard.serving.scheduling.work import Work
from tests.serving_harness import VECTOR


class Answer(Work):
    """A front's request."""

    def __init__(self, plan, tensors):
        super().__init__(plan, tensors, 0.0)
        self.outputs = None
        self.error = None

    def reply(self, outputs, start, stop):
        self.outputs = [o[start:stop] for o in outputs]
        return perf_counter()

    def fail(self, error):
        self.error = error


class Queue:
    """An executor that keeps what it gets until it is told to answer."""

    def __init__(self, version, refuses=False):
        self.interface = Interface("m", version, VECTOR)
        self.held: list[Work] = []
        self.refuses = refuses
        self.ledger = SimpleNamespace(failed=0)

    def submit(self, work):
        if self.refuses:
            raise Unavailable("full", retry_after_s=1.0)
        self.held.append(work)

    def answer(self, change=lambda x: x):
        held, self.held = self.held, []
        rows = np.concatenate([w.tensors[0] for w in held])
        outputs, at = [change(rows)], 0
        for work in held:
            work.reply(outputs, at, at + work.rows)
            at += work.rows


class Yard:
    def __init__(self, rows=4, refuses=False):
        self.primary, self.second = Queue(1), Queue(2, refuses)
        self.quiet = True
        self.pool = ThreadPoolExecutor(1)
        self.shadow = Shadow(self.second, rows, 3, lambda: self.quiet, self.pool)
        self.mirror = Mirror(self.primary, self.shadow)
        self.works: list[Answer] = []

    def ask(self, *rows, writeable=False):
        array = np.array(rows, np.float32)
        array.flags.writeable = writeable
        head = InferHead([InputHead("x", "FP32", list(array.shape))])
        work = Answer(make_plan(self.primary.interface, head), (array,))
        self.works.append(work)
        self.mirror.submit(work)
        return work

    @property
    def counts(self):
        s = self.shadow.statistics
        return s.offered, s.dropped, s.failed, s.compared


def driven(scenario):
    def run():
        async def whole():
            yard = Yard()
            await scenario(yard)
            yard.pool.shutdown()

        asyncio.run(asyncio.wait_for(whole(), 20))

    run.__name__ = scenario.__name__
    return run


async def turn():
    """Let the loop turn twice: callbacks made in the first have run."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@driven
async def test_the_answer_comes_before_the_copy_is_even_made(yard):
    work = yard.ask([1, 2, 3, 4])
    assert yard.second.held == []
    yard.primary.answer()
    np.testing.assert_array_equal(work.outputs[0], [[1, 2, 3, 4]])
    assert yard.second.held == []
    await turn()
    (copy,) = yard.second.held
    assert copy is not work
    assert copy.priority == 3
    np.testing.assert_array_equal(copy.tensors[0], [[1, 2, 3, 4]])
    yard.second.answer(lambda x: x + np.float32([0, 0, 0, 0.5]))
    assert yard.counts == (1, 0, 0, 1)
    assert yard.shadow.statistics.max_abs_error == 0.5
    np.testing.assert_array_equal(work.outputs[0], [[1, 2, 3, 4]])


@driven
async def test_copies_of_one_turn_are_one_batch_and_no_more_than_that(yard):
    for i in range(6):
        yard.ask([i] * 4)
    yard.primary.answer()
    await turn()
    assert len(yard.second.held) == 4
    yard.second.answer()
    assert yard.counts == (6, 2, 0, 4)
    assert (yard.shadow.statistics.max_abs_error, yard.shadow.statistics.mismatched) == (0.0, 0)


@driven
async def test_nothing_is_copied_while_anything_waits(yard):
    yard.ask([1, 2, 3, 4])
    yard.quiet = False
    yard.primary.answer()
    await turn()
    assert yard.second.held == []
    assert yard.counts == (1, 1, 0, 0)


@driven
async def test_a_shadow_that_refuses_or_fails_is_counted_and_told_nobody(yard):
    yard.second.refuses = True
    first = yard.ask([1, 2, 3, 4])
    yard.primary.answer()
    await turn()
    yard.second.refuses = False
    second = yard.ask([1, 2, 3, 4])
    yard.primary.answer()
    await turn()
    yard.second.held.pop().fail(BackendFailed("no"))
    assert yard.counts == (2, 1, 1, 0)
    assert first.error is second.error is None


@driven
async def test_a_primary_that_fails_is_not_compared(yard):
    work = yard.ask([1, 2, 3, 4])
    yard.primary.held.pop().fail(BackendFailed("no"))
    await turn()
    assert str(work.error) == "no"
    assert yard.counts == (0, 0, 0, 0)


@driven
async def test_a_model_that_writes_to_its_input_does_not_change_the_copy(yard):
    work = yard.ask([1, 2, 3, 4], writeable=True)
    work.tensors[0][:] = 9
    yard.primary.answer()
    await turn()
    np.testing.assert_array_equal(yard.second.held[0].tensors[0], [[1, 2, 3, 4]])


@driven
async def test_a_client_that_leaves_is_seen_through_the_mirror(yard):
    work = yard.ask([1, 2, 3, 4])
    (observed,) = yard.primary.held
    assert not observed.cancelled
    work.cancelled = True
    assert observed.cancelled


@driven
async def test_a_refusal_of_the_primary_reaches_the_front(yard):
    yard.primary.refuses = True
    with pytest.raises(Unavailable, match="full"):
        yard.ask([1, 2, 3, 4])


@driven
async def test_large_answers_are_compared_in_a_pool_thread(yard):
    yard.shadow._max_rows = 2000
    yard.ask(*[[1, 2, 3, 4]] * 2000)
    yard.primary.answer()
    await turn()
    yard.second.answer(lambda x: x * 2)
    while yard.shadow.statistics.missing:
        await asyncio.sleep(0.001)
    found = yard.shadow.statistics
    assert (found.compared, found.max_abs_error, found.rows, found.rows_agreeing) == (1, 4.0, 2000, 2000)


@driven
async def test_a_mirror_is_its_primary_in_all_else(yard):
    assert yard.mirror.interface is yard.primary.interface
    assert yard.mirror.ledger is yard.primary.ledger
