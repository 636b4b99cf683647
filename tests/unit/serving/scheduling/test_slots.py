"""Several instances of a model, and several models that share a replica."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from modelyard.domain.configuration import Batching, QueuePolicy
from modelyard.domain.errors import Unavailable
from modelyard.serving.scheduling.slots import InProcess, cores_of
from modelyard.serving.scheduling.turns import Turns
from tests.unit.serving.scheduling.executor_bench import Bench, drive, rows, until


def test_instances_of_a_model_run_at_the_same_time():
    async def scenario():
        meeting = threading.Barrier(2, timeout=10)

        def predict(tensors):
            meeting.wait()
            return {"y": tensors["x"]}

        instances = [InProcess(predict, lambda: None) for _ in range(2)]
        bench = Bench(instances=instances, batching=Batching(1), turns=Turns(max_running=2), dear=0.01)
        await asyncio.gather(*[bench.submit(rows(1)) for _ in range(4)])
        assert bench.executor.idle
        bench.close()

    drive(scenario)


def test_executions_of_all_models_never_exceed_the_seats():
    async def scenario():
        lock = threading.Lock()
        running = most = 0

        def predict(tensors):
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            for _ in range(1000):
                pass
            with lock:
                running -= 1
            return {"y": tensors["x"]}

        turns = Turns(max_running=2)
        benches = [
            Bench(
                instances=[InProcess(predict, lambda: None) for _ in range(2)],
                batching=Batching(1),
                turns=turns,
                dear=0.01,
                queue=QueuePolicy(max_wait_s=60),
            )
            for _ in range(3)
        ]
        await asyncio.gather(*[bench.submit(rows(1)) for _ in range(30) for bench in benches])
        assert most <= 2
        assert turns.share.used == 0
        for bench in benches:
            bench.close()

    drive(scenario)


def test_a_cheap_model_is_not_behind_a_dear_one():
    async def scenario():
        gate, turns = threading.Event(), Turns(max_running=1)
        dear = Bench(lambda x: gate.wait(10) and x, turns=turns, dear=5.0)
        cheap = Bench(lambda x: x, turns=turns, dear=1e-5)
        slow = dear.submit(rows(1))
        await until(lambda: dear.runs)
        await cheap.submit(rows(1))
        assert not slow.done()
        gate.set()
        await slow
        dear.close()
        cheap.close()

    drive(scenario)


class Taker:
    """Always has work that costs the same."""

    def __init__(self, turns, name, weight, order, most):
        self.turns, self.name, self.order, self.most = turns, name, order, most
        self.flow = turns.join(self, weight, 1)
        turns.arm(self)

    def turn(self):
        self.order.append(self.name)
        self.turns.share.charge(self.flow, 0.0005)
        if len(self.order) < self.most:
            self.turns.arm(self)


def test_under_a_cap_on_cores_no_more_runs_than_it_has_time_for():
    async def scenario():
        usable = Turns().share.capacity
        assert [Turns(cpu_limit=cap).share.capacity for cap in (0.5, 1, 1e3)] == [1, 1, usable]
        assert Turns(3, cpu_limit=0.5).share.capacity == 3

    drive(scenario)


def test_models_on_the_loop_take_turns_by_weight_where_they_compete():
    async def scenario():
        turns, order = Turns(), []
        Taker(turns, "light", 1.0, order, 400)
        Taker(turns, "heavy", 3.0, order, 400)
        await until(lambda: len(order) >= 400)
        assert order.count("heavy") == pytest.approx(300, abs=3)

    drive(scenario)


def test_a_closed_executor_leaves_no_seat_behind():
    async def scenario():
        turns = Turns(max_running=1)
        gone = Bench(lambda x: x, turns=turns, dear=0.01)
        await gone.submit(rows(1))
        gone.close()
        stays = Bench(lambda x: x, turns=turns, dear=0.01)
        await stays.submit(rows(1))
        assert turns.share.used == 0
        stays.close()

    drive(scenario)


def test_a_high_priority_request_goes_before_waiting_low_ones():
    async def scenario():
        gate, seen = threading.Event(), []

        def run(x):
            gate.wait(10)
            seen.append(float(x[0, 0]))
            return x

        bench = Bench(run, batching=Batching(1), dear=0.01)
        futures = [bench.submit(rows(1, value=0))]
        await until(lambda: bench.runs)
        futures += [bench.submit(rows(1, value=v), priority=2) for v in (1, 2)]
        futures.append(bench.submit(rows(1, value=9), priority=1))
        gate.set()
        await asyncio.gather(*futures)
        assert seen == [0, 9, 1, 2]
        bench.close()

    drive(scenario)


def test_a_full_queue_evicts_the_low_priority_and_tells_it():
    async def scenario():
        gate = threading.Event()
        queue = QueuePolicy(max_requests=1)
        bench = Bench(lambda x: gate.wait(10) and x, batching=Batching(1), queue=queue, dear=0.01)
        running = bench.submit(rows(1))
        await until(lambda: bench.runs)
        low = bench.submit(rows(1), priority=2)
        high = bench.submit(rows(1), priority=1)
        with pytest.raises(Unavailable, match="higher priority") as refused:
            await low
        assert refused.value.retry_after_s >= 1
        gate.set()
        await asyncio.gather(running, high)
        assert bench.executor.ledger.refused["evicted"] == 1
        bench.close()

    drive(scenario)


def test_several_instances_have_cores_of_their_own_where_they_fit(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 6, 7})
    sets = [cores_of("m", i, 3, 2) for i in range(3)]
    assert all(len(s) == 2 for s in sets)
    assert frozenset().union(*sets) == {0, 1, 2, 3, 6, 7}
    assert cores_of("m", 0, 4, 2) is None
    assert cores_of("m", 0, 1, 2) is None
