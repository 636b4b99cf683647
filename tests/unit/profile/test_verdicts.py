"""The verdict says in words what is wrong, and stays silent where nothing is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from modelyard.domain.measurement import ClientHealth, Validity
from modelyard.profile.statistics import BlockSummary, summarise
from modelyard.profile.verdicts import Circumstances, Rules, judge, saturation_signs
from tests.unit.profile.builders import block, fifo, queue_block

GOOD = BlockSummary(
    requests=1000,
    ok=1000,
    p50_ms=1.0,
    p95_ms=2.0,
    p99_ms=3.0,
    throughput_rps=200.0,
    offered_rps=200.0,
    scheduled_rps=200.0,
    completed_ratio=1.0,
    in_flight=0.2,
    in_flight_growth=1.0,
    p99_growth=1.0,
)
CLIENT = ClientHealth(send_lag_p99_ms=0.1, offered_rps=200.0, scheduled_rps=200.0, cpu_cores=0.1)
CLOSED_CLIENT = ClientHealth(send_lag_p99_ms=0.0, offered_rps=900.0, scheduled_rps=None, cpu_cores=0.5)


def verdict(blocks=None, client=CLIENT, p50_ms=1.0, concurrency=None, **circumstances):
    return judge(
        blocks or [GOOD] * 5,
        client,
        p50_ms=p50_ms,
        concurrency=concurrency,
        circumstances=Circumstances(**circumstances),
    )


def test_five_blocks_of_a_thousand_good_requests_are_valid_without_a_reason():
    assert verdict().validity is Validity.VALID
    assert verdict().reasons == ()
    assert not verdict().saturated


@pytest.mark.parametrize(
    ("lag_ms", "p50_ms", "valid"),
    [(0.99, 1.0, True), (1.0, 1.0, False), (4.9, 100.0, True), (5.1, 100.0, False)],
)
def test_the_send_lag_may_be_a_millisecond_or_five_percent_of_p50(lag_ms, p50_ms, valid):
    found = verdict(client=dataclasses.replace(CLIENT, send_lag_p99_ms=lag_ms), p50_ms=p50_ms)
    assert (found.validity is Validity.VALID) is valid
    assert valid or "client saturated" in found.reasons[0]


@pytest.mark.parametrize(("offered", "valid"), [(198.5, True), (197.0, False), (203.0, False)])
def test_the_offered_rate_must_be_within_one_percent(offered, valid):
    found = verdict(client=dataclasses.replace(CLIENT, offered_rps=offered))
    assert (found.validity is Validity.VALID) is valid


def test_a_closed_loop_client_on_a_full_core_is_saturated():
    busy = dataclasses.replace(CLOSED_CLIENT, cpu_cores=0.97)
    blocks = [dataclasses.replace(GOOD, in_flight=8.0)] * 5
    assert verdict(blocks, CLOSED_CLIENT, concurrency=8).validity is Validity.VALID
    found = verdict(blocks, busy, concurrency=8)
    assert found.validity is Validity.INVALID
    assert "lower bound" in found.reasons[0]


def test_littles_law_catches_a_client_that_leaves_gaps():
    blocks = [dataclasses.replace(GOOD, in_flight=7.0)] * 5
    found = verdict(blocks, CLOSED_CLIENT, concurrency=8)
    assert found.validity is Validity.INVALID
    assert "Little" in found.reasons[0]


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([GOOD] * 4, "4 blocks"),
        ([dataclasses.replace(GOOD, requests=500, ok=500)] * 5, "500+"),
        ([dataclasses.replace(GOOD, requests=90, ok=90)] * 5, "no p99: 450"),
    ],
)
def test_too_few_samples_are_provisional(blocks, words):
    found = verdict(blocks)
    assert found.validity is Validity.PROVISIONAL
    assert any(words in reason for reason in found.reasons)


def test_what_happened_around_the_blocks_is_said():
    assert "warm-up" in verdict(warmed_up=False).reasons[0]
    assert "canary" in verdict(noisy_blocks=2).reasons[0]
    assert verdict(noisy_blocks=2).validity is Validity.PROVISIONAL
    assert verdict(replicas_changed=True).validity is Validity.INVALID
    assert "no cost" in verdict(cpu_seen=False).reasons[0]
    assert verdict(cpu_seen=False).validity is Validity.PROVISIONAL


def test_failures_are_counted_in_words_and_all_failed_is_invalid():
    some = verdict([dataclasses.replace(GOOD, ok=990)] * 5)
    assert some.validity is Validity.VALID
    assert "50 of 5000 requests failed" in some.reasons[0]
    none = verdict([dataclasses.replace(GOOD, ok=0)] * 5)
    assert none.validity is Validity.INVALID


def test_low_completion_is_saturation_but_not_invalid():
    found = verdict([dataclasses.replace(GOOD, completed_ratio=0.9)] * 5)
    assert found.saturated
    assert found.validity is Validity.VALID
    assert "90.0%" in found.reasons[0]


def test_one_stall_in_one_block_is_not_saturation():
    stalled = dataclasses.replace(GOOD, p99_growth=60.0, in_flight_growth=10.0)
    assert not verdict([GOOD, GOOD, stalled, GOOD, GOOD]).saturated
    assert verdict([stalled] * 5).saturated


def test_a_stall_in_the_middle_of_the_only_block_is_not_saturation():
    arrivals = np.arange(1000) / 500
    services = np.full(1000, 0.0005)
    services[400] = 0.3
    stalled = summarise(block(arrivals, fifo(arrivals, services)), open_loop=True, timeout_s=10)
    assert stalled.p99_ms > 250
    assert saturation_signs([stalled], Rules()) == []


def test_a_closed_loop_is_never_called_saturated():
    growing = dataclasses.replace(GOOD, p99_growth=3.0, in_flight=8.0)
    assert not verdict([growing] * 5, CLOSED_CLIENT, concurrency=8).saturated


def _signs(utilisation: float, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    blocks = [queue_block(1000 * utilisation, rng.exponential(1e-3, 1000), rng, number=k) for k in range(5)]
    return saturation_signs([summarise(b, open_loop=True, timeout_s=10) for b in blocks], Rules())


def test_an_overloaded_queue_is_called_saturated_every_time():
    assert all(_signs(1.1, seed) for seed in range(30))


def test_a_queue_at_seventy_percent_is_hardly_ever_called_saturated():
    assert sum(bool(_signs(0.7, seed)) for seed in range(60)) <= 3
