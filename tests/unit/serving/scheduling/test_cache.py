"""Responses that are kept, and equal requests that share one execution."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from modelyard.domain.configuration import Batching, QueuePolicy
from modelyard.domain.errors import BackendFailed, Unavailable
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.serving.faults import Expired
from modelyard.serving.observe.context import parse
from modelyard.serving.observe.stages import Recorder
from modelyard.serving.oip.plan import InferHead, InputHead, Interface, make_plan
from modelyard.serving.scheduling import cache
from modelyard.serving.scheduling.cache import digest
from modelyard.serving.scheduling.executor import Allotment
from modelyard.serving.scheduling.work import Work
from tests.unit.serving.scheduling.executor_bench import FIXED, Bench, drive, rows, until

CACHE = Allotment(cache_bytes=100_000)
SHARE = Allotment(coalesce=True)


def test_an_equal_request_is_answered_from_the_cache():
    async def scenario():
        bench = Bench(lambda x: x * 2, allotment=CACHE)
        (first,) = await bench.submit(rows(2, value=3))
        (again,) = await bench.submit(rows(2, value=3))
        (other,) = await bench.submit(rows(2, value=4))
        assert again.tolist() == first.tolist()
        assert other.tolist() != first.tolist()
        assert len(bench.runs) == 2
        responses = bench.executor.responses
        assert (responses.hits, responses.misses) == (1, 2)
        bench.close()

    drive(scenario)


def test_who_had_nothing_executed_is_in_the_ring_of_stages_and_traced_all_the_same():
    async def scenario():
        bench = Bench(lambda x: x, batching=Batching(1), allotment=Allotment(cache_bytes=100_000, coalesce=True))
        bench.executor.recorder = recorder = Recorder()
        works = [bench.work(rows(1, value=3)) for _ in range(3)]
        for number, work in enumerate(works):
            work.trace = parse(b"00-%032x-00000000000000aa-01" % (number + 1))
        for work in works[:2]:
            bench.executor.submit(work)
        await asyncio.gather(*[work.future for work in works[:2]])
        bench.executor.submit(works[2])
        await works[2].future
        assert len(bench.runs) == 1
        cached, executed, joined = recorder.recent()
        assert [int(s.trace_id, 16) for s in (cached, executed, joined)] == [3, 1, 2]
        assert executed.infer_us > 0
        assert joined.infer_us == cached.infer_us == 0
        assert joined.queue_us > 0
        assert [s.batch_rows for s in (cached, executed, joined)] == [1, 1, 1]
        assert sum(b.requests for b in bench.executor.ledger.by_rows.values()) == 1
        bench.close()

    drive(scenario)


def test_what_is_kept_is_a_copy_of_the_requests_own_rows():
    async def scenario():
        bench = Bench(lambda x: x, allotment=CACHE)
        outs = await asyncio.gather(bench.submit(rows(1, value=1)), bench.submit(rows(3, value=2)))
        for (out,) in outs:
            out[...] = 99
        (out,) = await bench.submit(rows(3, value=2))
        assert out.tolist() == rows(3, value=2).tolist()
        assert bench.runs == [(4, 4)]
        bench.close()

    drive(scenario)


def test_a_model_without_batch_dimension_is_cached_too():
    async def scenario():
        bench = Bench(lambda x: x + 1, signature=FIXED, allotment=CACHE)
        outs = [await bench.submit(rows(2, 3)) for _ in range(2)]
        assert outs[0][0].tolist() == outs[1][0].tolist() == [[2.0] * 3] * 2
        assert len(bench.runs) == 1
        bench.close()

    drive(scenario)


def test_the_least_recently_used_goes_first_and_the_bound_holds():
    async def scenario():
        bench = Bench(lambda x: x, allotment=Allotment(cache_bytes=3 * (512 + 16)))
        responses = bench.executor.responses
        for value in (1, 2, 3, 1, 4):
            await bench.submit(rows(1, value=value))
            assert responses.bytes <= 3 * (512 + 16)
        runs = len(bench.runs)
        await bench.submit(rows(1, value=1))
        assert len(bench.runs) == runs
        await bench.submit(rows(1, value=2))
        assert len(bench.runs) == runs + 1
        await bench.submit(rows(200))  # too large to be kept
        await bench.submit(rows(200))
        assert len(bench.runs) == runs + 3
        bench.close()

    drive(scenario)


def test_failures_are_not_kept():
    async def scenario():
        outcomes = iter([ValueError("once"), None])

        def run(x):
            if (problem := next(outcomes)) is not None:
                raise problem
            return x

        bench = Bench(run, allotment=Allotment(cache_bytes=10_000, coalesce=True))
        with pytest.raises(BackendFailed):
            await bench.submit(rows(1))
        await bench.submit(rows(1))
        assert len(bench.runs) == 2
        bench.close()

    drive(scenario)


def test_equal_requests_in_flight_share_one_execution():
    async def scenario():
        gate = threading.Event()
        bench = Bench(lambda x: gate.wait(10) and x, allotment=SHARE, dear=0.01)
        futures = [bench.submit(rows(1, value=v)) for v in (1, 1, 2, 1)]
        gate.set()
        outs = await asyncio.gather(*futures)
        assert [o[0][0, 0] for o in outs] == [1, 1, 2, 1]
        assert bench.runs == [(2, 4)]
        assert bench.executor.responses.coalesced == 2
        await bench.submit(rows(1, value=1))
        assert len(bench.runs) == 2  # nothing is kept beyond the flight
        bench.close()

    drive(scenario)


def test_a_shared_execution_runs_while_anyone_waits_for_it():
    async def scenario():
        gate = threading.Event()
        bench = Bench(lambda x: gate.wait(10) and x, batching=Batching(1), allotment=SHARE, dear=0.01)
        blocker = bench.submit(rows(1, value=9))
        await until(lambda: bench.runs)
        first, second = bench.work(rows(1)), bench.work(rows(1))
        third = bench.work(rows(1, value=7))
        for work in (first, second, third):
            bench.executor.submit(work)
        first.cancelled = third.cancelled = True
        gate.set()
        await asyncio.gather(blocker, second.future)
        await until(lambda: bench.executor.idle)
        assert len(bench.runs) == 2
        assert not first.future.done()
        bench.close()

    drive(scenario)


def test_those_who_joined_a_request_that_expired_try_on_their_own():
    async def scenario():
        gate = threading.Event()
        bench = Bench(
            lambda x: gate.wait(10) and x, batching=Batching(1), queue=QueuePolicy(max_wait_s=20), allotment=SHARE,
            dear=0.01,
        )  # fmt: skip
        blocker = bench.submit(rows(1, value=9))
        await until(lambda: bench.runs)
        hasty = bench.submit(rows(1), timeout_us=200_000)
        patient = bench.submit(rows(1))
        with pytest.raises(Expired):
            await hasty
        gate.set()
        await asyncio.gather(blocker, patient)
        bench.close()

    drive(scenario)


def test_a_request_joins_none_that_may_run_too_late_for_it():
    async def scenario():
        gate = threading.Event()
        bench = Bench(lambda x: gate.wait(10) and x, batching=Batching(1), allotment=SHARE, dear=0.01)
        blocker = bench.submit(rows(1, value=9))
        await until(lambda: bench.runs)
        patient, urgent = bench.submit(rows(1)), bench.submit(rows(1), priority=1)
        hasty = bench.submit(rows(1, value=2), timeout_us=9_000_000)
        hastier = bench.submit(rows(1, value=2), timeout_us=5_000_000)
        assert bench.executor.responses.coalesced == 0
        joined = [bench.submit(rows(1)), bench.submit(rows(1, value=2), timeout_us=6_000_000)]
        assert bench.executor.responses.coalesced == 2  # the urgent one's and the hastier one's
        gate.set()
        await asyncio.gather(blocker, patient, urgent, hasty, hastier, *joined)
        assert len(bench.runs) == 5
        bench.close()

    drive(scenario)


def test_requests_whose_clients_left_are_not_kept_as_in_flight():
    async def scenario():
        gate = threading.Event()
        bench = Bench(lambda x: gate.wait(10) and x, batching=Batching(1), allotment=SHARE, dear=1e-9)
        bench.executor.watch.free[0].instance.inline = False
        blocker = bench.submit(rows(1, value=-1))
        await until(lambda: bench.runs)
        for value in range(1000):
            work = bench.work(rows(1, value=value))
            bench.executor.submit(work)
            work.cancelled = True
            if value % 50 == 0:
                bench.executor.sweep(work.received)
        assert len(bench.executor.responses._flying) < 100
        gate.set()
        await blocker
        bench.close()

    drive(scenario)


def test_who_was_told_and_queued_again_is_not_told_a_second_time():
    """The shared execution is late, its requests are told at their deadlines, and then it fails all the same."""

    async def scenario():
        gate = threading.Event()

        def run(x):
            if (x == 13).any() and not gate.is_set():
                gate.wait(10)
                raise ValueError
            return x

        bench = Bench(run, batching=Batching(1), queue=QueuePolicy(max_wait_s=60), allotment=SHARE, dear=0.001)
        hasty = bench.submit(rows(1, value=13), timeout_us=50_000)
        patient = bench.submit(rows(1, value=13))
        with pytest.raises(Expired):
            await hasty
        gate.set()
        await patient
        assert bench.executor.ledger.failed == 1
        assert bench.executor.idle
        bench.close()

    drive(scenario)


STRINGS = Signature(
    (TensorSpec("a", Datatype.BYTES, ("batch", 2)), TensorSpec("b", Datatype.INT64, ("batch",))),
    (TensorSpec("y", Datatype.FP32, ("batch",)),),
)


def key(strings, numbers):
    a, b = np.array(strings, object), np.array(numbers, np.int64)
    inputs = [InputHead("a", "BYTES", list(a.shape)), InputHead("b", "INT64", list(b.shape))]
    plan = make_plan(Interface("m", 1, STRINGS), InferHead(inputs))
    return digest(Work(plan, (a, b), 0.0))


def test_the_key_tells_requests_apart():
    base = key([[b"ab", b"c"]], [1])
    assert base == key([[b"ab", b"c"]], [1])
    assert base != key([[b"a", b"bc"]], [1])
    assert base != key([[b"ab", b"c"]], [2])
    assert key([[b"a", b"b"], [b"c", b"d"]], [1, 2]) != key([[b"a", b"b"], [b"c", b"d"]], [2, 1])


LARGE = np.ones((1, 50_000), np.float32)


def test_the_key_of_a_large_request_is_made_off_the_loop_and_answers_all_the_same(monkeypatch):
    threads = []

    def seen(work):
        threads.append(threading.current_thread())
        return digest(work)

    monkeypatch.setattr(cache, "digest", seen)

    async def scenario():
        bench = Bench(lambda x: x * 2, allotment=Allotment(cache_bytes=1_000_000, coalesce=True))
        await bench.submit(rows(1))
        assert threads == [threading.main_thread()]
        threads.clear()
        outs = await asyncio.gather(*[bench.submit(LARGE) for _ in range(3)])
        outs.append(await bench.submit(LARGE))
        assert all((out == 2).all() for (out,) in outs)
        assert len(threads) == 4
        assert threading.main_thread() not in threads
        assert len(bench.runs) == 2
        responses = bench.executor.responses
        assert responses.hits + responses.coalesced == 3
        assert bench.executor.idle
        bench.close()

    drive(scenario)


def test_while_a_key_is_made_the_executor_is_not_idle_and_who_left_is_not_executed(monkeypatch):
    gate = threading.Event()

    def slow(work):
        assert gate.wait(10)
        return digest(work)

    monkeypatch.setattr(cache, "digest", slow)

    async def scenario():
        bench = Bench(lambda x: x, allotment=CACHE)
        left, stays = bench.work(LARGE), bench.submit(LARGE + 1)
        bench.executor.submit(left)
        left.cancelled = True
        assert not bench.executor.idle
        gate.set()
        await stays
        await until(lambda: bench.executor.idle)
        assert bench.runs == [(1, 50_000)]
        bench.close()

    drive(scenario)


def test_where_no_thread_can_be_started_the_request_is_refused_once_and_nothing_is_left_behind(monkeypatch):
    def none(self):
        raise RuntimeError("can't start new thread")

    async def scenario():
        bench = Bench(lambda x: x, allotment=CACHE)
        with monkeypatch.context() as limited, pytest.raises(Unavailable, match="looked up"):
            limited.setattr(threading.Thread, "start", none)
            await bench.submit(LARGE)
        assert bench.executor.idle
        (out,) = await bench.submit(LARGE + 1)
        assert (out == 2).all()
        assert bench.runs == [(1, 50_000)]
        bench.close()

    drive(scenario)


def test_a_refusal_after_the_key_was_made_is_the_requests_answer():
    async def scenario():
        bench = Bench(lambda x: x, allotment=CACHE)
        answer = bench.submit(LARGE)
        bench.executor.leave()
        with pytest.raises(Unavailable, match="no longer served"):
            await answer
        assert bench.runs == []
        bench.close()

    drive(scenario)
