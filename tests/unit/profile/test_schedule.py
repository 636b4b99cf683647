"""Schedules come from the seed alone and have the rate and process that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.domain.workload import Arrival, Workload
from modelyard.profile.schedule import draw


@given(st.integers(0, 2**31), st.integers(-5, 50), st.floats(1, 1e5))
def test_the_same_seed_and_block_give_the_same_schedule(seed, number, rate):
    work = Workload(Arrival.POISSON, rate_rps=rate, requests=50, seed=seed)
    a, b = draw(work, number, 7), draw(work, number, 7)
    assert np.array_equal(a.times_s, b.times_s)
    assert np.array_equal(a.payloads, b.payloads)
    assert (np.diff(a.times_s) >= 0).all()
    assert a.times_s[0] == 0
    assert a.payloads.min() >= 0
    assert a.payloads.max() < 7
    assert a.requests == len(a.times_s)


def test_blocks_and_seeds_differ():
    work = Workload(Arrival.POISSON, rate_rps=100, requests=50, seed=1)
    other = Workload(Arrival.POISSON, rate_rps=100, requests=50, seed=2)
    first = draw(work, 0, 9)
    assert not np.array_equal(first.times_s, draw(work, 1, 9).times_s)
    assert not np.array_equal(first.times_s, draw(other, 0, 9).times_s)
    assert not np.array_equal(draw(work, -1, 9).times_s, draw(work, 1, 9).times_s)


def test_poisson_gaps_are_exponential_at_the_rate():
    gaps = np.diff(draw(Workload(Arrival.POISSON, rate_rps=500, requests=20_000, duration_s=1e3), 0, 1).times_s)
    assert gaps.mean() == pytest.approx(1 / 500, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 500, rel=0.05)
    assert (gaps > 2 / 500).mean() == pytest.approx(np.exp(-2), rel=0.05)


@given(st.integers(0, 2**31), st.integers(0, 50), st.integers(2, 2000), st.floats(0.5, 1e5))
def test_every_block_of_every_seed_offers_exactly_the_rate(seed, number, requests, rate):
    work = Workload(Arrival.POISSON, rate_rps=rate, requests=requests, duration_s=5.0, seed=seed)
    times = draw(work, number, 3).times_s
    assert len(times) == pytest.approx(min(requests, rate * 5.0), abs=1)
    assert (len(times) - 1) / rate == pytest.approx(times[-1])
    assert times[-1] <= 5.0


def test_gaps_of_a_short_block_keep_their_spread():
    spreads = []
    for number in range(400):
        gaps = np.diff(draw(Workload(Arrival.POISSON, rate_rps=100, requests=50), number, 1).times_s)
        assert gaps.mean() == pytest.approx(0.01)
        spreads.append(gaps.var() / gaps.mean() ** 2)
    assert np.sqrt(np.mean(spreads)) == pytest.approx(np.sqrt(48 / 50), rel=0.03)


def test_constant_gaps_are_equal():
    gaps = np.diff(draw(Workload(Arrival.CONSTANT, rate_rps=50, requests=100), 0, 1).times_s)
    assert gaps == pytest.approx(np.full(99, 0.02))


def test_a_block_ends_with_its_duration_but_has_a_request():
    short = draw(Workload(Arrival.CONSTANT, rate_rps=100, requests=1000, duration_s=0.5), 0, 1)
    assert short.requests == 50
    tiny = draw(Workload(Arrival.CONSTANT, rate_rps=100, requests=1000, duration_s=1e-6), 0, 1)
    assert tiny.requests == 1


def test_a_closed_loop_has_an_order_but_no_times():
    schedule = draw(Workload(Arrival.CLOSED, concurrency=4, requests=30), 0, 5)
    assert schedule.times_s is None
    assert schedule.requests == 30


@pytest.mark.parametrize("cv", [0.3, 2.0, 5.0])
def test_gamma_gaps_have_the_asked_spread_at_exactly_the_rate(cv):
    """A block of n gaps normalised to its span has sqrt((n - 1) / (n + cv^2)) of the asked spread."""
    squares = []
    for number in range(100):
        times = draw(Workload(Arrival.GAMMA, rate_rps=100, cv=cv, requests=1001), number, 1).times_s
        assert (len(times) - 1) / 100 == pytest.approx(times[-1])
        gaps = np.diff(times)
        squares.append(gaps.var() / gaps.mean() ** 2)
    assert np.sqrt(np.mean(squares)) == pytest.approx(cv * np.sqrt(999 / (1000 + cv**2)), rel=0.06)


@given(st.integers(0, 2**31), st.floats(0.05, 10), st.integers(1, 300))
def test_gamma_schedules_are_sound_for_any_spread(seed, cv, requests):
    work = Workload(Arrival.GAMMA, rate_rps=50, cv=cv, requests=requests, seed=seed)
    times = draw(work, 0, 3).times_s
    assert len(times) == requests
    assert np.isfinite(times).all()
    assert (np.diff(times) >= 0).all()
    assert np.array_equal(times, draw(work, 0, 3).times_s)


@pytest.mark.parametrize(("start", "end"), [(50.0, 400.0), (400.0, 50.0), (100.0, 100.0)])
def test_a_ramp_goes_through_its_rates_linearly(start, end):
    """The expected number until a share u of the block is the integral of the rate: known truth."""
    counts = []
    for number in range(50):
        times = draw(Workload(Arrival.RAMP, rate_rps=start, end_rate_rps=end, requests=2000), number, 1).times_s
        assert len(times) == 2000
        assert times[-1] == pytest.approx(1999 / ((start + end) / 2))
        counts.append(np.histogram(times, np.linspace(0, times[-1], 5))[0])
    edges = np.linspace(0, 1, 5)
    reached = (start * edges + (end - start) * edges**2 / 2) / ((start + end) / 2)
    assert np.mean(counts, axis=0) == pytest.approx(np.diff(reached) * 2000, rel=0.04)


def test_a_ramp_that_ends_with_its_time_has_seen_the_whole_ramp():
    times = draw(Workload(Arrival.RAMP, rate_rps=50, end_rate_rps=150, requests=10_000, duration_s=4.0), 0, 1).times_s
    assert len(times) == 400
    assert times[-1] == pytest.approx(3.99)
