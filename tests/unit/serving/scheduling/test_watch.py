"""Executions that hang: who is told, what is replaced, who is not hurt."""

from __future__ import annotations

import asyncio
import threading
import traceback

import pytest

from modelyard.domain.configuration import Batching, QueuePolicy
from modelyard.domain.errors import BackendFailed, Unavailable
from modelyard.serving.faults import Expired
from modelyard.serving.scheduling import slots, watch
from modelyard.serving.scheduling.turns import Turns
from tests.unit.serving.scheduling.executor_bench import Bench, drive, rows, until


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Hangs are found out in tens of milliseconds."""
    monkeypatch.setattr(watch, "LOOK_S", 0.01)
    monkeypatch.setattr(watch, "HUNG_FLOOR_S", 0.03)
    monkeypatch.setattr(slots.Renewal, "FIRST_PAUSE_S", 0.01)


class Instance:
    """Hangs on the value 13 until `gate` opens; `interruptible` ones raise when interrupted."""

    inline = False

    def __init__(self, *, interruptible=False):
        self.gate = threading.Event()
        self.interruptible = interruptible
        self.interrupted = threading.Event()
        self.closed = 0
        self.runs = []

    def run(self, tensors):
        x = tensors["x"]
        self.runs.append(x.shape[0])
        if (x == 13).any():
            self.gate.wait(20)
            if self.interrupted.is_set():
                self.interrupted.clear()
                self.gate.clear()
                raise BackendFailed("interrupted")
        return {"y": x}

    def interrupt(self):
        if self.interruptible:
            self.interrupted.set()
            self.gate.set()
        return self.interruptible

    def close(self):
        self.closed += 1


QUEUE = QueuePolicy(max_wait_s=0.1)


def test_a_hung_instance_that_cannot_be_interrupted_is_replaced_and_its_thread_abandoned():
    async def scenario():
        first, second = Instance(), Instance()
        bench = Bench(instances=[first], renew=lambda: second, queue=QUEUE, dear=0.002)
        hung = [bench.submit(rows(1, value=v)) for v in (13, 1)]
        for request in hung:
            with pytest.raises(BackendFailed, match="does not answer"):
                await request
        (out,) = await bench.submit(rows(1, value=5))
        assert out.tolist() == [[5.0] * 4]
        assert second.runs == [1]
        watched = bench.executor.watch
        assert (watched.hung, watched.replaced, len(watched.abandoned), len(watched.slots)) == (1, 1, 1, 1)
        assert bench.executor.idle
        assert first.closed == 0
        first.gate.set()
        await until(lambda: not watched.abandoned)
        assert first.closed == 1
        assert first.runs == [2]  # not retried one by one
        bench.close()

    drive(scenario)


def test_an_interrupted_instance_stays_in_service():
    async def scenario():
        instance = Instance(interruptible=True)

        def renew():
            raise AssertionError("nothing is to be replaced")

        bench = Bench(instances=[instance], renew=renew, queue=QUEUE, dear=0.002)
        with pytest.raises(BackendFailed, match="does not answer"):
            await bench.submit(rows(1, value=13))
        await bench.submit(rows(1))
        assert instance.runs == [1, 1]
        assert not bench.executor.watch.abandoned
        bench.close()

    drive(scenario)


def test_a_late_execution_answers_each_request_at_its_own_deadline_and_its_mates_as_usual():
    async def scenario():
        instance = Instance()
        bench = Bench(instances=[instance], queue=QueuePolicy(max_wait_s=60), dear=0.002)
        impatient = bench.submit(rows(1, value=13), timeout_us=50_000)
        patient = bench.submit(rows(1, value=2))
        with pytest.raises(Expired):
            await impatient
        assert not patient.done()
        instance.gate.set()
        (out,) = await patient
        assert out.tolist() == [[2.0] * 4]
        assert bench.executor.idle
        bench.close()

    drive(scenario)


def test_a_late_execution_is_waited_for_as_long_as_a_request_allows_whatever_the_longest_wait(monkeypatch):
    monkeypatch.setattr(watch, "HUNG_FLOOR_S", 60.0)

    async def scenario():
        instance = Instance()
        bench = Bench(instances=[instance], queue=QueuePolicy(max_wait_s=0.02), dear=0.002)
        impatient = bench.submit(rows(1, value=13), timeout_us=150_000)
        patient = bench.submit(rows(1, value=2), timeout_us=30_000_000)
        with pytest.raises(Expired):
            await impatient
        assert not patient.done()
        instance.gate.set()
        assert (await patient)[0].tolist() == [[2.0] * 4]
        bench.close()

    drive(scenario)


def test_what_seems_to_hang_is_not_given_up_while_a_request_with_a_timeout_of_its_own_waits_for_it():
    async def scenario():
        instance, looks = Instance(), []
        bench = Bench(instances=[instance], queue=QueuePolicy(max_wait_s=0.02), dear=0.002)
        bench.executor.sweep = looks.append
        patient = bench.submit(rows(1, value=13), timeout_us=30_000_000)
        await until(lambda: len(looks) > 20)  # 0.2 s: ten times the longest wait, and what counts as hanging
        assert not patient.done()
        instance.gate.set()
        assert (await patient)[0].tolist() == [[13.0] * 4]
        bench.close()

    drive(scenario)


def test_a_timeout_of_its_own_holds_no_hopeless_execution_of_a_model_that_is_not_known_yet(monkeypatch):
    monkeypatch.setattr(watch, "UNTRAINED_HOPELESS_S", 0.05)

    async def scenario():
        first, second = Instance(), Instance()
        bench = Bench(instances=[first], renew=lambda: second, queue=QueuePolicy(max_wait_s=0.02))
        with pytest.raises(BackendFailed, match="does not answer"):
            await bench.submit(rows(1, value=13), timeout_us=30_000_000)
        first.gate.set()
        await bench.submit(rows(1))
        bench.close()

    drive(scenario)


def test_requests_behind_a_hung_execution_are_answered_when_they_expire():
    async def scenario():
        instance = Instance()
        bench = Bench(instances=[instance], batching=Batching(1), queue=QueuePolicy(max_wait_s=60), dear=0.002)
        first = bench.submit(rows(1, value=13))
        await until(lambda: instance.runs)
        with pytest.raises(Expired):
            await bench.submit(rows(1), timeout_us=200_000)
        instance.gate.set()
        await first
        bench.close()

    drive(scenario)


def test_without_any_instance_left_requests_are_refused_with_the_reason_and_the_heartbeat_stops():
    async def scenario():
        instance = Instance()
        bench = Bench(instances=[instance], queue=QUEUE, dear=0.002)
        with pytest.raises(BackendFailed):
            await bench.submit(rows(1, value=13))
        with pytest.raises(Unavailable, match="no working instance"):
            bench.submit(rows(1))
        now = asyncio.get_running_loop().time()
        assert not bench.executor.stuck(now)
        assert bench.executor.stuck(now + watch.NO_SLOT_S + 1)
        instance.gate.set()
        bench.close()

    drive(scenario)


def test_refusing_for_want_of_an_instance_leaves_nothing_behind():
    async def scenario():
        instance = Instance()
        bench = Bench(instances=[instance], queue=QUEUE, dear=0.002)
        with pytest.raises(BackendFailed):
            await bench.submit(rows(1, value=13))
        for _ in range(100):
            with pytest.raises(Unavailable):
                bench.submit(rows(1))
        assert len(traceback.extract_tb(bench.executor.down.__traceback__)) < 10
        instance.gate.set()
        bench.close()

    drive(scenario)


def test_of_an_execution_that_was_given_up_no_request_is_run_again():
    """A batch failed, its requests are run one by one, and the first of them hangs."""

    async def scenario():
        gate, tried = threading.Event(), []

        class Failing(Instance):
            def run(self, tensors):
                tried.append(tensors["x"].shape[0])
                if tried[-1] > 1:
                    raise ValueError("no batches, please")
                gate.wait(20)
                raise ValueError("too late")

        bench = Bench(instances=[Failing()], renew=Instance, queue=QUEUE, dear=0.002)
        hung = [bench.submit(rows(1)) for _ in range(4)]
        for request in hung:
            with pytest.raises(BackendFailed, match="does not answer"):
                await request
        gate.set()
        await until(lambda: not bench.executor.watch.abandoned)
        assert tried == [4, 1]
        assert bench.executor.ledger.failed == 4
        bench.close()

    drive(scenario)


def test_a_process_that_is_started_again_for_too_long_is_no_hang():
    async def scenario():
        instance = Instance(interruptible=True)
        instance.absent = "out of memory reading /srv/model.onnx"
        bench = Bench(instances=[instance], queue=QUEUE, dear=0.002)
        with pytest.raises(Unavailable, match=r"is being started again: out of memory reading \.\.\./model\.onnx"):
            await bench.submit(rows(1, value=13))
        assert bench.executor.watch.hung == 0
        instance.absent = ""
        with pytest.raises(BackendFailed, match="does not answer"):
            await bench.submit(rows(1, value=13))
        assert bench.executor.watch.hung == 1
        bench.close()

    drive(scenario)


def test_an_instance_that_cannot_be_made_is_tried_again():
    async def scenario():
        first, second = Instance(), Instance()
        outcomes = iter([BackendFailed("no memory"), BackendFailed("no memory"), second])

        def renew():
            outcome = next(outcomes)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        bench = Bench(instances=[first], renew=renew, queue=QUEUE, dear=0.002)
        with pytest.raises(BackendFailed):
            await bench.submit(rows(1, value=13))
        await until(lambda: bench.executor.watch.slots)
        await bench.submit(rows(1))
        assert second.runs == [1]
        first.gate.set()
        bench.close()

    drive(scenario)


def test_too_many_abandoned_threads_end_the_replica():
    async def scenario():
        made = [Instance() for _ in range(watch.MOST_ABANDONED + 1)]
        spare = iter(made[1:])
        bench = Bench(instances=[made[0]], renew=lambda: next(spare), queue=QUEUE, dear=0.002)
        now = asyncio.get_running_loop().time()
        for instance in made:
            assert not bench.executor.stuck(now)
            with pytest.raises(BackendFailed):
                await bench.submit(rows(1, value=13))
            await until(lambda instance=instance: instance.runs)
        assert bench.executor.stuck(now)
        for instance in made:
            instance.gate.set()
        bench.close()

    drive(scenario)


def test_a_late_execution_loses_its_seat_so_that_other_models_go_on():
    async def scenario():
        turns = Turns(max_running=1)
        hanging, fine = Instance(), Instance()
        one = Bench(instances=[hanging], queue=QueuePolicy(max_wait_s=60), turns=turns, dear=0.002)
        other = Bench(instances=[fine], turns=turns, dear=0.002)
        stuck = one.submit(rows(1, value=13))
        await until(lambda: hanging.runs)
        await other.submit(rows(1))
        assert not stuck.done()
        hanging.gate.set()
        await stuck
        assert turns.share.used == 0
        one.close()
        other.close()

    drive(scenario)
