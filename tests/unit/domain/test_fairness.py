"""Seats and turns between models: shares by weight, nobody starves, seats are never exceeded."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.domain.errors import InvalidInput
from modelyard.domain.fairness import FairShare, Flow


def compete(share: FairShare, flows: dict[Flow, float], until: float) -> dict[Flow, float]:
    """Flows that always have work, each execution of a fixed length; seconds that each was served by `until`."""
    served = dict.fromkeys(flows, 0.0)
    ends: list[tuple[float, int, Flow]] = []
    number, now = 0, 0.0

    def start(flow: Flow) -> None:
        nonlocal number
        number += 1
        heapq.heappush(ends, (now + flows[flow], number, flow))

    for flow, seconds in flows.items():
        if share.enter(flow, seconds):
            start(flow)
    while now < until:
        now, _, flow = heapq.heappop(ends)
        served[flow] += flows[flow]
        share.leave(flow)
        assert not share.enter(flow, flows[flow]) or len(flows) == 1
        while (granted := share.grant()) is not None:
            assert share.enter(granted, flows[granted])
            assert share.used <= share.capacity
            start(granted)
    return served


def test_equal_models_get_equal_time_however_dear_their_executions_are():
    cheap, dear = Flow(), Flow()
    served = compete(FairShare(1), {cheap: 0.01, dear: 0.5}, 100.0)
    assert served[cheap] == pytest.approx(served[dear], rel=0.05)


def test_weights_are_shares_of_time():
    one, three = Flow(weight=1.0), Flow(weight=3.0)
    served = compete(FairShare(1), {one: 0.02, three: 0.02}, 40.0)
    assert served[three] / served[one] == pytest.approx(3.0, rel=0.05)


def test_an_idle_model_neither_saves_up_nor_owes():
    busy, late = Flow(), Flow()
    share = FairShare(1)
    for _ in range(1000):
        assert share.enter(busy, 1.0)
        share.leave(busy)
    served = compete(share, {busy: 0.1, late: 0.1}, 20.0)
    assert served[late] == pytest.approx(served[busy], rel=0.1)


def test_a_wrong_prediction_is_corrected_by_what_it_really_cost():
    honest, liar = Flow(), Flow()
    share = FairShare(1)
    turns = {honest: 0, liar: 0}
    assert share.enter(honest, 1.0)
    share.enter(liar, 0.0)
    running = honest
    for _ in range(100):
        share.leave(running, error=1.0 if running is liar else 0.0)
        share.enter(running, 1.0 if running is honest else 0.0)
        running = share.grant()
        share.enter(running, 1.0 if running is honest else 0.0)
        turns[running] += 1
    assert turns[honest] == pytest.approx(turns[liar], abs=2)


def test_a_wide_model_waits_for_its_cores_and_is_not_overtaken_for_ever():
    share = FairShare(2)
    narrow, wide = Flow(width=1), Flow(width=2)
    assert share.enter(narrow, 0.1)
    assert not share.enter(wide, 0.1)
    assert not share.enter(narrow, 0.1)  # there is a core, and somebody before it
    assert share.grant() is None
    share.leave(narrow)
    assert share.grant() is wide


def test_a_model_wider_than_the_machine_runs_alone():
    share = FairShare(1)
    assert share.enter(Flow(width=4), 0.1)
    assert not share.enter(Flow(), 0.1)


def test_forgoing_gives_a_granted_seat_back():
    share = FairShare(1)
    a, b = Flow(), Flow()
    assert share.enter(a, 1.0)
    share.enter(b, 1.0)
    share.leave(a)
    assert share.grant() is b
    share.forgo(b)
    assert share.used == 0
    assert share.enter(a, 1.0)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_a_share_is_positive(weight):
    with pytest.raises(InvalidInput):
        Flow(weight=weight)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.001, 0.05, 0.7])), min_size=2, max_size=5),
    st.integers(1, 3),
)
def test_no_model_falls_behind_its_share_by_more_than_the_longest_executions(models, capacity):
    """Theorem 1 of the paper, for one seat per execution: the lag is bounded by one execution of each of the two."""
    flows = {Flow(weight): seconds for weight, seconds in models}
    if len(flows) <= capacity:
        capacity = 1
    served = compete(FairShare(capacity), flows, 60.0)
    if capacity > 1:  # a flow runs one execution at a time here, so it may not be able to use its share
        assert min(served.values()) > 0
        return
    for a in flows:
        for b in flows:
            bound = flows[a] / a.weight + flows[b] / b.weight
            assert abs(served[a] / a.weight - served[b] / b.weight) <= bound + 1e-6
