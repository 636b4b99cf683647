"""Percentiles, intervals, rates: checked against distributions whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.profile.samples import OK, TIMED_OUT
from modelyard.profile.statistics import (
    REQUESTS_FOR_P99,
    REQUESTS_FOR_P999,
    latency_interval,
    log_interval,
    mean_in_flight,
    percentile,
    settled,
    summarise,
)
from tests.unit.profile.builders import block, queue_block

FLOATS = st.floats(1e-3, 1e6, allow_nan=False)


@given(st.lists(FLOATS, min_size=1, max_size=200), st.floats(0.001, 1.0))
def test_a_percentile_is_the_smallest_observed_value_not_exceeded_by_that_share(values, share):
    array = np.array(values)
    found = percentile(array, share)
    assert found in values
    assert (array <= found).mean() >= share - 1e-9
    assert (array < found).mean() < share + 1e-9


@given(st.lists(FLOATS, min_size=2, max_size=10), st.floats(1e-3, 1e3))
def test_a_log_interval_holds_its_centre_and_scales_with_the_unit(values, unit):
    interval = log_interval(values)
    scaled = log_interval([value * unit for value in values])
    assert interval.low <= interval.value <= interval.high
    assert scaled.low == pytest.approx(interval.low * unit, rel=1e-6)
    assert scaled.high == pytest.approx(interval.high * unit, rel=1e-6)


def test_a_log_interval_is_the_t_interval_of_the_logarithms():
    interval = log_interval([1.0, math.e, math.e**2])
    half = 4.302653 * 1.0 / math.sqrt(3)  # t(0.975, 2 degrees of freedom), standard deviation 1
    assert interval.value == pytest.approx(math.e)
    assert math.log(interval.high) - 1 == pytest.approx(half, rel=1e-5)
    assert 1 - math.log(interval.low) == pytest.approx(half, rel=1e-5)


@given(st.lists(st.lists(st.floats(0.0, 9.0), min_size=1, max_size=30), min_size=2, max_size=4), st.floats(0.05, 0.99))
def test_a_latency_is_never_below_the_fastest_request_however_far_blocks_lie_apart(blocks, share):
    seconds = [np.array(latencies) for latencies in blocks]
    found = latency_interval([block(np.zeros(len(s)), s) for s in seconds], share, 10.0)
    if found.low is not None:
        fastest_ms = 1e3 * min(float(s.min()) for s in seconds)
        assert max(0.0, fastest_ms - 1e-6) <= found.low <= found.value <= found.high <= 10_000 + 1e-6


@pytest.mark.parametrize("values", [[], [3.0], [0.0, 1.0, 2.0]])
def test_no_interval_from_one_block_or_from_zero(values):
    interval = log_interval(values)
    assert interval.low is None
    assert interval.high is None


def test_the_sample_sizes_for_p99_and_p999_follow_from_the_binomial():
    assert 0.99**REQUESTS_FOR_P99 <= 0.01 < 0.99 ** (REQUESTS_FOR_P99 - 1)
    assert 0.999**REQUESTS_FOR_P999 <= 0.01 < 0.999 ** (REQUESTS_FOR_P999 - 1)


@pytest.mark.parametrize(("share", "at_least"), [(0.5, 0.90), (0.99, 0.87)])
def test_intervals_cover_the_known_percentiles_of_an_mm1_queue(share, at_least):
    """M/M/1: sojourn times are exponential with rate mu - lambda."""
    mu, utilisation, runs = 1000.0, 0.5, 120
    truth_ms = -math.log(1 - share) / (mu * (1 - utilisation)) * 1e3
    covered = 0
    for run in range(runs):
        rng = np.random.default_rng(run)
        blocks = [queue_block(mu * utilisation, rng.exponential(1 / mu, 1000), rng, number=k) for k in range(5)]
        interval = latency_interval(blocks, share, timeout_s=10)
        covered += interval.low <= truth_ms <= interval.high
    assert at_least <= covered / runs <= 1.0


def test_an_interval_ends_at_the_fastest_request_and_at_the_timeout():
    """Two blocks of three answer at once, one times out: the bounds of the logarithm alone are beyond reason."""
    scheduled = np.arange(200) * 0.01
    lost = np.full(200, TIMED_OUT, np.int16)
    blocks = [block(scheduled, scheduled + 0.001, number=k) for k in range(2)]
    blocks.append(block(scheduled, scheduled + 2.0, number=2, status=lost))
    found = latency_interval(blocks, 0.99, timeout_s=2.0)
    assert found.low == pytest.approx(1.0)
    assert found.high == pytest.approx(2000.0)


def test_a_failed_request_counts_as_a_full_timeout():
    scheduled = np.arange(100) * 0.01
    status = np.full(100, OK, np.int16)
    status[:3] = 429  # refused within a millisecond
    summary = summarise(block(scheduled, scheduled + 0.001, status=status), open_loop=True, timeout_s=2.0)
    assert summary.p95_ms == pytest.approx(1.0)
    assert summary.p99_ms == pytest.approx(2000.0)
    assert summary.ok == 97


def test_a_timeout_longer_than_the_limit_keeps_its_own_time():
    scheduled = np.zeros(1)
    samples = block(scheduled, scheduled + 5.0, status=np.array([TIMED_OUT], np.int16))
    assert samples.latencies_ms(2.0)[0] == pytest.approx(5000.0)


def test_latency_counts_from_the_schedule_and_the_lag_is_kept():
    scheduled = np.arange(10) * 0.1
    samples = block(scheduled, scheduled + 0.01, lag_s=0.02)
    assert samples.latencies_ms(1.0) == pytest.approx(np.full(10, 30.0))


def test_a_service_that_keeps_up_delivers_what_is_offered():
    scheduled = np.arange(1000) * 0.005
    summary = summarise(block(scheduled, scheduled + 0.05), open_loop=True, timeout_s=10)
    assert summary.offered_rps == pytest.approx(200)
    assert summary.throughput_rps == pytest.approx(200, rel=0.002)
    assert summary.completed_ratio == 1.0
    assert summary.p99_growth == pytest.approx(1.0)


def test_an_overloaded_service_delivers_its_capacity():
    rng = np.random.default_rng(0)
    summary = summarise(queue_block(1500, np.full(2000, 1e-3), rng), open_loop=True, timeout_s=10)
    assert summary.throughput_rps == pytest.approx(1000, rel=0.01)
    assert summary.completed_ratio < 0.9
    assert summary.p99_growth > 1.5
    assert summary.in_flight_growth > 1.5


def test_refusals_are_not_throughput():
    scheduled = np.arange(1000) * 0.01
    status = np.where(np.arange(1000) % 2, np.int16(OK), np.int16(429)).astype(np.int16)
    summary = summarise(block(scheduled, scheduled + 0.001, status=status), open_loop=True, timeout_s=1)
    assert summary.throughput_rps == pytest.approx(50, rel=0.01)
    assert summary.completed_ratio == pytest.approx(0.5)


@given(st.integers(1, 16), st.floats(0.001, 0.1))
def test_littles_law_holds_in_a_perfect_closed_loop(concurrency, service_s):
    starts = np.repeat(np.arange(40) * service_s, concurrency)
    summary = summarise(block(starts, starts + service_s), open_loop=False, timeout_s=10)
    assert summary.in_flight == pytest.approx(concurrency, rel=0.03)


def test_mean_in_flight_is_the_time_average():
    samples = block(np.array([0.0, 1.0]), np.array([2.0, 2.0]))
    assert mean_in_flight(samples, 0.0, 2.0) == pytest.approx(1.5)
    assert mean_in_flight(samples, 2.0, 2.0) == 0.0


@pytest.mark.parametrize(
    ("p50s", "expected"), [([], False), ([1.0], False), ([1.0, 1.04], True), ([1.0, 1.06], False), ([9, 1, 1.01], True)]
)
def test_warm_up_has_settled_when_two_blocks_in_a_row_agree(p50s, expected):
    assert settled(p50s) is expected
