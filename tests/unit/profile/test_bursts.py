"""Bursts: how many separate events a tail percentile rests on, and what the verdict makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.queues import BIMODAL, MD1, MM1, MM2, QUEUES, poisson, samples
from modelyard.domain.measurement import ClientHealth, Validity
from modelyard.profile.bursts import Bursts
from modelyard.profile.statistics import latency_interval, summarise
from modelyard.profile.verdicts import Circumstances, Rules, burst_faults, judge

CLIENT = ClientHealth(send_lag_p99_ms=0.0, offered_rps=100.0, scheduled_rps=100.0, cpu_cores=0.1)


def run(queue, utilisation, requests, seed):
    rng = np.random.default_rng([seed, requests])
    work = poisson(queue.rate_rps(utilisation), requests)
    return [samples(queue, work, number, rng) for number in range(5)]


def counted(blocks) -> Bursts:
    return Bursts.count([block.latencies_ms(1e9) for block in blocks])


def held_and_valid(queue, utilisation, requests, runs):
    """Of `runs` runs, whether each p99 interval holds the truth, and whether its blocks were long enough."""
    truth = queue.percentile(utilisation, 0.99)
    held, valid = [], []
    for seed in range(runs):
        blocks = run(queue, utilisation, requests, seed)
        found = latency_interval(blocks, 0.99, 1e9)
        held.append(found.low <= truth * 1.0005 and truth <= found.high * 1.0005)
        valid.append(not burst_faults(counted(blocks), requests, Rules())[0])
    return np.array(held), np.array(valid)


def test_a_burst_ends_with_a_return_to_the_first_quarter():
    calm, slow = [1.0] * 20, [9.0] * 10
    middling = [1.5] * 6  # slower than p25: the burst goes on
    found = Bursts.count([np.array([*calm * 8, *slow, *middling, *slow, *calm, *slow, *calm])])
    assert found.slow == 2
    assert found.blocks == 1


def test_a_hundred_slow_requests_in_a_row_are_one_burst_and_far_apart_are_many():
    together, apart = np.full(2000, 1.0), np.full(2000, 1.0)
    together[500:600] = 50.0
    apart[::20] = 50.0
    assert Bursts.count([together]).slow == 1
    assert Bursts.count([apart]).slow == 100


def test_where_nothing_is_slower_there_are_no_bursts_and_no_fault():
    found = Bursts.count([np.full(1000, 5.0)] * 5)
    assert (found.slow, found.tail) == (0, 0)
    assert burst_faults(found, 1000, Rules()) == ([], 0)
    assert found.tail_half_width(0.0, 0.99) == 0.0


def test_the_half_width_is_that_of_a_compound_poisson_sum_on_an_exponential_tail():
    found = Bursts(slow=100, tail=10, blocks=5)
    slope = 1.0  # p99 = 10 * p90: each factor of ten in rarity is a factor of ten in latency
    assert found.tail_half_width(np.log(10.0), 0.99) == pytest.approx(1.96 * slope * np.sqrt(2 / 4), rel=1e-6)
    assert found.tail_half_width(np.log(10.0), 0.5) == 0.0


@pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: queue.name)
def test_intervals_of_p99_hold_the_truth_at_half_load(queue):
    held, valid = held_and_valid(queue, 0.5, 1000, 60)
    assert held.mean() >= 0.9
    assert valid.mean() >= 0.9


@pytest.mark.parametrize(("queue", "utilisation"), [(MM1, 0.8), (MD1, 0.9), (BIMODAL, 0.7)])
def test_valid_intervals_hold_the_truth_near_saturation_when_blocks_are_long(queue, utilisation):
    held, valid = held_and_valid(queue, utilisation, 10_000, 40)
    assert valid.mean() >= 0.8
    assert held[valid].mean() >= 0.9


@pytest.mark.parametrize("queue", [MM1, MM2, BIMODAL], ids=lambda queue: queue.name)
def test_short_blocks_near_saturation_are_called_too_short(queue):
    """Of 5 x 1000 requests at 90 %, p99 comes out a quarter low: none of it may be called valid."""
    _, valid = held_and_valid(queue, 0.9, 1000, 40)
    assert valid.mean() <= 0.05


def test_the_interval_never_got_narrower_than_over_blocks_alone():
    blocks = run(MM1, 0.8, 1000, 0)
    found = latency_interval(blocks, 0.99, 1e9)
    assert found.high / found.value >= found.value / found.low


def test_the_verdict_says_how_long_the_blocks_should_be_and_that_length_is_enough():
    blocks = run(MM1, 0.85, 1000, 1)
    verdict = judge(
        [summarise(b, open_loop=True, timeout_s=10) for b in blocks],
        CLIENT,
        p50_ms=1.0,
        concurrency=None,
        circumstances=Circumstances(bursts=counted(blocks)),
        rules=Rules(max_growth=1e9),
    )
    assert verdict.validity is Validity.PROVISIONAL
    assert verdict.requests_wanted >= 5000
    assert f"take blocks of {verdict.requests_wanted} requests" in verdict.reasons[0]
    longer = run(MM1, 0.85, verdict.requests_wanted, 2)
    assert burst_faults(counted(longer), verdict.requests_wanted, Rules()) == ([], 0)


def test_a_single_stall_makes_p99_provisional():
    rng = np.random.default_rng(0)
    blocks = [rng.normal(5.0, 0.1, 1000) for _ in range(5)]
    blocks[2][300:420] += np.linspace(100, 0, 120)
    reasons, wanted = burst_faults(Bursts.count(blocks), 1000, Rules())
    assert reasons == ["p99 rests on one burst of slow requests (take blocks of 2000 requests)"]
    assert wanted == 2000


def test_a_load_that_changes_by_itself_and_a_saturated_service_are_not_told_to_take_longer_blocks():
    blocks = run(MM1, 0.9, 1000, 1)
    summaries = [summarise(b, open_loop=True, timeout_s=10) for b in blocks]
    told = judge(
        summaries,
        CLIENT,
        p50_ms=1.0,
        concurrency=None,
        circumstances=Circumstances(stationary=False, bursts=counted(blocks)),
    )
    assert told.requests_wanted == 0
    assert not any("bursts" in reason for reason in told.reasons)


def test_the_page_on_uncertainty_names_the_rules_as_they_are():
    page = (Path(__file__).parents[3] / "docs/uncertainty.md").read_text(encoding="utf-8")
    assert (
        f"Below {Rules().min_bursts_per_block:g} bursts a block, or {Rules().min_tail_bursts} bursts above p99" in page
    )
