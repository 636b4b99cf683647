"""Comparisons of results: known probabilities, pairs, and who is dominated."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelyard.domain.measurement import Interval
from modelyard.domain.study import Result, Standing, Trial, TrialState
from modelyard.tune import ranking
from tests.unit.tune import scripted


def made(*losses: float, error: float = 0.1, feasible: bool = True, p99: Interval | None = None) -> Result:
    return Result(losses, (error,) * len(losses), (), p99, feasible, "valid")


def paired(losses: list[float], error: float = 0.5) -> Result:
    return Result((sum(losses) / len(losses),), (error,), (), None, True, "valid", blocks=tuple((x,) for x in losses))


def trial(number: int, result: Result | None) -> Trial:
    state = TrialState.MEASURED if result else TrialState.FAILED
    return Trial(number, scripted.search(scripted.TINY, scripted.FAST).space.points()[number % 6], state, "", result)


def test_the_probability_to_be_worse_is_that_of_the_difference() -> None:
    """A difference of 1.645 of its standard errors: 95 %."""
    difference = 1.6449 * math.hypot(0.1, 0.1)
    assert ranking.worse(made(difference), made(0.0)) == pytest.approx(0.95, abs=1e-4)
    assert ranking.worse(made(0.0), made(difference)) == pytest.approx(0.05, abs=1e-4)
    assert ranking.worse(made(0.3), made(0.3)) == pytest.approx(0.5)


def test_several_objectives_are_compared_by_their_product() -> None:
    assert ranking.worse(made(1.0, -1.0), made(0.0, 0.0)) == pytest.approx(0.5)
    assert ranking.worse(made(1.0, 0.0), made(0.0, 0.0)) > 0.99


def test_pairs_show_what_two_intervals_hide() -> None:
    """Blocks that differ by 5 % each time, under a noise of 50 % that both share."""
    rng = np.random.default_rng(0)
    shared = 0.5 * rng.standard_normal(5)
    slow, fast = paired(list(shared + 0.05 + 0.005 * rng.standard_normal(5))), paired(list(shared))
    assert ranking.worse(slow, fast) > 0.99
    assert ranking.worse(made(0.05, error=0.5), made(0.0, error=0.5)) < 0.6


def test_pairs_without_a_difference_show_none() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.standard_normal((2, 6)) * 0.1
    assert 0.05 < ranking.worse(paired(list(one)), paired(list(other))) < 0.95
    assert ranking.worse(paired([0.1] * 4), paired([0.1] * 4)) == 0.5


def test_blocks_of_other_numbers_are_no_pairs() -> None:
    assert ranking.worse(paired([1.0, 1.1, 1.2], 0.1), paired([0.0, 0.1], 0.1)) > 0.99


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_without_an_error_nothing_is_shown(error: float) -> None:
    assert ranking.worse(made(1.0, error=error), made(0.0)) == pytest.approx(0.5, abs=0.01)


def test_with_one_objective_not_dominated_means_the_best() -> None:
    chances = ranking.nondominated([made(0.0), made(0.0), made(5.0)])
    assert chances.sum() == pytest.approx(1.0)
    assert chances == pytest.approx([0.5, 0.5, 0.0], abs=0.03)


def test_a_front_is_not_dominated_and_what_is_behind_is() -> None:
    front = [made(0.0, 2.0, error=0.01), made(1.0, 1.0, error=0.01), made(2.0, 0.0, error=0.01)]
    chances = ranking.nondominated([*front, made(1.2, 1.2, error=0.01), made(1.0, 1.0, error=0.3)])
    assert chances[:2] == pytest.approx([1.0, 1.0], abs=0.3)
    assert chances[3] == 0.0
    assert 0.3 < chances[4] < 1.0


def test_who_is_nearly_as_good_is_tied() -> None:
    best = trial(1, made(0.0))
    others = [trial(2, made(0.05)), trial(3, made(2.0)), trial(4, None), trial(5, made(-1.0, feasible=False))]
    ranked = ranking.against(best, [*others, best], None)
    assert [(r.trial, r.standing) for r in ranked] == [
        (1, Standing.BEST),
        (2, Standing.TIED),
        (3, Standing.DOMINATED),
        (4, Standing.INFEASIBLE),
        (5, Standing.INFEASIBLE),
    ]
    assert ranked[1].confidence == pytest.approx(2 * (1 - 0.6382), abs=1e-3), "the two-sided p-value of 0.35 sigma"
    assert ranked[2].confidence > 0.999


def test_a_point_whose_confirmation_was_not_made_can_be_better() -> None:
    ranked = ranking.against(trial(1, made(0.0)), [trial(1, made(0.0)), trial(2, made(-1.0))], None)
    assert [(r.trial, r.standing) for r in ranked] == [(1, Standing.BEST), (2, Standing.BETTER)]


def test_points_of_a_pareto_set_carry_their_probability() -> None:
    knee = trial(1, made(1.0, 1.0, error=0.01))
    others = [trial(2, made(0.0, 3.0, error=0.01)), trial(3, made(2.0, 2.0, error=0.01))]
    ranked = {r.trial: r for r in ranking.against(knee, [knee, *others], None)}
    assert ranked[1].standing is Standing.BEST
    assert ranked[2].standing is Standing.BETTER
    assert ranked[3].standing is Standing.DOMINATED
    assert min(r.confidence for r in ranked.values()) > 0.99


def test_how_surely_a_p99_is_over_the_slo() -> None:
    assert ranking.over(Interval(20.0, 18.0, 22.2), 20.0) == pytest.approx(0.5)
    assert ranking.over(Interval(30.0, 28.0, 32.0), 20.0) > 0.999
    assert ranking.over(Interval(19.0), 20.0) == 0.0


def test_the_error_of_an_interval_is_that_of_its_logarithm() -> None:
    half = math.exp(1.96 * 0.07)
    assert ranking.log_error(Interval(5.0, 5.0 / half, 5.0 * half)) == pytest.approx(0.07, rel=1e-3)
    assert ranking.log_error(Interval(5.0)) == 0.0
