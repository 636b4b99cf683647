"""The decision rule of publish: cheapest configuration whose upper bound meets the SLO."""

from __future__ import annotations

import pytest

from modelyard.domain.configuration import Slo
from modelyard.domain.measurement import Validity
from modelyard.workflow.choosing import choose, confirmed
from tests.builders import configuration, measurement

SLO = Slo(p99_ms=10, rate_rps=200)
NAIVE = measurement("naive", config=configuration("source"), p99=(4.0, 3.0, 5.0), cost=4.0)


def test_the_cheapest_that_meets_the_slo_wins_and_is_compared_with_naive() -> None:
    cheap = measurement("cheap", cost=1.0, p99=(8.0, 7.0, 9.9))
    dear = measurement("dear", cost=2.0, p99=(1.0, 1.0, 1.0))
    choice = choose(SLO, [NAIVE, dear, cheap], [], "source")
    assert choice.chosen is cheap
    assert choice.met is True
    assert choice.naive is NAIVE
    assert choice.cost_ratio == pytest.approx(4.0)


def test_the_upper_bound_decides_not_the_value() -> None:
    cheap_but_unsure = measurement("unsure", cost=1.0, p99=(8.0, 6.0, 10.1))
    sure = measurement("sure", cost=2.0, p99=(9.0, 8.0, 10.0))
    assert choose(SLO, [cheap_but_unsure, sure], [], None).chosen is sure


@pytest.mark.parametrize(
    "bad",
    [
        measurement("invalid", cost=0.1, validity=Validity.INVALID),
        measurement("saturated", cost=0.1, saturated=True),
        measurement("errors", cost=0.1, errors=0.02),
        measurement("no-p99", cost=0.1, p99=None),
    ],
    ids=lambda m: m.id,
)
def test_a_number_that_cannot_be_trusted_is_never_chosen(bad: object) -> None:
    good = measurement("good", cost=5.0)
    choice = choose(SLO, [bad, good], [], None)  # type: ignore[list-item]
    assert choice.chosen is good


def test_it_says_plainly_when_none_meets() -> None:
    slow = measurement("slow", p99=(50.0, 40.0, 60.0))
    slower = measurement("slower", p99=(70.0, 60.0, 80.0))
    choice = choose(SLO, [slower, slow], [], None)
    assert choice.met is False
    assert choice.chosen is slow
    assert "none of 2 configurations meets p99 <= 10 ms at 200 rps" in choice.reason


def test_nothing_trustworthy_chooses_nothing() -> None:
    choice = choose(SLO, [measurement(validity=Validity.INVALID)], [], None)
    assert choice.chosen is None
    assert choice.met is False


def test_without_an_slo_throughput_per_core_decides() -> None:
    wide = measurement("wide", rps=1000, cpu_cores=2.0)
    lean = measurement("lean", rps=800, cpu_cores=1.0)
    choice = choose(None, [], [wide, lean], None)
    assert choice.chosen is lean
    assert choice.met is None
    assert "per core" in choice.reason


def test_the_naive_deployment_may_win_and_is_no_saving_over_itself() -> None:
    choice = choose(SLO, [NAIVE, measurement("dear", cost=9.0)], [], "source")
    assert choice.chosen is NAIVE
    assert choice.cost_ratio == 1.0


def test_a_confirmation_names_what_failed_its_own() -> None:
    first = choose(SLO, [NAIVE], [], "source")
    again = measurement("again", config=NAIVE.configuration)
    failed = measurement("failed", config=configuration("a9"), p99=(30.0, 20.0, 40.0))
    choice = confirmed(first, again, [NAIVE, failed], [failed])
    assert choice.chosen is again
    assert choice.considered == (NAIVE, failed, again)
    assert "met it first but not again" in choice.reason


def test_costs_that_overlap_are_no_saving() -> None:
    close = measurement("close", cost=3.9)
    choice = choose(SLO, [NAIVE, close], [], "source")
    assert choice.chosen is close
    assert choice.cost_ratio is None
    assert "no difference in cost shown to 1 other that meet it" in choice.reason
