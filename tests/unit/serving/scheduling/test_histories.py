"""Random histories of an executor: every request has exactly one end, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.domain.configuration import Batching, QueuePolicy
from modelyard.domain.errors import ModelyardError
from modelyard.serving.scheduling import slots, watch
from modelyard.serving.scheduling.executor import Allotment
from tests.unit.serving.scheduling.executor_bench import Answer, Bench, drive, rows, until

RAISES, EXITS, CLIENT_BREAKS = 13.0, 14.0, 15.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Late executions are looked at every few milliseconds."""
    monkeypatch.setattr(watch, "LOOK_S", 0.002)
    monkeypatch.setattr(slots.Renewal, "FIRST_PAUSE_S", 0.01)


class Once(Answer):
    """Counts how often it is answered; the answer to one of its values cannot be written."""

    __slots__ = ("answers", "value")

    def reply(self, outputs, start, stop):
        if self.value == CLIENT_BREAKS and not self.answers:
            self.answers.append(None)
            raise ValueError("the client's socket is gone")
        self.answers.append(outputs[0][start:stop] if stop > start else outputs[0])
        return perf_counter()

    def fail(self, error):
        self.answers.append(error)


@dataclass(frozen=True)
class Call:
    value: float
    rows: int
    width: int
    timeout_us: int
    priority: int
    leaves: bool
    """The client does, right after the request was taken."""
    pause: int
    """Turns of the loop before the next call."""


CALLS = st.lists(
    st.builds(
        Call,
        value=st.sampled_from([1.0, 2.0, 2.0, 3.0, RAISES, EXITS, CLIENT_BREAKS]),
        rows=st.integers(1, 5),
        width=st.integers(1, 3),
        timeout_us=st.sampled_from([0, 0, 0, 1, 3_000, 5_000_000]),
        priority=st.integers(0, 3),
        leaves=st.booleans(),
        pause=st.sampled_from([0, 0, 0, 1, 3]),
    ),
    max_size=40,
)


class Copy:
    """A step that hands on what it gets, under the other side's names."""

    def apply(self, tensors):
        if any((t == RAISES).any() for t in tensors.values()):
            raise ValueError("a step's own")
        return dict(tensors)


@settings(max_examples=60, deadline=None)
@given(
    calls=CALLS,
    dear=st.sampled_from([0.0, 0.002]),
    steps=st.sampled_from(["", "pre", "post"]),
    allotment=st.sampled_from([Allotment(), Allotment(coalesce=True), Allotment(coalesce=True, cache_bytes=4096)]),
    batching=st.sampled_from([Batching(1), Batching(4), Batching(8, max_delay_us=2000), Batching(8, max_cost=6)]),
    most=st.sampled_from([3, 1000]),
    leave=st.booleans(),
)
def test_every_request_has_one_end_and_nothing_is_left(calls, dear, steps, allotment, batching, most, leave):
    def model(x):
        if dear:
            time.sleep(random.choice((0, 0.001, 0.004)))
        if (x == RAISES).any():
            raise ValueError("poison")
        if (x == EXITS).any():
            raise SystemExit
        return x * 2

    async def scenario():
        bench = Bench(
            model,
            batching=batching,
            queue=QueuePolicy(max_requests=most, priorities=3, max_wait_s=5),
            pre=Copy() if steps == "pre" else None,
            post=Copy() if steps == "post" else None,
            allotment=allotment,
            dear=dear,
        )
        executor = bench.executor
        taken, refused = [], 0
        for call in calls:
            plain = bench.work(rows(call.rows, call.width, call.value), call.timeout_us, call.priority)
            work = Once(plain.plan, plain.tensors, plain.received)
            work.answers, work.value = [], call.value
            try:
                executor.submit(work)
            except ModelyardError:
                refused += 1
                continue
            work.cancelled = call.leaves
            taken.append(work)
            for _ in range(call.pause):
                await asyncio.sleep(0)
        if leave:
            executor.leave()
        await until(lambda: executor.idle and all(w.answers or w.cancelled for w in taken))
        scheduler = executor.scheduler
        assert (scheduler.held, scheduler.rows, scheduler.running, scheduler.dropped) == (0, 0, [], [])
        assert executor.running == 0
        assert sorted(map(id, executor.watch.free)) == sorted(map(id, executor.watch.slots))
        for work in taken:
            ends = [a for a in work.answers if a is not None]  # the broken client is told once more, in vain
            assert len(ends) <= 1 if work.cancelled else len(ends) == 1
            if ends and not isinstance(ends[0], ModelyardError):
                assert ends[0].tolist() == (np.full(work.tensors[0].shape, work.value) * 2).tolist()
        ledger = executor.ledger
        answered = sum(seen.requests for seen in ledger.by_rows.values())
        if not allotment.coalesce:
            assert answered == sum(ledger.duration_counts)
            alive = sum(not w.cancelled for w in taken)
            assert alive <= answered + ledger.failed + sum(ledger.refused.values()) <= len(taken) + refused
        bench.close()

    drive(scenario)
