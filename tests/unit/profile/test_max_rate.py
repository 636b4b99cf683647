"""The search for the highest rate under an SLO: on services whose p99 at each rate is a formula, without any clock."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bench.max_rate import service
from bench.queues import MD1, MM1
from modelyard.domain.errors import InvalidInput
from modelyard.domain.measurement import Interval, Validity
from modelyard.profile.max_rate import Stop, search
from modelyard.profile.monotone import crossing_of, isotonic_falling
from modelyard.profile.slo_evidence import Evidence, Limits, Load, Purpose
from tests.builders import measurement

CAPACITY = 1000.0


class Scripted:
    """p99 = base / (1 - utilisation) with an interval of +-10 %; notes each load."""

    def __init__(self, base_ms: float = 1.0, **changes: object) -> None:
        self.base_ms, self.changes, self.loads = base_ms, changes, []

    def __call__(self, load: Load) -> Evidence:
        self.loads.append(load)
        if load.rate_rps is None:
            return Evidence(None, CAPACITY)
        if load.rate_rps >= CAPACITY:
            return Evidence(Interval(1e4, 9e3, 1.1e4), CAPACITY, saturated=True)
        p99 = self.base_ms / (1 - load.rate_rps / CAPACITY)
        return replace(Evidence(Interval(p99, 0.9 * p99, 1.1 * p99), load.rate_rps), **self.changes)


def test_the_confirmed_rate_is_the_highest_whose_upper_bound_holds_within_a_step():
    found = search(5.0, Scripted())
    best = CAPACITY * (1 - 1.1 / 5.0)  # the upper bound is 5 ms at 780 requests/s
    assert 0.95 * best * 0.999 <= found.rate_rps <= best
    assert found.p99_ms.high <= 5.0
    assert found.stop is Stop.CONFIRMED
    assert not found.provisional
    assert found.feasible_max_rps == found.rate_rps
    assert found.infeasible_min_rps is None or found.infeasible_min_rps > best


def test_capacity_comes_first_and_confirmations_have_seeds_of_their_own():
    service = Scripted()
    found = search(5.0, service, seed=7)
    assert [load.purpose for load in service.loads[:2]] == [Purpose.CAPACITY, Purpose.PROBE]
    assert [p.load for p in found.probes] == service.loads
    confirming = [load.seed for load in service.loads if load.purpose is Purpose.CONFIRM]
    assert confirming
    assert 7 not in confirming
    assert len(set(confirming)) == len(confirming)
    assert {load.seed for load in service.loads if load.purpose is not Purpose.CONFIRM} == {7}


def test_a_point_estimate_within_the_slo_is_not_enough():
    """p99 is 4.8 ms everywhere, but nothing shows that it is not above 5."""
    wide = Scripted(p99_ms=Interval(4.8, 4.0, 5.5))
    found = search(5.0, wide)
    assert found.rate_rps is None
    assert found.stop is Stop.UNCONFIRMED
    assert "4.8" in found.reason
    assert len([p for p in found.probes if p.load.purpose is Purpose.CONFIRM]) == Limits().confirmations


def test_a_service_slower_than_the_slo_at_any_rate_has_no_answer():
    found = search(5.0, Scripted(base_ms=8.0))
    assert found.rate_rps is None
    assert found.stop is Stop.TOO_SLOW
    assert found.probes[-1].rate_rps == pytest.approx(0.03 * CAPACITY)
    assert "3% of the capacity" in found.reason
    assert all(p.load.purpose is not Purpose.CONFIRM for p in found.probes)


def test_a_service_that_meets_the_slo_only_at_low_load_is_found_there():
    found = search(5.0, Scripted(base_ms=4.0))
    assert found.rate_rps == pytest.approx(CAPACITY * (1 - 4.4 / 5.0), rel=0.08)


def test_an_slo_that_always_holds_ends_at_the_capacity():
    found = search(1000.0, Scripted())
    assert found.rate_rps == pytest.approx(0.95 * CAPACITY)
    assert found.stop is Stop.CAPACITY


def test_a_client_that_cannot_offer_more_is_the_limit_and_not_the_service():
    service = Scripted()

    def measure(load: Load) -> Evidence:
        found = service(load)
        if load.rate_rps and load.rate_rps > 600:
            return replace(found, invalid="client saturated: requests went out late (p99 lag 3.00 ms)")
        return found

    found = search(50.0, measure)
    assert found.rate_rps <= 600
    assert found.rate_rps > 500
    assert found.stop is Stop.CLIENT
    assert "client saturated" in found.reason


def test_a_client_that_can_offer_nothing_is_said():
    found = search(5.0, Scripted(invalid="client saturated: requests went out late (p99 lag 3.00 ms)"))
    assert (found.rate_rps, found.stop) == (None, Stop.CLIENT)


def test_failing_requests_are_no_answer():
    found = search(5.0, Scripted(error_fraction=0.02))
    assert found.rate_rps is None
    assert found.stop is Stop.FAILING
    assert "2.0% of the requests fail" in found.reason


def test_a_capacity_that_an_open_loop_does_not_reach_is_left_in_large_steps():
    """The closed loop reached 1000 requests/s, but beyond 560 an open loop falls apart."""
    service = Scripted()

    def measure(load: Load) -> Evidence:
        found = service(load)
        return replace(found, saturated=bool(load.rate_rps and load.rate_rps > 560))

    found = search(50.0, measure)
    assert 500 <= found.rate_rps <= 560
    assert found.infeasible_min_rps > 560
    assert len(found.probes) <= 9


def test_a_service_that_answers_nothing_ends_the_search_at_once():
    found = search(5.0, lambda _: Evidence(None, 0.0, 1.0, invalid="no request succeeded"))
    assert found.stop is Stop.FAILING
    assert len(found.probes) == 1


def test_blocks_too_short_are_taken_again_longer_before_they_confirm():
    service = Scripted()

    def measure(load: Load) -> Evidence:
        found = service(load)
        short = load.purpose is Purpose.CONFIRM and load.requests < 15_000
        return replace(found, requests_wanted=15_000 if short else 0)

    found = search(5.0, measure)
    assert found.rate_rps is not None
    confirming = [p for p in found.probes if p.load.purpose is Purpose.CONFIRM]
    assert confirming[0].load.requests < 15_000
    assert not confirming[0].met
    assert confirming[1].load == replace(confirming[0].load, requests=15_000)
    assert confirming[-1].load.requests == 15_000
    assert found.rate_rps in {p.rate_rps for p in confirming if p.load.requests == 15_000}
    assert not found.provisional


def test_where_blocks_cannot_be_long_enough_the_answer_is_provisional():
    found = search(5.0, Scripted(requests_wanted=50_000), limits=Limits(most_block_s=2.0))
    assert found.provisional
    assert "50000 are wanted" in found.reason
    assert all(p.load.requests <= 2 * p.rate_rps for p in found.probes if p.load.purpose is not Purpose.CAPACITY)


def test_the_number_of_measurements_is_bounded():
    found = search(5.0, Scripted(requests_wanted=20_000), limits=Limits(measurements=6))
    assert len(found.probes) <= 6


def test_the_same_answers_give_the_same_search():
    assert search(5.0, Scripted(), seed=3) == search(5.0, Scripted(), seed=3)


@pytest.mark.parametrize("queue", [MM1, MD1], ids=lambda queue: queue.name)
def test_on_simulated_queues_the_answer_is_not_over_the_true_max_rate_and_not_far_below(queue):
    truth = queue.rate_rps(0.75)
    ratios = []
    for run in range(12):
        measure, _ = service(queue, run)
        ratios.append(search(queue.percentile(0.75, 0.99), measure, seed=run).rate_rps / truth)
    assert max(ratios) <= 1.1
    assert sum(ratio > 1 for ratio in ratios) <= 2
    assert sorted(ratios)[6] > 0.8


def test_evidence_is_what_a_measurement_says():
    m = measurement("m7", p99=(5.0, 4.0, 6.0), errors=0.005)
    found = Evidence.of(m)
    assert found.meets(6.0)
    assert not found.meets(5.9)
    assert found.misses(3.9)
    assert not found.misses(4.1)
    assert found.measurement == "m7"
    invalid = measurement(validity=Validity.INVALID)
    invalid = replace(invalid, verdict=replace(invalid.verdict, reasons=("client saturated: it is late",)))
    assert Evidence.of(invalid).client_limited
    assert not Evidence.of(invalid).meets(1e9)
    assert not Evidence.of(invalid).misses(1e-9)


@pytest.mark.parametrize("slo", [0.0, -1.0])
def test_an_impossible_slo_is_refused(slo):
    with pytest.raises(InvalidInput):
        search(slo, Scripted())


def test_the_isotonic_fit_pools_what_rises():
    assert isotonic_falling([(1, 3.0), (2, 1.0), (3, 2.0), (4, 0.5)]) == [(1, 3.0), (2, 1.5), (3, 1.5), (4, 0.5)]


def test_the_crossing_is_exact_where_latency_is_that_of_a_queue():
    points = [(rate, (1 - rate / CAPACITY) / 2.0) for rate in (500.0, 700.0, 850.0)]  # p99 = 2 / (1 - utilisation)
    for slo_ms in (5.0, 8.0, 20.0, 100.0):
        assert crossing_of(points, 1 / slo_ms, CAPACITY) == pytest.approx(CAPACITY * (1 - 2.0 / slo_ms))
    assert crossing_of(points, 1 / 3.0, CAPACITY) < 500
    assert math.isclose(crossing_of([], 1.0, CAPACITY), CAPACITY)
