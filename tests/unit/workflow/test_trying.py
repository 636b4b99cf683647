"""The load of a study's trials: what no trial could be feasible under is refused before anything is measured."""

from __future__ import annotations

import pytest

from modelyard.domain.errors import InvalidInput
from modelyard.domain.study import Aim
from modelyard.domain.workload import Arrival
from modelyard.profile.schedule import draw
from modelyard.profile.statistics import REQUESTS_FOR_P99
from modelyard.workflow.trying import workload_for
from modelyard.workflow.values import TuneRequest


@pytest.mark.parametrize("rate", [0.7, 3.0, 9.1, 9.2, 40.0])
@pytest.mark.parametrize("blocks", [2, 5])
def test_blocks_are_as_long_as_a_p99_takes_at_low_rates(rate, blocks):
    work = workload_for(Aim.parse(f"min cost under p99 <= 20 ms at {rate:g} rps"), TuneRequest(blocks=blocks))
    requests = sum(len(draw(work, block, 8).times_s) for block in range(blocks))
    assert requests >= REQUESTS_FOR_P99


def test_at_usual_rates_blocks_take_ten_seconds():
    assert workload_for(Aim.parse("min p99 at 200 rps"), TuneRequest()).duration_s == 10.0


@pytest.mark.parametrize(
    ("aim", "request_"),
    [
        ("min p99 at 100 rps", TuneRequest(blocks=2, duration_s=0.2)),
        ("min cost under p99 <= 20 ms at 100 rps", TuneRequest(blocks=2, duration_s=2)),
        ("min p99 and min cost at 100 rps", TuneRequest(requests=91)),
        ("max rate under p99 <= 20 ms", TuneRequest(blocks=4, requests=114)),
    ],
)
def test_blocks_too_short_for_a_p99_are_refused(aim, request_):
    with pytest.raises(InvalidInput, match="a p99 takes 459"):
        workload_for(Aim.parse(aim), request_)


def test_what_needs_no_p99_may_be_short():
    assert workload_for(Aim.parse("min p95 at 100 rps"), TuneRequest(blocks=2, duration_s=0.2)).duration_s == 0.2
    closed = workload_for(Aim.parse("min p99 at 4 concurrent"), TuneRequest(blocks=2, duration_s=0.2))
    assert closed.arrival is Arrival.CLOSED


def test_one_block_has_no_interval_and_shows_no_slo():
    with pytest.raises(InvalidInput, match="one block"):
        workload_for(Aim.parse("min cost under p99 <= 20 ms at 100 rps"), TuneRequest(blocks=1))


def test_a_search_for_the_rate_takes_the_lengths_that_it_is_given():
    work = workload_for(Aim.parse("max rate under p99 <= 20 ms"), TuneRequest(blocks=3, requests=300, duration_s=2))
    assert (work.blocks, work.requests, work.duration_s) == (3, 300, 2)
