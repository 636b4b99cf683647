"""The batching policy as a pure function of state and clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.domain.batching import ADMITTED, LatencyModel, Refusal, admit, drain_s, joins, wait_s
from modelyard.domain.configuration import Batching, QueuePolicy


def model(a: float, b: float) -> LatencyModel:
    cost = LatencyModel()
    for rows in (1, 2, 4, 8) * 20:
        cost.observe(rows, a * rows + b)
    return cost


def test_without_a_delay_a_free_slot_never_waits():
    assert wait_s(Batching(32, 0), 1, 100.0, 100.0) == 0.0


def test_with_a_delay_the_oldest_request_decides():
    batching = Batching(32, 2000)
    assert wait_s(batching, 5, 10.0, 10.0005) == pytest.approx(0.0015)
    assert wait_s(batching, 5, 10.0, 10.002001) == 0.0


def test_a_full_batch_never_waits():
    assert wait_s(Batching(4, 10**6), 4, 10.0, 10.0) == 0.0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 8))
def test_a_batch_is_the_longest_head_that_fits(rows, size):
    batch = 0
    taken = []
    while len(taken) < len(rows) and joins(Batching(size), batch, rows[len(taken)]):
        batch += rows[len(taken)]
        taken.append(rows[len(taken)])
    assert taken
    assert batch <= size or len(taken) == 1
    assert len(taken) == len(rows) or batch + rows[len(taken)] > size


def test_the_line_is_learned():
    cost = model(0.002, 0.01)
    assert cost.predict(100) == pytest.approx(0.21, rel=1e-3)


def test_a_slowed_down_model_is_noticed_within_a_few_dozen_batches():
    cost = model(0.0, 0.001)
    for _ in range(200):
        cost.observe(4, 0.1)
    assert cost.predict(4) == pytest.approx(0.1, rel=0.1)


def test_one_observed_size_predicts_larger_ones_in_proportion_and_smaller_ones_not_below():
    cost = LatencyModel()
    cost.observe(4, 0.1)
    assert cost.predict(8) == pytest.approx(0.2)
    assert cost.predict(1) == pytest.approx(0.1)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 10)), min_size=1, max_size=100), st.integers(1, 128))
def test_predictions_are_never_negative(seen, rows):
    cost = LatencyModel()
    for n, seconds in seen:
        cost.observe(n, seconds)
    assert cost.predict(rows) >= 0.0


def test_a_full_queue_refuses_with_the_time_it_needs_to_drain():
    answer = admit(QueuePolicy(max_requests=4), Batching(2), model(0.0, 0.5), 4, 4, 10.0)
    assert answer.refusal is Refusal.QUEUE_FULL
    assert answer.retry_after_s == pytest.approx(drain_s(Batching(2), model(0.0, 0.5), 4))


def test_a_wait_beyond_the_limit_is_refused_at_once():
    answer = admit(QueuePolicy(), Batching(2), model(0.0, 0.5), 40, 40, 3.0)
    assert answer.refusal is Refusal.WAIT_TOO_LONG
    assert answer.retry_after_s == pytest.approx(7.0, rel=0.01)


def test_a_short_queue_admits():
    assert admit(QueuePolicy(), Batching(8), model(0.0, 0.5), 3, 3, 10.0) is ADMITTED
