"""What single strategies are meant to do, beside what all keep to."""

from __future__ import annotations

import logging
import math

import pytest

from modelyard.domain.errors import InvalidInput
from modelyard.domain.study import Aim, Point, Trial
from modelyard.tune.ports import Proposal, Search, Stop
from modelyard.tune.space import Space
from modelyard.tune.strategies import Strategies
from tests.unit.tune import scripted
from tests.unit.tune.scripted import Service, explore

KINDS = Strategies.discover()
LINE = Space.parse("knobs: {n: {integer: [0, 1000]}}")
COST = Aim.parse(scripted.COST)


def measured(n: int, cost: float, p99_ms: float = 5.0) -> Trial:
    return Trial(n + 1, Point.of({"n": n}), scripted.TrialState.MEASURED, "", scripted.result(COST, [cost], p99_ms))


def line(default: int = 0) -> Search:
    return Search(LINE, COST, Point.of({"n": default}), 50, 0)


def valley(n: int) -> float:
    return math.exp(((n - 700) / 300) ** 2)


def test_bayesian_looks_elsewhere_while_a_point_is_pending() -> None:
    strategy = KINDS.make("bayesian", line(), {"initial": 0})
    trials = [measured(n, valley(n)) for n in (0, 300, 1000)]
    first = strategy.propose(trials)
    assert isinstance(first, Proposal)
    second = strategy.propose(trials, [first.point])
    assert isinstance(second, Proposal)
    assert abs(int(first.point["n"]) - int(second.point["n"])) > 20, "not just beside it"


def test_bayesian_stays_where_the_slo_holds() -> None:
    """Cost falls towards n = 1000, and from n = 500 on the p99 is over the SLO."""
    strategy = KINDS.make("bayesian", line(), {"initial": 4, "stop_ei": 0.0})
    trials: list[Trial] = []
    for _ in range(16):
        proposal = strategy.propose(trials)
        assert isinstance(proposal, Proposal)
        n = int(proposal.point["n"])
        trials.append(measured(n, math.exp(-n / 500), 20 * math.exp((n - 500) / 200)))
    modelled = [int(t.point["n"]) for t in trials[5:]]
    assert sum(440 < n < 520 for n in modelled) >= 7, "mostly near the edge, where it is cheapest"


def test_bayesian_stops_where_nothing_better_is_expected() -> None:
    flat = [measured(n, 1.0) for n in range(0, 1001, 50)]
    found = KINDS.make("bayesian", line(), {"initial": 0, "stop_ei": 0.01}).propose(flat)
    assert found == Stop("no other point is expected to be more than 1.00% better")


def test_bayesian_looks_for_what_is_feasible_first() -> None:
    """p99 falls with n, cost rises: what keeps the SLO is dear."""
    strategy = KINDS.make("bayesian", line(), {"initial": 0})
    trials = [measured(n, math.exp(n / 100), 400 * math.exp(-n / 100)) for n in (0, 50, 100)]
    proposal = strategy.propose(trials)
    assert isinstance(proposal, Proposal)
    assert int(proposal.point["n"]) > 150
    assert "nothing was yet" in proposal.reason


def test_bayesian_iterations_are_bounded() -> None:
    search = scripted.search(scripted.SERVICE, scripted.COST)
    strategy = KINDS.make("bayesian", search, {"initial": 4, "iterations": 3, "stop_ei": 0})
    trials = explore(strategy, Service(search.aim), 50)
    assert len(trials) == 5 + 3
    assert trials[0].point == search.default


def test_epsilon_greedy_goes_to_the_next_best_when_all_beside_the_best_is_tried() -> None:
    strategy = KINDS.make("epsilon-greedy", line(), {"epsilon": 0})
    trials = [measured(n, cost) for n, cost in ((0, 9.0), (500, 1.0), (499, 5.0), (501, 2.0))]
    proposal = strategy.propose(trials)
    assert isinstance(proposal, Proposal)
    assert proposal.point == Point.of({"n": 502})


def test_epsilon_greedy_leaves_infeasible_points_alone() -> None:
    strategy = KINDS.make("epsilon-greedy", line(), {"epsilon": 0})
    proposal = strategy.propose([measured(0, 9.0), measured(500, 1.0, p99_ms=50.0)])
    assert isinstance(proposal, Proposal)
    assert proposal.point == Point.of({"n": 1})


def test_epsilon_greedy_explores_as_often_as_it_is_told() -> None:
    """Of 200 proposals with epsilon 0.3 and no decay; the standard error is 3.2 %."""
    trials = [measured(0, 1.0)]
    reasons = []
    for seed in range(200):
        search = Search(LINE, COST, Point.of({"n": 0}), 50, seed)
        proposal = KINDS.make("epsilon-greedy", search, {"epsilon": 0.3, "decay": 1}).propose(trials)
        assert isinstance(proposal, Proposal)
        reasons.append(proposal.reason)
    assert 0.2 < reasons.count("drawn at random") / 200 < 0.4


@pytest.mark.parametrize("text", [scripted.SERVICE, scripted.CONTINUOUS], ids=["listed", "continuous"])
def test_bayesian_begins_with_the_points_of_random_where_that_is_asked_for(text: str) -> None:
    search = scripted.search(text, scripted.FAST, seed=7)
    service = Service(search.aim)
    drawn = explore(KINDS.make("random", search), service, 12)
    trials = explore(KINDS.make("bayesian", search, {"initial": 8, "design": "random", "stop_ei": 0.0}), service, 12)
    assert [t.point for t in trials[:8]] == [t.point for t in drawn[:8]]
    assert [t.point for t in trials[8:]] != [t.point for t in drawn[8:]], "then it searches"


def test_iterations_of_bayesian_count_after_random_points_too() -> None:
    search = scripted.search(scripted.SERVICE, scripted.FAST)
    options = {"initial": 4, "design": "random", "iterations": 3, "stop_ei": 0.0}
    assert len(explore(KINDS.make("bayesian", search, options), Service(search.aim), 20)) == 7


def test_bayesian_names_the_designs_it_has() -> None:
    with pytest.raises(InvalidInput, match="no design 'latin'") as raised:
        KINDS.make("bayesian", line(), {"design": "latin"})
    assert "sobol or random" in str(raised.value.hint)


def test_random_draws_every_point_as_likely() -> None:
    """First points of 3000 seeds over the 6 points; 20.5 is the 99.9 % quantile of chi-squared with 5 degrees."""
    counts = dict.fromkeys(Space.parse(scripted.TINY).points(), 0)
    for seed in range(3000):
        proposal = KINDS.make("random", scripted.search(scripted.TINY, scripted.FAST, seed=seed)).propose([])
        assert isinstance(proposal, Proposal)
        counts[proposal.point] += 1
    assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 20.5


def test_a_grid_takes_levels_of_continuous_knobs() -> None:
    space = Space.parse("knobs: {a: {choice: [x, y]}, cap: {real: [0, 1]}}")
    search = Search(space, COST, next(space.walk(1)), 50, 0)
    trials = explore(KINDS.make("grid", search, {"levels": 3}), Service(COST), 50)
    assert [str(t.point) for t in trials] == [f"a={a} cap={c}" for a in "xy" for c in ("0", "0.5", "1")]


def test_tpe_leaves_logging_as_it_was(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    search = scripted.search(scripted.SERVICE, scripted.COST)
    explore(KINDS.make("tpe", search, {"startup": 2}), Service(search.aim), 6)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before == logging.INFO
    assert logging.getLogger("optuna.storages._in_memory").filters == []
