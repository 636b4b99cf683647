"""LoadGen's early stopping: how many queries certify a percentile, and which latency they certify."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.domain.measurement import EarlyStopping
from modelyard.profile.early_stopping import overs_allowed, percentile_estimate, queries_needed
from modelyard.profile.scenarios import early_stopping


@pytest.mark.parametrize(
    ("confidence", "needed"),
    [(0.99, (459, 662, 838, 1307, 2010)), (0.95, (299, 473, 628, 1049, 1693))],
)
def test_queries_needed_are_those_of_the_published_table(confidence, needed):
    """The table of the MLPerf inference rules for p99, with 0, 1, 2, 5 and 10 queries over the limit."""
    assert tuple(queries_needed(over, 0.99, confidence) for over in (0, 1, 2, 5, 10)) == needed


def test_a_p90_takes_the_64_queries_of_the_single_stream_rule():
    assert queries_needed(1, 0.90) == 64


@given(st.integers(1, 20_000), st.sampled_from([0.9, 0.95, 0.99]))
def test_what_is_allowed_and_what_is_needed_are_each_others_inverse(queries, share):
    allowed = overs_allowed(queries, share)
    if allowed is None:
        assert queries < queries_needed(0, share)
    else:
        assert queries_needed(allowed, share) <= queries < queries_needed(allowed + 1, share)


def test_the_estimate_discards_as_many_as_loadgen_does():
    latencies = np.random.default_rng(0).permutation(np.arange(1.0, 1001.0))
    assert overs_allowed(1000, 0.99) == 2
    assert percentile_estimate(latencies, 0.99) == 999.0  # 1 discarded
    assert percentile_estimate(latencies[:661], 0.99) is None
    assert percentile_estimate(latencies[:662], 0.99) == latencies[:662].max()


def test_the_estimate_is_below_the_true_percentile_in_at_most_one_run_of_a_hundred():
    """Known truth: exponential latencies, p99 = ln(100). At 99 % confidence 1 % of runs; LoadGen is stricter."""
    rng = np.random.default_rng(7)
    below = sum(percentile_estimate(rng.exponential(1.0, 800), 0.99) < np.log(100) for _ in range(4000))
    assert below / 4000 < 0.015


def test_a_limit_is_certified_by_few_enough_queries_over_it():
    latencies = np.concatenate([np.full(998, 5.0), [30.0, 31.0]])
    met = early_stopping(latencies, 0.99, limit_ms=20.0)
    assert (met.over, met.allowed, met.met) == (2, 2, True)
    missed = early_stopping(np.append(latencies[1:], 40.0), 0.99, limit_ms=20.0)
    assert (missed.over, missed.met) == (3, False)
    assert "not met: 3 over 20 ms, 2 may be" in str(missed)
    few = early_stopping(np.full(100, 5.0), 0.99, limit_ms=20.0)
    assert (few.allowed, few.met, few.at_most_ms) == (None, False, None)
    assert str(few).startswith("p99 not certified: 100 queries, it takes 662")
    assert early_stopping(latencies, 0.99).met is None


def test_words_say_the_bound_and_its_confidence():
    assert str(EarlyStopping(0.9, 100, 64, 12.34)) == "p90 <= 12.3 ms at 99% confidence"
