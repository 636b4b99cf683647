"""The pool of pre-processing steps, and requests whose steps do not come to an end."""

from __future__ import annotations

import asyncio
import threading
import weakref
from concurrent.futures import Future
from time import perf_counter

import pytest

from modelyard.domain.errors import BackendFailed
from modelyard.serving.faults import Expired
from modelyard.serving.instances import steps
from modelyard.serving.instances.steps import StepsWatch, StepThreads
from tests.serving_harness import until


@pytest.fixture
def pool():
    pool = StepThreads(2)
    yield pool
    pool.shutdown()


def test_jobs_give_what_they_return_and_raise(pool):
    assert pool.submit(lambda a, b=0: a + b, 1, b=2).result(20) == 3
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result(20)


def test_threads_are_started_only_where_none_is_idle():
    def me():
        return threading.current_thread().ident

    pool = StepThreads(4)
    assert len({pool.submit(me).result(20) for _ in range(50)}) == 1
    together = threading.Barrier(4)
    for future in [pool.submit(together.wait, 20) for _ in range(4)]:
        future.result(20)
    pool.shutdown()


def test_an_idle_thread_holds_nothing_of_its_last_job(pool):
    class Tensor:
        pass

    tensor = Tensor()
    gone = weakref.ref(tensor)
    pool.submit(lambda held: None, tensor).result(20)
    del tensor
    until(lambda: gone() is None, "the job's argument is let go")


def test_an_abandoned_thread_is_replaced_and_ends_should_it_return(pool):
    gates = [threading.Event() for _ in range(4)]
    started = [threading.Event() for _ in range(4)]

    def hang(i):
        started[i].set()
        gates[i].wait()

    futures: list[Future[None]] = []
    for i in range(4):
        futures.append(pool.submit(hang, i))
        assert started[i].wait(20)
        pool.abandon(futures[i])
    assert pool.abandoned == 4
    assert pool.submit(lambda: "works").result(20) == "works"
    for gate in gates:
        gate.set()
    until(lambda: pool.abandoned == 0, "the lost threads ended")
    assert pool.submit(lambda: "works").result(20) == "works"


def test_an_abandoned_job_that_waits_never_runs(pool):
    gate, ran = threading.Event(), []
    busy = [pool.submit(gate.wait) for _ in range(2)]
    waiting = pool.submit(ran.append, 1)
    pool.abandon(waiting)
    gate.set()
    for future in busy:
        future.result(20)
    pool.submit(lambda: None).result(20)
    assert ran == []
    assert pool.abandoned == 0


class Request:
    def __init__(self, timeout_s, within_s):
        self.timeout_s = timeout_s
        self.received = perf_counter()
        self.deadline = self.received + within_s


class FakeExecutor:
    def __init__(self):
        self.gate = threading.Event()
        self.answers = []
        self.answered = asyncio.Event()

    def preprocess(self, work):
        self.gate.wait()

    def unprepared(self, work, error):
        self.answers.append((work, error))
        self.answered.set()


@pytest.mark.parametrize(("timeout", "kind"), [(0.05, Expired), (None, BackendFailed)])
def test_a_request_whose_steps_hang_is_answered_once_after_its_deadline(pool, timeout, kind, monkeypatch):
    monkeypatch.setattr(steps, "HANGS_S", 0.1)

    async def main():
        executor = FakeExecutor()
        watch = StepsWatch(executor, pool)
        work = Request(timeout, 0.05)
        watch.start(work)
        await asyncio.wait_for(executor.answered.wait(), 20)
        assert perf_counter() >= work.deadline
        assert [(w, type(e)) for w, e in executor.answers] == [(work, kind)]
        assert not watch.finished(work)
        executor.gate.set()

    asyncio.run(main())


def test_a_request_whose_steps_return_in_time_is_not_answered_here(pool):
    async def main():
        executor = FakeExecutor()
        executor.gate.set()
        watch = StepsWatch(executor, pool)
        work = Request(None, 60)
        watch.start(work)
        assert watch.finished(work)
        assert not watch.finished(work)
        assert executor.answers == []

    asyncio.run(main())


def test_steps_slower_than_an_slo_are_no_hang_and_only_a_requests_own_time_ends_its_waiting(pool):
    async def main():
        executor = FakeExecutor()
        watch = StepsWatch(executor, pool)
        patient, impatient = Request(60, 0.02), Request(0.1, 0.02)  # an SLO of 20 ms
        watch.start(patient)
        watch.start(impatient)
        await asyncio.wait_for(executor.answered.wait(), 20)
        assert [(w, type(e)) for w, e in executor.answers] == [(impatient, Expired)]
        assert perf_counter() >= impatient.received + 0.1
        assert pool.abandoned == 0
        executor.gate.set()
        assert watch.finished(patient)
        assert not watch.finished(impatient)
        assert len(executor.answers) == 1

    asyncio.run(main())


def test_a_thread_that_hangs_after_its_request_was_told_is_replaced_and_nobody_is_told_twice(pool, monkeypatch):
    monkeypatch.setattr(steps, "HANGS_S", 0.3)

    async def main():
        executor = FakeExecutor()
        watch = StepsWatch(executor, pool)
        watch.start(Request(0.02, 0.02))
        while not pool.abandoned:
            await asyncio.sleep(0.01)
        assert [type(e) for _, e in executor.answers] == [Expired]
        executor.gate.set()

    async def bounded():
        await asyncio.wait_for(main(), 20)

    asyncio.run(bounded())
