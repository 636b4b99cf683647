"""The answer: the winner is the best of the confirmation, against the default and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from modelyard.domain.measurement import Interval
from modelyard.domain.study import Aim, Answer, Point, Prediction, Result, Standing, Study, Trial, TrialState
from modelyard.domain.workload import Arrival, Workload
from modelyard.tune.conclusion import Rules, conclude, confirmation_seed
from modelyard.tune.ports import Outcome, Search
from modelyard.tune.space import Space
from tests.unit.tune import scripted

SPACE = Space.parse("knobs: {n: {integer: [1, 20]}}")
COST = Aim.parse(scripted.COST)
BOTH = Aim.parse(scripted.BOTH)
CLOCK = iter(range(100_000)).__next__


def at(n: int) -> Point:
    return Point.of({"n": n})


def seen(cost: float, p99_ms: float = 10.0, noise: float = 0.03) -> Result:
    return scripted.result(COST, [cost], p99_ms, noise)


class Bench:
    """Confirms with results given by point; tells what it was asked for."""

    def __init__(self, results: Mapping[int, Result | None]) -> None:
        self._results = results
        self.asked: list[list[int]] = []
        self.seeds: list[int] = []

    def confirm(self, points: Sequence[Point], seed: int) -> list[Outcome]:
        self.asked.append([int(p["n"]) for p in points])
        self.seeds.append(seed)
        return [self._outcome(self._results[int(p["n"])]) for p in points]

    @staticmethod
    def _outcome(result: Result | None) -> Outcome:
        if result is None:
            return Outcome(TrialState.FAILED, detail="it did not start")
        return Outcome(TrialState.MEASURED, result)


def concluded(
    tried: Mapping[int, Result | None], bench: Bench, *, default: int = 20, aim: Aim = COST, rules: Rules | None = None
) -> tuple[Study, Answer]:
    search = Search(SPACE, aim, at(default), 10, 0)
    trials = [scripted.trial(i + 1, at(n), Bench._outcome(r)) for i, (n, r) in enumerate(tried.items())]
    study = conclude(scripted.study(search, trials), search, "done", bench.confirm, rules or Rules(), CLOCK)
    assert study.answer is not None
    return study, study.answer


def point_of(study: Study, number: int | None) -> int:
    return int(study.trials[(number or 0) - 1].point["n"])


def test_the_confirmation_alone_names_the_winner() -> None:
    """The luckiest value of the search is not the best when measured again."""
    bench = Bench({1: seen(2.0), 2: seen(1.0), 3: seen(1.5), 20: seen(3.0)})
    tried = {1: seen(0.98, noise=0.1), 2: seen(1.05, noise=0.1), 3: seen(1.02, noise=0.1), 4: seen(5.0)}
    study, answer = concluded(tried, bench)
    assert bench.asked == [[1, 3, 2, 20]], "whose intervals overlap the best's, at most 3, and the default"
    assert point_of(study, answer.best) == 2
    assert study.trials[(answer.best or 0) - 1].confirms == 2
    assert not answer.default_as_good


def test_only_contenders_are_confirmed() -> None:
    bench = Bench({1: seen(1.0), 20: seen(3.0)})
    concluded({1: seen(1.0), 2: seen(1.5), 3: seen(2.0)}, bench)
    assert bench.asked == [[1, 20]]


def test_the_winner_s_curse_is_not_announced() -> None:
    """Of 20 equal points the search's best looks 12 % better; the confirmation says what it is."""
    rng = np.random.default_rng(1)
    tried = {n: seen(math.exp(0.1 * rng.standard_normal()), noise=0.1) for n in range(1, 20)}
    tried[20] = seen(1.0, noise=0.1)
    bench = Bench({n: seen(math.exp(0.02 * rng.standard_normal()), noise=0.1) for n in range(1, 21)})
    study, answer = concluded(tried, bench)
    assert min(r.values[0].value for r in tried.values() if r is not None) < 0.88
    assert answer.default_as_good
    assert point_of(study, answer.best) == 20


def test_the_default_is_kept_where_it_is_as_good() -> None:
    study, answer = concluded({1: seen(1.0)}, Bench({1: seen(1.0), 20: seen(1.05)}))
    assert answer.default_as_good
    assert point_of(study, answer.best) == 20
    standings = {point_of(study, r.trial): r.standing for r in answer.ranking}
    assert standings == {20: Standing.BEST, 1: Standing.TIED}


def test_pairs_can_show_that_the_default_is_worse() -> None:
    """5 % between them in every block, under a noise of 30 % that both share."""
    rng = np.random.default_rng(0)
    shared = 0.3 * rng.standard_normal(5)
    fast = replace(seen(1.0, noise=0.13), blocks=tuple((float(x),) for x in shared))
    slow = replace(seen(1.05, noise=0.13), blocks=tuple((float(x + 0.05 + 0.004 * i),) for i, x in enumerate(shared)))
    study, answer = concluded({1: seen(1.0)}, Bench({1: fast, 20: slow}))
    assert not answer.default_as_good
    assert point_of(study, answer.best) == 1
    assert answer.ranking[1].standing is Standing.DOMINATED


def repeated(ratio: float, count: int) -> list[Answer]:
    """Answers about three contenders and a default that is so many times as dear, with five blocks of 10 % noise."""
    rng = np.random.default_rng(7)

    def measured(cost: float) -> Result:
        blocks = tuple((math.log(cost) + 0.1 * float(x),) for x in rng.standard_normal(5))
        loss = float(np.mean(blocks))
        return replace(seen(math.exp(loss), noise=0.1 / math.sqrt(5)), blocks=blocks)

    tried = {n: seen(1.0) for n in (1, 2, 3)}
    return [
        concluded(tried, Bench({1: measured(1.0), 2: measured(1.0), 3: measured(1.0), 20: measured(ratio)}))[1]
        for _ in range(count)
    ]


def test_a_default_that_is_as_good_is_seldom_called_worse() -> None:
    """In 5 % of all answers at most, over all comparisons together; the standard error of 400 is 1.1 %."""
    assert np.mean([not answer.default_as_good for answer in repeated(1.0, 400)]) < 0.08


def test_a_default_that_is_worse_is_mostly_called_so() -> None:
    assert np.mean([not answer.default_as_good for answer in repeated(1.4, 100)]) > 0.9


def test_no_confirmed_point_is_better_than_what_is_kept() -> None:
    for answer in repeated(1.1, 100):
        assert Standing.BETTER not in {ranked.standing for ranked in answer.ranking}


def test_a_set_of_equal_points_has_contenders() -> None:
    """Of 19 points that are all the same, none is likely to be nondominated."""
    same = {n: scripted.result(BOTH, [5, 5], 5, noise=0.3) for n in range(1, 21)}
    bench = Bench(same)
    _, answer = concluded(same, bench, aim=BOTH)
    assert answer.best is not None


def test_a_default_the_search_tried_is_measured_again() -> None:
    study, _ = concluded({20: seen(3.0), 1: seen(1.0)}, Bench({1: seen(1.0), 20: seen(3.0)}))
    assert [(t.number, t.confirms) for t in study.trials] == [(1, None), (2, None), (3, 2), (4, 1)]


def test_a_default_that_did_not_run_is_not_tried_again() -> None:
    bench = Bench({1: seen(1.0)})
    concluded({20: None, 1: seen(1.0)}, bench)
    assert bench.asked == [[1]]


def test_a_default_that_was_not_tried_is_marked() -> None:
    study, answer = concluded({1: seen(1.0)}, Bench({1: seen(1.0), 20: seen(2.0)}))
    assert study.trials[-1].confirms == 0
    assert study.trials[-1].reason == "the default, to compare with"
    assert len(answer.ranking) == 2


def test_where_no_contender_holds_the_next_are_confirmed() -> None:
    bench = Bench({1: seen(1.0, 30.0), 2: seen(2.0), 20: seen(3.0, 50.0)})
    study, answer = concluded({1: seen(1.0), 2: seen(2.0), 3: seen(3.0)}, bench)
    assert bench.asked == [[1, 20], [2]]
    assert len(set(bench.seeds)) == 2
    assert point_of(study, answer.best) == 2
    assert {point_of(study, r.trial): r.standing for r in answer.ranking}[1] is Standing.INFEASIBLE


def test_rounds_of_confirmation_are_bounded() -> None:
    over = {n: seen(1.0, 30.0) for n in range(1, 21)}
    bench = Bench(over)
    _, answer = concluded({n: seen(float(2**n)) for n in range(1, 9)}, bench)
    assert bench.asked == [[1, 20], [2], [3]]
    assert answer.best is None


def test_nothing_feasible_is_an_answer() -> None:
    bench = Bench({20: seen(1.0, 50.0)})
    _, answer = concluded({1: seen(1.0, 40.0), 2: seen(2.0, 25.0), 3: None}, bench)
    assert bench.asked == [[20]], "the default might be"
    assert answer.best is None
    assert answer.binding == "no configuration was shown to keep p99 <= 20 ms; the nearest: 25.0 ms with n=2"
    assert {r.standing for r in answer.ranking} == {Standing.INFEASIBLE}


def test_where_nothing_runs_the_reason_is_told() -> None:
    _, answer = concluded({1: None}, Bench({20: None}))
    assert answer.best is None
    assert answer.binding == "no configuration could be measured: it did not start"


def test_confirmations_have_seeds_of_their_own() -> None:
    seeds = {confirmation_seed(seed, round_) for seed in range(50) for round_ in range(3)}
    assert len(seeds) == 150
    assert not seeds & set(range(1000))


def test_the_ranking_has_every_point_once() -> None:
    tried = {1: seen(1.0), 2: seen(1.01), 3: seen(1.6), 4: seen(1.0, 60.0), 5: None}
    study, answer = concluded(tried, Bench({1: seen(1.02), 2: seen(1.0), 20: seen(2.0)}))
    assert sorted(point_of(study, r.trial) for r in answer.ranking) == [1, 2, 3, 4, 5, 20]
    assert answer.ranking[0].trial == answer.best
    standings = {point_of(study, r.trial): r.standing for r in answer.ranking}
    assert standings == {
        1: Standing.TIED,
        2: Standing.BEST,
        3: Standing.DOMINATED,
        4: Standing.INFEASIBLE,
        5: Standing.INFEASIBLE,
        20: Standing.DOMINATED,
    }


def test_several_objectives_give_a_set() -> None:
    def both(p99: float, cost: float) -> Result:
        return scripted.result(BOTH, [p99, cost], p99, noise=0.01)

    results = {1: both(5, 5), 2: both(2, 20), 3: both(20, 2), 4: both(8, 8), 20: both(30, 30)}
    bench = Bench(results)
    study, answer = concluded(results, bench, aim=BOTH)
    standings = {point_of(study, r.trial): r.standing for r in answer.ranking}
    assert point_of(study, answer.best) == 1, "the least product"
    assert standings == {
        1: Standing.BEST,
        2: Standing.BETTER,
        3: Standing.BETTER,
        4: Standing.DOMINATED,
        20: Standing.DOMINATED,
    }
    assert [sorted(asked) for asked in bench.asked] == [[1, 2, 3, 20]]


def test_the_error_of_the_predictions_is_their_median() -> None:
    trials = []
    for i, off in enumerate([1.1, 1.2, 0.5]):
        predicted = Prediction((math.log(off),), 1.0, 1.0, 1.0, 1.0, 10.0 * off, 1.0, True, saturated=i == 2)
        trials.append(Trial(i + 1, at(i + 1), TrialState.MEASURED, "", seen(1.0), predicted))
    search = Search(SPACE, COST, at(1), 3, 0)
    bench = Bench({n: seen(1.0) for n in (1, 2, 3)})
    study = conclude(scripted.study(search, trials[:2]), search, "", Bench({}).confirm, Rules(rounds=0), CLOCK)
    assert study.answer is not None
    expected = (math.log(1.1) + math.log(1.2)) / 2
    assert study.answer.prediction_error == pytest.approx({"cost": expected, "p99": expected})
    with_saturated = conclude(scripted.study(search, trials), search, "", bench.confirm, Rules(rounds=0), CLOCK)
    assert with_saturated.answer is not None
    assert with_saturated.answer.prediction_error == pytest.approx(study.answer.prediction_error)


def test_the_slo_that_keeps_a_cheaper_point_out_is_named() -> None:
    p99 = Interval(25.0, 24.0, 26.0)
    cheaper = replace(seen(0.5, 25.0), p99_ms=p99)
    _, answer = concluded({1: seen(1.0), 2: cheaper, 3: seen(0.7, 90.0)}, Bench({1: seen(1.0), 20: seen(2.0)}))
    assert answer.binding == f"p99 <= 20 ms keeps out n=2 ({p99} ms) and 1 more"


@pytest.mark.parametrize(
    ("slope", "feasible", "words"),
    [
        (-1.0, True, "n <= 5 keeps out n=6, which is predicted to be better"),
        (1.0, True, ""),
        (-1.0, False, ""),
    ],
)
def test_a_constraint_that_keeps_a_better_prediction_out_is_named(slope: float, feasible: bool, words: str) -> None:
    space = Space.parse("knobs: {n: {integer: [1, 20]}}\nconstraints: [n <= 5]")

    def predict(point: Point) -> Prediction:
        n = float(point["n"])
        return Prediction((slope * n,), 1.0, 1.0, 1.0, 1.0, 10.0, 1.0, feasible or n <= 5)

    search = Search(space, COST, at(1), 3, 0, predict)
    bench = Bench({5: seen(1.0), 1: seen(2.0)})
    tried = [scripted.trial(1, at(5), Outcome(TrialState.MEASURED, seen(1.0)))]
    study = conclude(scripted.study(search, tried), search, "", bench.confirm, Rules(), CLOCK)
    assert study.answer is not None
    assert study.answer.binding == words


def test_a_knob_at_its_upper_bound_is_named() -> None:
    _, answer = concluded({20: seen(1.0), 1: seen(3.0)}, Bench({20: seen(1.0)}))
    assert answer.binding == "n is at its upper bound 20"


def at_a_rate(tried: Mapping[int, Result]) -> tuple[Study, Search]:
    """A study under a load whose timeout is 10 s, with these trials."""
    search = Search(SPACE, COST, at(20), 10, 0)
    trials = [scripted.trial(i + 1, at(n), Bench._outcome(r)) for i, (n, r) in enumerate(tried.items())]
    work = Workload(Arrival.POISSON, rate_rps=200.0, timeout_s=10.0)
    return replace(scripted.study(search, trials), workload=work), search


@pytest.mark.parametrize(
    ("p99s_ms", "told"),
    [
        ((10_000.0, 10_003.0), "in none did 99 % of the requests succeed within their timeout"),
        ((10_000.0, 45.0), "the nearest: 45.0 ms with n=2"),
    ],
)
def test_a_timeout_is_no_near_miss(p99s_ms: tuple[float, float], told: str) -> None:
    study, search = at_a_rate({n + 1: seen(1.0, p99) for n, p99 in enumerate(p99s_ms)})
    answer = conclude(study, search, "", Bench({}).confirm, Rules(rounds=0), CLOCK).answer
    assert answer is not None
    assert answer.binding == f"no configuration was shown to keep p99 <= 20 ms; {told}"


def test_a_timeout_is_no_error_of_the_prediction() -> None:
    study, search = at_a_rate({1: seen(1.0), 2: seen(1.0, 10_000.0)})
    expected = Prediction((math.log(1.2),), 1.0, 1.0, 1.0, 1.0, 12.0, 1.0, True)
    study = replace(study, trials=tuple(replace(t, prediction=expected) for t in study.trials))
    answer = conclude(study, search, "", Bench({}).confirm, Rules(rounds=0), CLOCK).answer
    assert answer is not None
    assert answer.prediction_error == pytest.approx({"cost": math.log(1.2), "p99": math.log(1.2)})


def test_measurements_that_do_not_tell_the_objective_are_not_called_unmeasured() -> None:
    aim = Aim.parse("min p99 at 4 concurrent")
    short = replace(scripted.result(aim, [1.0], 5.0), losses=(math.inf,), feasible=False, p99_ms=None)
    _, answer = concluded({1: short, 20: short}, Bench({20: short}), aim=aim)
    assert "takes more or longer blocks" in answer.binding
