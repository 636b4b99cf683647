"""The executor: joins, splits, isolates, bounds; driven on a real loop with a scripted model."""

from __future__ import annotations

import asyncio
import threading
from time import perf_counter

import numpy as np
import pytest

from modelyard.domain.batching import Refusal
from modelyard.domain.configuration import Batching, QueuePolicy
from modelyard.domain.errors import BackendFailed, InvalidInput, Unavailable
from modelyard.serving.faults import Expired
from tests.unit.serving.scheduling.executor_bench import FIXED, Bench, drive, rows, until


def test_requests_of_one_turn_run_as_one_batch_and_get_their_own_rows():
    async def scenario():
        bench = Bench(lambda x: x * 2)
        futures = [bench.submit(rows(n, value=n)) for n in (1, 2, 3)]
        for n, future in zip((1, 2, 3), futures, strict=True):
            (out,) = await future
            np.testing.assert_array_equal(out, rows(n, value=2 * n))
        assert bench.runs == [(6, 4)]
        bench.close()

    drive(scenario)


def test_a_batch_never_exceeds_its_size_nor_splits_or_pads_a_request():
    async def scenario():
        bench = Bench(lambda x: x)
        await asyncio.gather(*[bench.submit(rows(n)) for n in (5, 4, 4, 20, 1)])
        assert [shape[0] for shape in bench.runs] == [5, 8, 20, 1]
        bench.close()

    drive(scenario)


def test_requests_of_different_shapes_are_grouped_by_shape():
    async def scenario():
        bench = Bench(lambda x: x + 1)
        outs = await asyncio.gather(*[bench.submit(rows(1, width=w, value=w)) for w in (3, 5, 3, 5, 3)])
        assert sorted(bench.runs) == [(2, 5), (3, 3)]
        assert [o[0].tolist() for o in outs] == [[[w + 1.0] * w] for w in (3, 5, 3, 5, 3)]
        bench.close()

    drive(scenario)


def test_a_model_without_batch_dimension_runs_requests_one_by_one():
    async def scenario():
        bench = Bench(lambda x: x, signature=FIXED)
        await asyncio.gather(*[bench.submit(rows(2, 3)) for _ in range(3)])
        assert bench.runs == [(2, 3)] * 3
        bench.close()

    drive(scenario)


def test_a_poison_request_hurts_only_itself():
    def poisoned(x):
        if (x == 666).any():
            raise ValueError("poisoned")
        return x

    async def scenario():
        bench = Bench(poisoned)
        futures = [bench.submit(rows(1, value=v)) for v in (1, 666, 2)]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(outcomes[1], BackendFailed)
        assert "poisoned" in str(outcomes[1])
        assert outcomes[0][0].tolist() == [[1.0] * 4]
        assert outcomes[2][0].tolist() == [[2.0] * 4]
        assert bench.executor.ledger.failed == 1
        assert bench.executor.idle
        bench.close()

    drive(scenario)


@pytest.mark.parametrize(
    "wrong",
    [lambda x: x[:-1], lambda x: x.astype(np.float64), lambda x: np.float32(1)],
    ids=["rows", "dtype", "scalar"],
)
def test_outputs_that_are_not_the_signatures_are_an_error_not_an_answer(wrong):
    async def scenario():
        bench = Bench(wrong)
        with pytest.raises(BackendFailed):
            await bench.submit(rows(2))
        bench.close()

    drive(scenario)


def test_cheap_batches_run_on_the_loop_and_dear_ones_on_the_worker():
    async def scenario():
        bench = Bench(lambda x: x)
        bench.executor.cost.observe(1, 1e-5)
        await bench.submit(rows(1))
        for _ in range(100):
            bench.executor.cost.observe(1, 0.5)
        await bench.submit(rows(1))
        assert bench.threads == [threading.main_thread().name, "model-m"]
        bench.close()

    drive(scenario)


def test_while_the_worker_is_busy_the_next_batch_gathers():
    async def scenario():
        gate = threading.Event()
        bench = Bench(lambda x: gate.wait(10) and x)
        for _ in range(50):
            bench.executor.cost.observe(1, 0.01)
        first = bench.submit(rows(1))
        while not bench.runs:
            await asyncio.sleep(0.001)
        others = [bench.submit(rows(1)) for _ in range(5)]
        gate.set()
        await asyncio.gather(first, *others)
        assert bench.runs == [(1, 4), (5, 4)]
        bench.close()

    drive(scenario)


def test_the_delay_is_cut_short_by_a_full_batch_and_otherwise_ends():
    async def scenario():
        bench = Bench(lambda x: x, batching=Batching(2, 10_000_000))
        futures = [bench.submit(rows(1)) for _ in range(2)]
        await asyncio.gather(*futures)
        lone = Bench(lambda x: x, batching=Batching(2, 3000))
        await lone.submit(rows(1))
        assert (bench.runs, lone.runs) == ([(2, 4)], [(1, 4)])
        bench.close()
        lone.close()

    drive(scenario)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    async def scenario():
        gate = threading.Event()
        bench = Bench(lambda x: gate.wait(10) and x, batching=Batching(1), queue=QueuePolicy(max_requests=2))
        for _ in range(50):
            bench.executor.cost.observe(1, 0.01)
        accepted = [bench.submit(rows(1))]
        while not bench.runs:
            await asyncio.sleep(0.001)
        accepted += [bench.submit(rows(1)) for _ in range(2)]
        with pytest.raises(Unavailable) as refused:
            bench.submit(rows(1))
        assert refused.value.retry_after_s > 0
        gate.set()
        await asyncio.gather(*accepted)
        assert len(bench.runs) == 3
        assert bench.executor.ledger.refused["queue-full"] == 1
        bench.close()

    drive(scenario)


def test_requests_that_expire_or_whose_client_left_never_reach_the_model():
    async def scenario():
        gate = threading.Event()
        bench = Bench(lambda x: gate.wait(10) and x, batching=Batching(1), queue=QueuePolicy(max_wait_s=5))
        for _ in range(50):
            bench.executor.cost.observe(1, 0.002)
        first = bench.submit(rows(1))
        while not bench.runs:
            await asyncio.sleep(0.001)
        expiring = bench.submit(rows(1), timeout_us=8000)
        expiry = asyncio.get_running_loop().time() + 0.009
        gone = bench.work(rows(1))
        bench.executor.submit(gone)
        gone.cancelled = True
        kept = bench.submit(rows(1))
        while asyncio.get_running_loop().time() < expiry:
            await asyncio.sleep(0.001)
        gate.set()
        with pytest.raises(Expired):
            await expiring
        await asyncio.gather(first, kept)
        assert len(bench.runs) == 2
        assert not gone.future.done()
        assert bench.executor.idle
        bench.close()

    drive(scenario)


def test_the_sweep_answers_expired_requests_behind_a_stuck_execution():
    async def scenario():
        gate = threading.Event()
        bench = Bench(lambda x: gate.wait(10) and x, batching=Batching(1))
        for _ in range(50):
            bench.executor.cost.observe(1, 0.002)
        first = bench.submit(rows(1))
        while not bench.runs:
            await asyncio.sleep(0.001)
        behind = bench.submit(rows(1), timeout_us=500_000)
        now = asyncio.get_running_loop().time() + 1
        bench.executor.sweep(now)
        with pytest.raises(Expired):
            await behind
        assert not bench.executor.stuck(now)
        gate.set()
        await first
        bench.close()

    drive(scenario)


def test_what_waits_when_a_version_leaves_is_told_so():
    async def scenario():
        gate = threading.Event()
        bench = Bench(lambda x: gate.wait(10) and x, batching=Batching(1), dear=0.002)
        first, second = bench.submit(rows(1)), bench.submit(rows(1))
        await until(lambda: bench.runs)
        bench.executor.leave()
        with pytest.raises(Unavailable, match="version 1 is no longer served"):
            await second
        with pytest.raises(Unavailable, match="no longer served"):
            bench.submit(rows(1))
        gate.set()
        await first
        assert bench.executor.idle
        assert bench.executor.ledger.refused["draining"] == 1
        bench.executor.free()
        bench.pool.shutdown()

    drive(scenario)


def test_the_model_may_write_to_its_input():
    def writing(x):
        x += 1
        return x

    async def scenario():
        bench = Bench(writing)
        view = np.frombuffer(rows(1).tobytes(), np.float32).reshape(1, 4)
        (out,) = await bench.submit(view)
        assert out.tolist() == [[2.0] * 4]
        bench.close()

    drive(scenario)


class Doubling:
    def apply(self, tensors):
        return {name: np.repeat(t, 2, axis=0) for name, t in tensors.items()}


class Halving:
    def apply(self, tensors):
        return {name: t[::2] for name, t in tensors.items()}


class Broken:
    def __init__(self, error):
        self.error = error

    def apply(self, tensors):
        raise self.error


def test_steps_may_change_the_number_of_rows_and_every_request_keeps_its_own():
    async def scenario():
        bench = Bench(lambda x: x * 10, pre=Doubling(), post=Halving())
        outs = await asyncio.gather(*[bench.submit(rows(1, value=v)) for v in (1, 2, 3)])
        assert [o[0].tolist() for o in outs] == [[[v * 10.0] * 4] for v in (1, 2, 3)]
        assert sum(b.requests for b in bench.executor.ledger.by_rows.values()) == 3
        assert sum(b.batches for b in bench.executor.ledger.by_rows.values()) == len(bench.runs)
        bench.close()

    drive(scenario)


@pytest.mark.parametrize("place", ["pre", "post"])
@pytest.mark.parametrize(
    ("raised", "told"), [(InvalidInput("no image"), InvalidInput), (ZeroDivisionError(), BackendFailed)]
)
def test_a_failing_step_fails_its_request(place, raised, told):
    async def scenario():
        bench = Bench(lambda x: x, **{place: Broken(raised)})
        with pytest.raises(told):
            await bench.submit(rows(1))
        assert bench.executor.idle
        bench.close()

    drive(scenario)


def test_steps_that_no_thread_can_be_had_for_are_refused_and_nothing_is_held():
    async def scenario():
        bench = Bench(lambda x: x, pre=Doubling(), post=Halving())
        bench.pool.shutdown()  # as where the system has no more threads: `submit` raises RuntimeError
        with pytest.raises(Unavailable, match="cannot start"):
            bench.executor.submit(bench.work(rows(1)))
        assert bench.executor.idle
        bench.close()

    drive(scenario)


def test_an_answer_that_cannot_be_delivered_does_not_hurt_its_batch_mates():
    async def scenario():
        bench = Bench(lambda x: x)
        broken = bench.work(rows(1))
        broken.future.cancel()  # set_result raises now, as a write to a closed transport does
        bench.executor.submit(broken)
        (out,) = await bench.submit(rows(1, value=7))
        assert out.tolist() == [[7.0] * 4]
        assert bench.executor.idle
        bench.close()

    drive(scenario)


@pytest.mark.parametrize("dear", [0.0, 0.002])
@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
def test_a_model_that_exits_or_interrupts_fails_its_request_and_serves_the_next(ending, dear):
    def exits(x):
        if (x == 13).any():
            raise ending
        return x

    async def scenario():
        bench = Bench(exits, dear=dear)
        futures = [bench.submit(rows(1, value=v)) for v in (1, 13, 2)]
        with pytest.raises(BackendFailed, match=ending.__name__):
            await futures[1]
        assert [(await futures[i])[0][0, 0] for i in (0, 2)] == [1, 2]
        await bench.submit(rows(1))
        assert bench.executor.idle
        assert not bench.executor.scheduler.running
        bench.close()

    drive(scenario)


def test_a_request_counts_once_and_only_what_was_answered_counts_as_served():
    async def scenario():
        gate = threading.Event()
        bench = Bench(lambda x: gate.wait(10) and x, queue=QueuePolicy(max_wait_s=60), dear=0.002)
        left, late = bench.work(rows(1)), bench.work(rows(1), timeout_us=50_000)
        bench.executor.submit(left)
        bench.executor.submit(late)
        served = bench.submit(rows(1))
        await until(lambda: bench.runs)
        left.cancelled = True
        with pytest.raises(Expired):
            await late.future
        gate.set()
        await served
        await until(lambda: bench.executor.idle)
        ledger = bench.executor.ledger
        (seen,) = ledger.by_rows.values()
        assert (seen.requests, ledger.failed, sum(ledger.duration_counts)) == (1, 1, 1)
        bench.close()

    drive(scenario)


def test_the_ledger_adds_up():
    async def scenario():
        bench = Bench(lambda x: x)
        await asyncio.gather(*[bench.submit(rows(2)) for _ in range(3)])
        (seen,) = bench.executor.ledger.by_rows.values()
        assert (seen.rows, seen.batches, seen.requests) == (6, 1, 3)
        assert seen.infer_s == pytest.approx(3 * seen.busy_s)
        assert min(seen.queue_s, seen.batch_wait_s, seen.encode_s) >= 0
        assert sum(bench.executor.ledger.duration_counts) == 3
        bench.close()

    drive(scenario)


def test_steps_that_alone_outlast_the_slo_are_named_as_the_reason_and_no_retry_is_proposed():
    class Slow(Doubling):
        def apply(self, tensors):
            began = perf_counter()
            while perf_counter() < began + 0.03:
                pass
            return super().apply(tensors)

    async def scenario():
        bench = Bench(lambda x: x, pre=Slow(), queue=QueuePolicy(slo_ms=10))
        with pytest.raises(Unavailable, match="pre-processing alone took") as refused:
            await bench.submit(rows(1))
        assert refused.value.retry_after_s is None
        assert "replicas do not help" in refused.value.hint
        assert bench.executor.ledger.refused[Refusal.EXPIRED] == 1
        bench.close()

    drive(scenario)
