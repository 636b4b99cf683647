"""What trials teach: always finite numbers, with what failed on the bad side."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelyard.domain.measurement import Interval
from modelyard.domain.study import Aim, Result, Trial, TrialState
from modelyard.tune import evidence
from tests.unit.tune import scripted

COST = Aim.parse(scripted.COST)
POINTS = scripted.search(scripted.TINY, scripted.COST).space.points()


def trial(i: int, result: Result | None, state: TrialState = TrialState.MEASURED) -> Trial:
    return Trial(i + 1, POINTS[i], state, "", result)


def test_measured_points_keep_their_losses_and_their_distance_to_the_slo() -> None:
    good, over = scripted.result(COST, [2.0], 10.0), scripted.result(COST, [1.0], 40.0)
    known = evidence.weigh([trial(0, good), trial(1, over)], COST)
    assert known.losses[:, 0] == pytest.approx([math.log(2), 0.0])
    assert known.errors[:, 0] == pytest.approx([0.03, 0.03])
    assert known.feasible.tolist() == [True, False]
    assert known.excess == pytest.approx([math.log(10 / 20) + 1.96 * 0.03, math.log(40 / 20) + 1.96 * 0.03], abs=1e-3)


def test_an_slo_that_only_the_interval_misses_counts_as_missed() -> None:
    close = scripted.result(COST, [1.0], 19.5, noise=0.05)
    assert evidence.weigh([trial(0, close)], COST).excess[0] > 0


def test_what_did_not_run_is_infeasible_and_as_bad_as_can_be() -> None:
    states = [TrialState.FAILED, TrialState.TIMED_OUT, TrialState.ABANDONED]
    trials = [trial(0, scripted.result(COST, [2.0], 10.0)), *(trial(i + 1, None, s) for i, s in enumerate(states))]
    known = evidence.weigh(trials, COST)
    assert known.measured.tolist() == [True, False, False, False]
    assert not known.feasible[1:].any()
    assert (known.losses[1:] > known.losses[0]).all()
    assert (known.excess[1:] > 0).all()


def test_numbers_are_finite_whatever_was_measured() -> None:
    endless = Result((math.inf,), (math.inf,), (), Interval(math.inf), False, "invalid")
    unknown = Result((1.0,), (math.nan,), (), None, False, "provisional")
    huge = Result((50.0,), (0.1,), (), Interval(1e9, 1e8, 1e10), False, "saturated")
    trials = [trial(0, endless), trial(1, unknown), trial(2, huge), trial(3, None, TrialState.FAILED)]
    for seen in ([], trials, trials[:1], [*trials, trial(4, scripted.result(COST, [1.0], 5.0))]):
        known = evidence.weigh(seen, COST)
        for array in (known.losses, known.errors, known.excess, known.excess_errors, *known.scalar(np.ones(1))):
            assert np.isfinite(array).all()


def test_an_overloaded_point_does_not_stretch_the_scale() -> None:
    trials = [trial(0, scripted.result(COST, [1.0], 5.0)), trial(1, scripted.result(COST, [1e6], 1e6))]
    assert np.ptp(evidence.weigh(trials, COST).losses) == pytest.approx(2.0)


def test_every_end_of_a_front_is_best_under_some_weights() -> None:
    aim = Aim.parse(scripted.BOTH)
    values = [(1.0, 9.0), (3.0, 3.0), (9.0, 1.0), (9.0, 9.0)]
    known = evidence.weigh([trial(i, scripted.result(aim, v, 5.0)) for i, v in enumerate(values)], aim)
    rng = np.random.default_rng(0)
    best = {int(np.argmin(known.scalar(evidence.weights(2, rng))[0])) for _ in range(100)}
    assert best == {0, 1, 2}
