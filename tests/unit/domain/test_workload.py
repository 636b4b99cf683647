"""A workload says what it needs and refuses what it has no use for; it is a value that survives being stored."""

from __future__ import annotations

import msgspec
import pytest

from modelyard.domain.errors import InvalidInput
from modelyard.domain.workload import Arrival, Scenario, Trace, Workload

TRACE = Trace("0123456789abcdef", 30.0, 0.5)
EACH = (
    (Workload(Arrival.CLOSED, concurrency=8), "closed 8 x1 http-binary"),
    (Workload(Arrival.POISSON, rate_rps=200, batch=4), "poisson 200 rps x4 http-binary"),
    (Workload(Arrival.GAMMA, rate_rps=200, cv=4), "gamma cv 4 200 rps x1 http-binary"),
    (Workload(Arrival.RAMP, rate_rps=50, end_rate_rps=400), "ramp 50 to 400 rps x1 http-binary"),
    (
        Workload(Arrival.TRACE, rate_rps=35.5, trace=TRACE, cv=2),
        "trace 01234567 from 30 s cv 2 35.5 rps x1 http-binary",
    ),
    (Workload(Arrival.CLOSED, scenario=Scenario.SINGLE_STREAM), "single-stream: closed 1 x1 http-binary"),
)


@pytest.mark.parametrize(("work", "label"), EACH)
def test_a_workload_has_a_short_name_and_survives_being_stored(work, label):
    assert work.label == label
    assert msgspec.json.decode(msgspec.json.encode(work), type=Workload) == work


def test_a_workload_stored_before_there_were_these_fields_can_be_read():
    old = b'{"arrival":"poisson","concurrency":1,"rate_rps":50.0,"batch":1,"blocks":5,"requests":100,"duration_s":10.0,'
    old += b'"timeout_s":10.0,"protocol":"grpc","seed":3}'
    found = msgspec.json.decode(old, type=Workload)
    assert (found.rate_rps, found.trace, found.scenario) == (50.0, None, None)


def test_growth_means_saturation_only_where_the_load_stays_the_same():
    assert [work.stationary for work, _ in EACH] == [True, True, True, False, False, True]


@pytest.mark.parametrize(
    "options",
    [
        {"arrival": Arrival.GAMMA, "rate_rps": 10},
        {"arrival": Arrival.GAMMA, "rate_rps": 10, "cv": 0.01},
        {"arrival": Arrival.GAMMA, "rate_rps": 10, "cv": 20},
        {"arrival": Arrival.POISSON, "rate_rps": 10, "cv": 2},
        {"arrival": Arrival.RAMP, "rate_rps": 10},
        {"arrival": Arrival.RAMP, "rate_rps": 10, "end_rate_rps": -1},
        {"arrival": Arrival.CONSTANT, "rate_rps": 10, "end_rate_rps": 20},
        {"arrival": Arrival.TRACE, "rate_rps": 10},
        {"arrival": Arrival.TRACE, "trace": TRACE},
        {"arrival": Arrival.CLOSED, "trace": TRACE},
        {"arrival": Arrival.CLOSED, "cv": 2},
        {"arrival": Arrival.CLOSED, "rate_rps": 10},
        {"arrival": Arrival.POISSON, "rate_rps": 0},
    ],
)
def test_what_contradicts_the_arrivals_is_refused(options):
    with pytest.raises(InvalidInput):
        Workload(**options)


@pytest.mark.parametrize("options", [{"digest": ""}, {"start_s": -1}, {"scale": 0}])
def test_a_trace_without_content_place_or_size_is_refused(options):
    with pytest.raises(InvalidInput):
        Trace(**{"digest": "0123456789abcdef", **options})
