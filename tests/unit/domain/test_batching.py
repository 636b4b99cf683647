"""What a batch costs and holds: the learned line, units of ragged rows, whether waiting pays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.domain.batching import Arrivals, LatencyModel, RowCost, most_rows, waiting_pays
from modelyard.domain.configuration import Batching
from modelyard.domain.tensors import Datatype, Signature, TensorSpec


def model(a: float, b: float) -> LatencyModel:
    cost = LatencyModel()
    for rows in (1, 2, 4, 8) * 20:
        cost.observe(rows, a * rows + b)
    return cost


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


def test_one_stall_does_not_make_a_model_look_slow():
    cost = model(0.0, 0.001)
    cost.observe(4, 5.0)
    assert cost.predict(4) < 0.002


def signature(*shapes):
    inputs = tuple(TensorSpec(f"x{i}", Datatype.INT64, shape) for i, shape in enumerate(shapes))
    return Signature(inputs, (TensorSpec("y", Datatype.FP32, ("batch", 2)),))


def test_a_row_costs_each_varying_dimension_once():
    cost = RowCost(signature(("batch", "tokens"), ("batch", "tokens"), ("batch", 7, "frames")))
    assert cost.varies
    assert cost(((12,), (12,), (7, 5))) == 60


def test_a_row_of_fixed_dimensions_costs_one():
    cost = RowCost(signature(("batch", 3, 32, 32)))
    assert not cost.varies
    assert cost(((3, 32, 32),)) == 1


def test_a_full_batch_is_bounded_by_rows_and_by_cost_and_never_empty():
    assert most_rows(Batching(8), 100) == 8
    assert most_rows(Batching(8, max_cost=300), 100) == 3
    assert most_rows(Batching(8, max_cost=300), 1000) == 1


def test_arrivals_learn_the_mean_gap_and_forget_a_pause():
    arrivals = Arrivals()
    now = 0.0
    for _ in range(200):
        now += 0.01
        arrivals.observe(now)
    assert arrivals.gap_s == pytest.approx(0.01, rel=0.01)
    arrivals.observe(now + 3600)
    assert arrivals.gap_s < 0.1


def test_waiting_pays_only_while_the_gap_is_short_against_the_fixed_cost():
    assert waiting_pays(1, 0.0025, 0.02)
    assert not waiting_pays(7, 0.0025, 0.02)
    assert not waiting_pays(1, 0.02, 0.02)  # one closed-loop client: its gap is at least the execution
    assert not waiting_pays(1, 0.001, 0.0)
