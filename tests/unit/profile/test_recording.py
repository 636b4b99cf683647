"""Replaying a recording: its own bursts, thinned and never stretched, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.domain.workload import Arrival, Trace, Workload
from modelyard.profile.recording import Recording, kept, path_of, uneven_steps
from modelyard.profile.schedule import draw

INSTANTS = Recording(np.sort(np.random.default_rng(3).uniform(0, 100, 5000)) - 0.0)
COUNTS = Recording(np.array([600.0, 0.0, 60.0, 1200.0]), 60.0)


def work(recording, *, start_s=0.0, scale=1.0, duration_s=30.0, requests=100_000, cv=None, seed=0):
    trace = Trace(recording.digest, start_s, scale)
    rate = recording.rate_rps(start_s, duration_s) * scale
    return Workload(
        Arrival.TRACE, rate_rps=rate, trace=trace, duration_s=duration_s, requests=requests, cv=cv, seed=seed
    )


def test_recorded_instants_come_back_as_they_were_in_every_block():
    load = work(INSTANTS, start_s=20.0)
    recorded = INSTANTS.values[(INSTANTS.values >= 20) & (INSTANTS.values < 50)]
    for number in (0, 1, -2):
        schedule = draw(load, number, 7, INSTANTS)
        assert schedule.times_s == pytest.approx(recorded - recorded[0])
    assert not np.array_equal(draw(load, 0, 7, INSTANTS).payloads, draw(load, 1, 7, INSTANTS).payloads)


@given(st.floats(0.01, 1.0), st.integers(0, 9))
def test_thinning_takes_recorded_requests_and_exactly_the_asked_share(scale, seed):
    times = draw(work(INSTANTS, scale=scale, seed=seed), 0, 3, INSTANTS).times_s
    recorded = INSTANTS.values[INSTANTS.values < 30]
    assert len(times) == max(1, round(len(recorded) * scale))
    assert times[0] == 0
    assert (np.diff(times) >= 0).all()
    again = draw(work(INSTANTS, scale=scale, seed=seed), 0, 3, INSTANTS).times_s
    assert np.array_equal(times, again)
    offset = recorded[np.searchsorted(recorded, recorded[0])]  # the block begins with the first request that was kept
    if scale == 1.0:
        assert times == pytest.approx(recorded - offset)


def test_thinned_blocks_differ_and_time_is_not_stretched():
    load = work(INSTANTS, scale=0.3)
    a, b = (draw(load, number, 3, INSTANTS).times_s for number in (0, 1))
    assert not np.array_equal(a, b)
    assert len(a) == len(b)
    assert 29 < a[-1] < 30


def test_a_block_ends_with_its_requests_or_its_time():
    assert draw(work(INSTANTS, requests=100), 0, 3, INSTANTS).requests == 100
    assert draw(work(INSTANTS, duration_s=1.0), 0, 3, INSTANTS).times_s[-1] < 1.0
    quiet = Recording(np.array([0.0, 50.0, 51.0]))
    early = Workload(Arrival.TRACE, rate_rps=1, trace=Trace(quiet.digest, 10.0), duration_s=1.0)
    assert draw(early, 0, 3, quiet).times_s.tolist() == [0.0]  # nothing in that second, but a block has a request


@pytest.mark.parametrize("cv", [None, 0.5, 3.0])
def test_counts_come_back_per_interval_whatever_the_spread_within(cv):
    times = draw(work(COUNTS, duration_s=240.0, cv=cv), 0, 3, COUNTS).times_s
    assert len(times) == 1860
    # the first request opens the block, so intervals begin that much earlier
    gap = float(draw(work(COUNTS, duration_s=240.0, cv=cv), 0, 3, COUNTS).times_s[0])
    assert gap == 0
    offsets = np.histogram(times, [0, 60, 120, 180, 240])[0]
    assert offsets == pytest.approx([600, 0, 60, 1200], abs=30 if cv == 3.0 else 12)


def test_a_part_of_an_interval_has_its_part_of_the_requests_in_every_block():
    for number in range(20):
        assert draw(work(COUNTS, start_s=12.0, duration_s=3.0), number, 3, COUNTS).requests == 30
        assert draw(work(COUNTS, start_s=54.0, duration_s=72.0, scale=0.5), number, 3, COUNTS).requests == 33


def test_counts_scale_both_ways_and_keep_the_whole():
    for scale, whole in ((0.5, 930), (3.0, 5580), (1 / 7, 266)):
        assert draw(work(COUNTS, duration_s=240.0, scale=scale), 0, 3, COUNTS).requests == whole


def test_gaps_within_an_interval_have_the_asked_spread():
    busy = Recording(np.array([20_000.0]), 60.0)
    for cv in (0.5, 1.0, 4.0):
        gaps = np.diff(draw(work(busy, duration_s=60.0, cv=cv), 0, 3, busy).times_s)
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


def test_the_rate_is_that_of_the_part():
    assert Recording(np.arange(11.0)).rate_rps(0, 100) == pytest.approx(1.0)
    assert COUNTS.rate_rps(0, 60) == pytest.approx(10)
    assert COUNTS.rate_rps(30, 60) == pytest.approx(5)
    assert COUNTS.rate_rps(0, 1e9) == pytest.approx(1860 / 240)
    for start_s in (60.0, 240.0, 500.0):
        with pytest.raises(InvalidInput) as caught:
            COUNTS.rate_rps(start_s, 60)
        assert caught.value.what


def test_a_recording_is_kept_under_its_digest(tmp_path):
    for found in (INSTANTS, COUNTS):
        digest = found.save(tmp_path / "traces")
        assert Recording.load(path_of(tmp_path / "traces", digest)).digest == digest
        assert kept(tmp_path / "traces", digest[:12]).requests == found.requests
    assert kept(tmp_path / "traces", "0" * 12) is None
    assert kept(tmp_path / "traces", "trace.csv") is None
    assert kept(tmp_path / "traces", INSTANTS.digest[:4]) is None
    (tmp_path / "traces" / f"{INSTANTS.digest[:12]}0.npz").touch()
    with pytest.raises(InvalidInput):
        kept(tmp_path / "traces", INSTANTS.digest[:12])


def test_what_is_not_there_or_broken_is_told(tmp_path):
    with pytest.raises(NotFound):
        Recording.load(tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(b"no zip")
    with pytest.raises(InvalidInput):
        Recording.load(tmp_path / "x.npz")
    with pytest.raises(InvalidInput):
        draw(work(INSTANTS), 0, 3)  # its recording was not given
    with pytest.raises(InvalidInput):
        Recording(np.zeros(3), 60.0)


def test_other_content_is_another_trace():
    same = Recording(COUNTS.values.copy(), 60.0)
    assert same.digest == COUNTS.digest
    assert Recording(COUNTS.values, 1.0).digest != COUNTS.digest
    assert Recording(COUNTS.values + 1, 60.0).digest != COUNTS.digest
    assert Recording(np.array([600.0])).digest != Recording(np.array([600.0]), 60.0).digest


@given(st.integers(1, 200), st.floats(0.05, 10), st.integers(0, 2**32 - 1))
def test_steps_of_any_spread_are_a_division_of_one(count, cv, seed):
    steps = uneven_steps(count, cv, np.random.default_rng(seed))
    assert steps.sum() == pytest.approx(1)
    assert (steps >= 0).all()
    assert np.isfinite(steps).all()
