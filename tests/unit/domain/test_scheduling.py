"""The scheduler under a simulated clock: what no sequence of arrivals, deadlines and execution times may break."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.domain.batching import LatencyModel, Refusal
from modelyard.domain.configuration import Batching, QueuePolicy
from modelyard.domain.scheduling import PASSED_OVER, SLO_SHARE, TRAINING_ROWS, Batch, Refused, Scheduler


@dataclass(eq=False)
class Request:
    received: float
    rows: int = 1
    shape_key: object = "s"
    priority: int = 0
    timeout_s: float | None = None
    cancelled: bool = False
    enqueued: float = 0.0
    deadline: float = 0.0
    started: float | None = None
    ended: float | None = None


@dataclass
class Run:
    """What happened in a simulation."""

    batches: list[Batch] = field(default_factory=list)
    done: list[Request] = field(default_factory=list)
    refused: list[tuple[Request, Refused]] = field(default_factory=list)
    dropped: list[tuple[Request, Refusal]] = field(default_factory=list)


def simulate(scheduler: Scheduler, requests: list[Request], seconds) -> Run:
    """Drive a scheduler by a simulated clock; `seconds(batch)` is how long each batch takes."""
    run = Run()
    events: list[tuple[float, int, str, object]] = []
    number = 0

    def at(time: float, kind: str, what: object) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (time, number, kind, what))

    for request in requests:
        at(request.received, "arrival", request)
    while events:
        now, _, kind, what = heapq.heappop(events)
        if kind == "arrival":
            refused = scheduler.offer(what, now)
            if refused is not None:
                run.refused.append((what, refused))
        elif kind == "end":
            scheduler.finished(what, now)
            scheduler.learn(what.units, now - what.started)
            for request in what.items:
                request.ended = now
                run.done.append(request)
        while True:
            step = scheduler.next(now)
            run.dropped += scheduler.dropped
            scheduler.dropped.clear()
            if not isinstance(step, Batch):
                break
            for request in step.items:
                request.started = now
            run.batches.append(step)
            at(now + seconds(step), "end", step)
        if step is not None:
            assert step > now
            at(step, "timer", None)
    return run


def learned(a: float, b: float) -> LatencyModel:
    cost = LatencyModel()
    for units in (1, 2, 4, 8) * 10:
        cost.observe(units, a * units + b)
    return cost


def steady(rate: float, seconds: float, seed: int = 0, **more) -> list[Request]:
    """Poisson arrivals."""
    source, now, out = random.Random(seed), 0.0, []
    while (now := now + source.expovariate(rate)) < seconds:
        out.append(Request(now, **more))
    return out


requests = st.lists(
    st.builds(
        Request,
        received=st.floats(0, 1),
        rows=st.integers(1, 6),
        shape_key=st.sampled_from(["short", "long"]),
        priority=st.integers(0, 3),
        timeout_s=st.none() | st.floats(0.001, 0.5),
        cancelled=st.booleans().filter(lambda c: not c) | st.booleans(),
    ),
    max_size=60,
)
batchings = st.builds(
    Batching,
    max_size=st.integers(1, 8),
    max_delay_us=st.sampled_from([0, 0, 500, 20_000]),
    max_cost=st.none() | st.integers(1, 40),
)
policies = st.builds(
    QueuePolicy,
    max_requests=st.integers(1, 40),
    max_wait_s=st.floats(0.01, 2),
    priorities=st.integers(1, 3),
    slo_ms=st.none() | st.floats(5, 500),
)
UNITS = {"short": 1, "long": 7}


@settings(max_examples=300, deadline=None)
@given(requests, batchings, policies, st.integers(1, 3), st.booleans(), st.integers(0, 10**6))
def test_every_request_has_exactly_one_end_and_every_batch_keeps_its_bounds(
    work, batching, policy, slots, varies, seed
):
    source = random.Random(seed)
    scheduler = Scheduler(batching, policy, LatencyModel(), slots, row_cost=UNITS.__getitem__ if varies else None)
    run = simulate(scheduler, work, lambda batch: source.choice([0.0, 0.001, 0.02, 0.3]))

    ends = [id(r) for r in run.done] + [id(r) for r, _ in run.refused] + [id(r) for r, _ in run.dropped]
    assert len(ends) == len(set(ends))
    silent = {id(r) for r in work if r.cancelled}
    assert {id(r) for r in work} - set(ends) <= silent
    assert (scheduler.held, scheduler.rows, scheduler.units) == (0, 0, 0)
    assert not any(True for _ in scheduler.waiting())
    assert not scheduler.running

    for batch in run.batches:
        assert len({r.shape_key for r in batch.items}) == 1
        assert batch.rows == sum(r.rows for r in batch.items)
        if len(batch.items) > 1:
            assert batch.rows <= batching.max_size
            assert batching.max_cost is None or batch.units <= batching.max_cost
        for request in batch.items:
            assert request.deadline >= request.started  # T18: nothing that has expired runs
            assert not request.cancelled
            limit = policy.max_wait_s if request.timeout_s is None else request.timeout_s
            assert request.started - request.received <= limit + 1e-9
    assert all(refused.retry_after_s > 0 for _, refused in run.refused)


@settings(max_examples=200, deadline=None)
@given(requests, st.integers(1, 8), st.integers(0, 10**6))
def test_within_a_priority_and_shape_the_earliest_deadline_goes_first(work, size, seed):
    source = random.Random(seed)
    for request in work:
        request.shape_key, request.cancelled = "short", False
    policy = QueuePolicy(priorities=3)
    scheduler = Scheduler(Batching(size), policy, LatencyModel())
    run = simulate(scheduler, work, lambda batch: source.choice([0.001, 0.02]))
    for batch in run.batches:
        for request in batch.items:
            for other in work:
                same = (other.priority or 3) == (request.priority or 3)
                waiting = other.started is not None and other.received < batch.started and other.started > batch.started
                assert not (same and waiting and other.deadline < request.deadline)


@settings(max_examples=100, deadline=None)
@given(requests, batchings, policies, st.integers(0, 100))
def test_the_same_calls_give_the_same_answers(work, batching, policy, seed):
    def once():
        source = random.Random(seed)
        copies = [Request(r.received, r.rows, r.shape_key, r.priority, r.timeout_s, r.cancelled) for r in work]
        run = simulate(
            Scheduler(batching, policy, LatencyModel(), 2), copies, lambda batch: source.choice([0.001, 0.1])
        )
        return [(b.started, b.rows) for b in run.batches], [r.retry_after_s for _, r in run.refused]

    assert once() == once()


# --- order


def test_a_higher_priority_goes_first_and_lower_ones_fill_its_batch():
    scheduler = Scheduler(Batching(4), QueuePolicy(), learned(0, 0.01))
    low = [Request(0.0, priority=2) for _ in range(6)]
    high = [Request(0.0, priority=1) for _ in range(2)]
    for request in (*low, *high):
        scheduler.offer(request, 0.0)
    batch = scheduler.next(0.0)
    assert batch.items == [*high, *low[:2]]


def test_a_waiting_lower_priority_gets_every_sixteenth_batch_at_least():
    scheduler = Scheduler(Batching(1), QueuePolicy(max_wait_s=86_400), learned(0, 0.01))
    low = Request(0.0, priority=2)
    scheduler.offer(low, 0.0)
    number = 0
    while number < 100:
        scheduler.offer(Request(0.0, priority=1), 0.0)
        batch = scheduler.next(0.0)
        scheduler.finished(batch, 0.0)
        if low in batch.items:
            break
        number += 1
    assert number == PASSED_OVER


def test_priorities_beyond_the_lowest_are_the_lowest_and_none_is_the_default():
    scheduler = Scheduler(Batching(8), QueuePolicy(priorities=3, default_priority=2), learned(0, 0.01))
    for priority in (9, 0, 1):
        scheduler.offer(Request(0.0, priority=priority), 0.0)
    assert [r.priority for r in scheduler.next(0.0).items] == [1, 0, 9]


# --- admission


def loaded_queue(rows: int, policy: QueuePolicy, cost: LatencyModel, size: int = 4) -> Scheduler:
    """A scheduler with one batch running and `rows` requests waiting."""
    scheduler = Scheduler(Batching(size), policy, cost)
    scheduler.offer(Request(0.0), 0.0)
    scheduler.next(0.0)
    for _ in range(rows):
        assert scheduler.offer(Request(0.0), 0.0) is None
    return scheduler


def test_a_full_queue_refuses_with_the_time_it_needs_to_drain():
    scheduler = loaded_queue(4, QueuePolicy(max_requests=4), learned(0, 0.5))
    refused = scheduler.offer(Request(0.0), 0.0)
    assert refused.refusal is Refusal.QUEUE_FULL
    assert refused.retry_after_s == pytest.approx(1.0)  # what runs, and one batch


def test_a_full_queue_evicts_the_last_of_the_lowest_priority_for_a_higher_one():
    scheduler = loaded_queue(4, QueuePolicy(max_requests=4), learned(0, 0.5))
    assert scheduler.offer(Request(0.0, priority=1), 0.0) is None
    ((victim, refusal),) = scheduler.dropped
    assert (victim.priority, refusal) == (0, Refusal.EVICTED)
    assert scheduler.held == 4
    assert scheduler.offer(Request(0.0, priority=2), 0.0).refusal is Refusal.QUEUE_FULL


def test_a_request_that_cannot_start_before_its_own_deadline_is_refused_at_once():
    scheduler = loaded_queue(0, QueuePolicy(), learned(0, 0.05))
    refused = scheduler.offer(Request(0.0, timeout_s=0.005), 0.0)
    assert refused.refusal is Refusal.WAIT_TOO_LONG
    assert refused.retry_after_s == pytest.approx(0.045, rel=0.01)
    assert scheduler.offer(Request(0.0, timeout_s=0.1), 0.0) is None


def test_a_request_that_cannot_end_within_the_slo_is_refused_unless_it_fits_the_next_batch():
    slow = loaded_queue(4, QueuePolicy(slo_ms=100), learned(0, 0.05))
    assert slow.offer(Request(0.0), 0.0).refusal is Refusal.WAIT_TOO_LONG
    never = loaded_queue(0, QueuePolicy(slo_ms=10), learned(0, 0.05))
    assert never.offer(Request(0.0), 0.0) is None


def test_nothing_is_refused_by_prediction_while_nothing_runs():
    """A wrong prediction must not shut a model off from the execution that would correct it."""
    scheduler = Scheduler(Batching(4), QueuePolicy(slo_ms=10), learned(0, 100.0))
    assert scheduler.offer(Request(0.0, timeout_s=0.001), 0.0) is None


def test_before_anything_is_learned_only_a_bounded_number_of_rows_waits():
    scheduler = Scheduler(Batching(4), QueuePolicy(max_requests=10**6, slo_ms=1), LatencyModel())
    admitted = sum(scheduler.offer(Request(0.0), 0.0) is None for _ in range(2 * TRAINING_ROWS))
    assert admitted == TRAINING_ROWS


def test_while_no_slot_is_left_requests_wait_or_are_refused():
    """A hung execution was given up, and its instance is not back yet."""
    scheduler = Scheduler(Batching(4), QueuePolicy(max_requests=16), learned(0.001, 0.01), slots=0)
    answers = [scheduler.offer(Request(0.0), 0.0) for _ in range(20)]
    assert [a for a in answers if a is not None and a.refusal is Refusal.QUEUE_FULL] == answers[16:]
    assert scheduler.next(0.0) is None


def test_an_slo_that_cannot_be_kept_still_answers_who_need_not_queue():
    scheduler = Scheduler(Batching(4), QueuePolicy(slo_ms=0.001), learned(0.0, 0.02))
    assert scheduler.offer(Request(0.0), 0.0) is None
    assert isinstance(scheduler.next(0.005), Batch)
    assert not scheduler.dropped


def test_a_pause_after_clients_left_is_not_taken_for_slowness():
    scheduler = Scheduler(Batching(1), QueuePolicy(max_wait_s=1.0), learned(0.0, 0.01))
    first, left = Request(0.0), Request(0.0)
    assert scheduler.offer(first, 0.0) is None
    assert scheduler.offer(left, 0.0) is None
    batch = scheduler.next(0.0)
    left.cancelled = True
    scheduler.finished(batch, 0.01)
    scheduler.expire(0.02)
    for i in range(50):  # ten minutes later
        assert scheduler.offer(Request(600.0), 600.0) is None, i
        if i == 0:
            assert isinstance(scheduler.next(600.0), Batch)


def test_a_thousand_shapes_whose_clients_all_left_are_dropped_at_once():
    scheduler = Scheduler(Batching(2000), QueuePolicy(max_requests=2000), learned(1e-6, 1e-6), row_cost=lambda key: key)
    requests = [Request(0.0, shape_key=i + 1, cancelled=True) for i in range(1500)]
    for request in requests:
        assert scheduler.offer(request, 0.0) is None
    alive = Request(0.0, shape_key=2000)
    assert scheduler.offer(alive, 0.0) is None
    batch = scheduler.next(1.0)
    assert isinstance(batch, Batch)
    assert batch.items == [alive]
    assert (scheduler.held, scheduler.rows, scheduler.units) == (0, 0, 0)


def test_a_high_priority_request_does_not_wait_behind_the_low_ones_predictions():
    scheduler = loaded_queue(20, QueuePolicy(max_wait_s=0.26), learned(0, 0.05))
    assert scheduler.offer(Request(0.0, priority=2), 0.0).refusal is Refusal.WAIT_TOO_LONG
    assert scheduler.offer(Request(0.0, priority=1), 0.0) is None


def test_an_overdue_execution_is_expected_to_take_as_long_again_as_it_is_late():
    scheduler = loaded_queue(0, QueuePolicy(), learned(0, 0.05))
    assert scheduler.free_in_s(0.02) == pytest.approx(0.03, rel=0.01)
    assert scheduler.free_in_s(5.05) == pytest.approx(5.0, rel=0.01)


@pytest.mark.parametrize("times", [2, 5, 10])
def test_overload_leaves_goodput_at_capacity_and_keeps_the_slo(times):
    """Model of 20 ms per batch of 8: 400 requests/s. SLO 500 ms, as in the overload bench."""
    scheduler = Scheduler(Batching(8), QueuePolicy(slo_ms=500), learned(0, 0.02))
    run = simulate(scheduler, steady(400 * times, 5), lambda batch: 0.02)
    latencies = sorted(r.ended - r.received for r in run.done)
    good = sum(latency <= 0.5 for latency in latencies)
    assert good >= 0.98 * 400 * 5
    assert latencies[-1] <= 0.5 * (SLO_SHARE + 0.1)
    assert not run.dropped


def test_a_flood_of_low_priority_does_not_take_the_high_ones_success():
    """T19: ten times more low than high."""
    flood = steady(4000, 3, seed=1, priority=2)
    high = steady(200, 3, seed=2, priority=1)
    scheduler = Scheduler(Batching(8), QueuePolicy(slo_ms=500), learned(0, 0.02))
    run = simulate(scheduler, [*flood, *high], lambda batch: 0.02)
    good = sum(r.ended is not None and r.ended - r.received <= 0.5 for r in high)
    assert good >= 0.99 * len(high)
    low = sum(r.priority == 2 and r.ended <= 3 for r in run.done)
    assert low >= 0.9 * (3 * 400 - len(high))  # what is left is theirs
    assert len(run.dropped) <= 0.1 * low  # and those that will not get it are told at once


def test_a_model_that_becomes_slow_is_back_within_its_slo_soon():
    def seconds(batch):
        return 0.02 if batch.started < 2 else 0.1

    scheduler = Scheduler(Batching(8), QueuePolicy(slo_ms=500), learned(0, 0.02))
    run = simulate(scheduler, steady(1000, 6), seconds)
    late = [r for r in run.done if r.received > 3 and r.ended - r.received > 0.6]
    assert not late
    assert sum(r.received > 3 for r in run.done) >= 0.9 * 80 * 2.5


# --- waiting


def test_greedy_by_default():
    scheduler = Scheduler(Batching(32), QueuePolicy(), learned(0.001, 0.02))
    scheduler.offer(Request(0.0), 0.0)
    assert isinstance(scheduler.next(0.0), Batch)


def test_with_a_delay_the_oldest_request_decides_and_a_full_batch_never_waits():
    scheduler = Scheduler(Batching(3, 2000), QueuePolicy(), learned(0, 1e-5))
    scheduler.offer(Request(10.0), 10.0)
    assert scheduler.next(10.0) == pytest.approx(10.002)
    scheduler.offer(Request(10.001), 10.001)
    assert scheduler.next(10.001) == pytest.approx(10.002)
    scheduler.offer(Request(10.0015), 10.0015)
    assert scheduler.next(10.0015).rows == 3


def test_the_delay_ends_before_a_deadline_does():
    scheduler = Scheduler(Batching(3, 2_000_000), QueuePolicy(), learned(0, 0.01))
    scheduler.offer(Request(0.0, timeout_s=0.1), 0.0)
    assert scheduler.next(0.0) == pytest.approx(0.09, rel=0.01)


@pytest.mark.parametrize("shape", ["s", "another"])
def test_a_request_of_higher_priority_does_not_restart_the_delay_of_those_that_wait(shape):
    scheduler = Scheduler(Batching(8, 10_000), QueuePolicy(), learned(0, 1e-4))
    low, high = Request(0.0, priority=2), Request(0.009, priority=1, shape_key=shape)
    scheduler.offer(low, 0.0)
    assert scheduler.next(0.0) == pytest.approx(0.010)
    scheduler.offer(high, 0.009)
    assert scheduler.next(0.009) == pytest.approx(0.010)
    first = scheduler.next(0.010)
    assert first.items[0] is high  # the order of priorities stays
    scheduler.finished(first, 0.0101)
    ran = first.items if shape == "s" else scheduler.next(0.0101).items
    assert low in ran


@pytest.mark.parametrize("shape", ["s", "another"])
def test_a_delay_of_higher_priority_does_not_outlast_a_lower_ones_deadline(shape):
    scheduler = Scheduler(Batching(8, 2_000_000), QueuePolicy(), learned(0, 0.01))
    low, high = Request(0.0, priority=2, timeout_s=0.1), Request(0.0, priority=1, shape_key=shape)
    scheduler.offer(low, 0.0)
    scheduler.offer(high, 0.0)
    now = scheduler.next(0.0)
    assert now == pytest.approx(0.09 if shape == "s" else 0.08, rel=0.01)
    done = []
    while low not in done:
        step = scheduler.next(now)
        if isinstance(step, float):
            now = step
            continue
        done += step.items
        now += 0.0099
        scheduler.finished(step, now)
    assert not scheduler.dropped


def served(policy: QueuePolicy, rate: float, a: float, b: float) -> tuple[float, int]:
    """Mean latency and number of batches at a rate."""
    scheduler = Scheduler(Batching(32), policy, learned(a, b))
    run = simulate(scheduler, steady(rate, 20), lambda batch: a * batch.units + b)
    return sum(r.ended - r.received for r in run.done) / len(run.done), len(run.batches)


@pytest.mark.parametrize("rate", [5, 40, 100, 200, 400, 1000])
@pytest.mark.parametrize(("a", "b"), [(0.0, 0.02), (0.0005, 0.015), (0.004, 0.001)])
def test_waiting_under_an_slo_never_costs_much_latency(rate, a, b):
    if rate * a > 0.9:
        pytest.skip("beyond capacity")
    greedy, batches = served(QueuePolicy(), rate, a, b)
    adaptive, fewer = served(QueuePolicy(slo_ms=500), rate, a, b)
    assert adaptive <= 1.05 * greedy
    assert fewer <= batches * 1.01


def test_a_slot_does_not_wait_while_lower_priorities_could_fill_the_batch():
    scheduler = Scheduler(Batching(4), QueuePolicy(slo_ms=500), learned(0.0, 0.02))
    for number in range(50):
        scheduler.arrivals.observe(number * 1e-4)
    now = 0.005
    for priority in (2, 2, 2, 1):
        scheduler.offer(Request(now, priority=priority), now)
    assert scheduler.next(now).rows == 4


def test_a_single_closed_loop_client_never_waits():
    scheduler = Scheduler(Batching(32), QueuePolicy(slo_ms=500), learned(0.001, 0.02))
    now = 0.0
    for _ in range(200):
        scheduler.offer(Request(now), now)
        batch = scheduler.next(now)
        assert isinstance(batch, Batch)
        now += 0.021
        scheduler.finished(batch, now)


def test_an_arrival_process_that_stopped_is_not_waited_for():
    scheduler = Scheduler(Batching(32), QueuePolicy(slo_ms=500), learned(0.0, 0.02))
    now = 0.0
    for _ in range(100):
        now += 0.001
        scheduler.offer(Request(now), now)
        if isinstance(batch := scheduler.next(now), Batch):
            scheduler.finished(batch, now)
    scheduler.offer(Request(now), now)
    step = scheduler.next(now)
    assert isinstance(step, float)
    assert isinstance(scheduler.next(step), Batch)
    assert step - now < 0.005
