"""What every search strategy keeps to, the built-in ones and the default among them."""

from __future__ import annotations

import math

import pytest

from modelyard.domain.measurement import Interval
from modelyard.domain.study import Aim, Knob, Point, Result, Trial, TrialState
from modelyard.tune.ports import Kind, Outcome, Proposal, Search, Stop, Strategy
from modelyard.tune.search import Means, run
from modelyard.tune.strategies import Strategies
from modelyard.tune.strategies.registry import built_in
from tests.unit.tune import scripted
from tests.unit.tune.scripted import Service, explore

KINDS = built_in()
THOROUGH: dict[str, dict[str, Knob]] = {"bayesian": {"stop_ei": 0.0}, "simulate-verify": {"tolerance": 1e-12}}
"""Options by which a strategy goes on as long as there are points."""
CONTENT = ["simulate-verify"]
"""Strategies that stop before, where what is left is surely no better; never with several objectives."""
AIMS = [scripted.COST, scripted.FAST, scripted.BOTH, scripted.RATE, scripted.CLOSED]

pytestmark = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])


def make(kind: Kind, search: Search) -> Strategy:
    return Strategies(KINDS).make(kind.name, search, THOROUGH.get(kind.name, {}))


def points(trials: list[Trial]) -> list[Point]:
    return [trial.point for trial in trials]


@pytest.mark.parametrize("aim", AIMS)
@pytest.mark.parametrize("text", [scripted.SERVICE, scripted.CONTINUOUS], ids=["listed", "continuous"])
def test_proposals_are_distinct_points_of_the_space(kind: Kind, text: str, aim: str) -> None:
    search = scripted.search(text, aim)
    tried = points(explore(make(kind, search), Service(search.aim), 16))
    assert len(set(tried)) == len(tried)
    assert len(tried) == 16 or kind.name in CONTENT
    assert [search.space.check(point) for point in tried] == [None] * len(tried)


def test_inactive_knobs_are_absent(kind: Kind) -> None:
    search = scripted.search(scripted.TINY, scripted.FAST)
    tried = points(explore(make(kind, search), Service(search.aim), 6))
    assert {("max_batch" in dict(p)) == (p["artifact"] == "onnx") for p in tried} == {True}


@pytest.mark.parametrize("aim", [scripted.COST, scripted.BOTH])
def test_the_same_trials_give_the_same_proposal(kind: Kind, aim: str) -> None:
    """Also from another instance, so that a search goes on after a crash where it was."""
    search = scripted.search(scripted.SERVICE, aim, seed=5)
    through = explore(make(kind, search), Service(search.aim, seed=1), 16)
    for after in (0, 3, 9, 13):
        strategy = make(kind, search)
        proposal = strategy.propose(through[:after])
        assert isinstance(proposal, Proposal)
        assert proposal.point == through[after].point
        assert strategy.propose(through[:after]) == proposal, "proposing changes nothing"


def test_a_strategy_that_was_used_proposes_what_a_new_one_does(kind: Kind) -> None:
    search = scripted.search(scripted.SERVICE, scripted.COST)
    used = make(kind, search)
    explore(used, Service(search.aim, seed=3), 12)
    other = explore(make(kind, search), Service(search.aim, seed=4), 12)
    assert used.propose(other) == make(kind, search).propose(other)


def test_every_point_is_proposed_before_it_stops(kind: Kind) -> None:
    search = scripted.search(scripted.TINY, scripted.BOTH if kind.name in CONTENT else scripted.FAST)
    strategy = make(kind, search)
    trials = explore(strategy, Service(search.aim), 100)
    assert set(points(trials)) == set(search.space.points())
    assert isinstance(strategy.propose(trials), Stop)


@pytest.mark.parametrize("done", [0, 4, 12])
def test_what_is_pending_is_not_proposed(kind: Kind, done: int) -> None:
    search = scripted.search(scripted.SERVICE, scripted.COST)
    strategy = make(kind, search)
    trials = explore(strategy, Service(search.aim), done)
    pending: list[Point] = []
    for _ in range(4):
        proposal = strategy.propose(trials, pending)
        assert isinstance(proposal, Proposal)
        pending.append(proposal.point)
    assert len({*points(trials), *pending}) == done + 4
    assert all(search.space.check(point) is None for point in pending)


def test_it_stops_where_the_rest_is_pending(kind: Kind) -> None:
    search = scripted.search(scripted.TINY, scripted.FAST)
    strategy = make(kind, search)
    trials = explore(strategy, Service(search.aim), 3)
    rest = [point for point in search.space.points() if point not in points(trials)]
    assert isinstance(strategy.propose(trials, rest), Stop)


@pytest.mark.parametrize("aim", [scripted.COST, scripted.BOTH])
def test_trials_without_a_number_are_survived(kind: Kind, aim: str) -> None:
    """Failed, timed out and abandoned trials, infinite losses and unknown errors, alone and among good ones."""
    search = scripted.search(scripted.SERVICE, aim)
    strategy, service = make(kind, search), Service(search.aim)
    trials: list[Trial] = []
    for i in range(20):
        proposal = strategy.propose(trials)
        assert isinstance(proposal, Proposal)
        assert search.space.check(proposal.point) is None
        measured = service.measure(proposal.point)
        trials.append(scripted.trial(i + 1, proposal.point, odd(i, search.aim, measured) if i < 15 else measured))
    assert len(set(points(trials))) == 20


def odd(turn: int, aim: Aim, good: Outcome) -> Outcome:
    states = [TrialState.FAILED, TrialState.TIMED_OUT, TrialState.ABANDONED]
    nothing = (math.inf,) * len(aim.objectives)
    endless = Result(nothing, nothing, (), Interval(math.inf), False, "invalid: saturated")
    unsure = Result((0.1,) * len(nothing), (math.nan,) * len(nothing), (), Interval(30.0), False, "provisional")
    cases = [*(Outcome(state, detail="it died") for state in states), Outcome(TrialState.ABANDONED, endless)]
    return [*cases, Outcome(TrialState.MEASURED, unsure), good][turn % 6]


def test_a_search_in_which_nothing_runs_goes_through_the_space(kind: Kind) -> None:
    search = scripted.search(scripted.TINY, scripted.COST)
    trials = explore(make(kind, search), Service(search.aim, lost=[1, 2]), 100)
    assert set(points(trials)) == set(search.space.points())


def test_a_default_from_outside_the_space_is_not_proposed(kind: Kind) -> None:
    outside = Point.of({"artifact": "onnx", "threads": 3, "replicas": 9, "max_batch": 7})
    for text in (scripted.SERVICE, scripted.CONTINUOUS):
        search = scripted.search(text, scripted.COST, default=outside)
        assert outside not in points(explore(make(kind, search), Service(search.aim), 12))


def test_the_budget_is_what_is_measured(kind: Kind) -> None:
    search = scripted.search(scripted.SERVICE, scripted.COST, budget=14)
    service, saved = Service(search.aim), []
    finished = run(
        scripted.study(search),
        search,
        make(kind, search),
        Means([service.measure], service.confirm, saved.append),
    )
    assert len([t for t in finished.trials if t.confirms is None]) == 14
    assert [len(s.trials) for s in saved[:-1]] == list(range(1, 15))
    assert saved[-1] == finished


SHARES = {"grid": 248, "random": 60, "epsilon-greedy": 40, "tpe": 40, "bayesian": 25, "simulate-verify": 6}
"""Trials out of 248 points after which a strategy has found one of the best feasible twentieth."""


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_good_point_is_found(kind: Kind, seed: int) -> None:
    search = scripted.search(scripted.SERVICE, scripted.COST, seed=seed)
    trials = explore(make(kind, search), Service(search.aim, seed=seed), SHARES[kind.name])
    limit = search.aim.slo_ms or math.inf
    every = sorted(v[0] for v, p99 in (scripted.truth(search.aim, p) for p in search.space.points()) if p99 <= limit)
    found = min(v[0] for v, p99 in (scripted.truth(search.aim, t.point) for t in trials) if p99 <= limit)
    assert found <= every[len(every) // 20]
