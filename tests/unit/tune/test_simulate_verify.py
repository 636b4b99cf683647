"""The default strategy on functions whose best point is known, with simulators that err in known ways."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from modelyard.domain.errors import InvalidInput
from modelyard.domain.measurement import Interval
from modelyard.domain.study import Aim, Point, Prediction, Result, Trial, TrialState
from modelyard.tune.knobs import Choice, Integer
from modelyard.tune.ports import Proposal, Search, Stop
from modelyard.tune.simulate_verify import Options, SimulateVerify
from modelyard.tune.space import Space

SPACE = Space(
    {
        "artifact": Choice(("onnx", "openvino", "torch")),
        "threads": Integer(1, 4, log2=True),
        "replicas": Integer(1, 4, log2=True),
        "max_batch": Integer(1, 64, log2=True),
    },
    ("threads * replicas <= 4",),
)
AIM = Aim.parse("min cost under p99 <= 20 ms at 200 rps")
FACTORS = {"onnx": 1.0, "openvino": 0.8, "torch": 3.0}


def cost(point: Point) -> float:
    """Cheapest: openvino, 1 thread, 1 replica, batches of 16."""
    batch = math.log2(float(point["max_batch"]))
    return (
        FACTORS[str(point["artifact"])]
        * (1 + 0.15 * math.log2(float(point["threads"])) + 0.1 * math.log2(float(point["replicas"])))
        * (1 + 0.05 * (batch - 4) ** 2)
    )


def p99(point: Point) -> float:
    """Large batches are late."""
    return 4.0 + 0.2 * float(point["max_batch"])


def prediction(point: Point, factor: float = 1.0, p99_factor: float = 1.0) -> Prediction:
    late = p99(point) * p99_factor
    return Prediction((math.log(cost(point) * factor),), 200.0, late / 3, late / 3, late / 2, late, 0.5, late <= 20)


def measured(point: Point, number: int, noise: float = 0.0) -> Trial:
    value, late = cost(point) * math.exp(noise), p99(point)
    result = Result(
        losses=(math.log(value),),
        errors=(0.01,),
        values=(Interval(value),),
        p99_ms=Interval(late, late * 0.95, late * 1.05),
        feasible=late * 1.05 <= 20,
        verdict="valid",
    )
    return Trial(number, point, TrialState.MEASURED, "", result)


def search(predict=prediction, aim=AIM, budget=20) -> Search:
    return Search(
        SPACE, aim, Point.of({"artifact": "torch", "threads": 4, "replicas": 1, "max_batch": 1}), budget, 0, predict
    )


def run(strategy: SimulateVerify, budget: int = 30, noise: float = 0.0) -> tuple[list[Trial], str]:
    rng, trials = np.random.default_rng(1), []
    while len(trials) < budget:
        proposal = strategy.propose(trials)
        if isinstance(proposal, Stop):
            return trials, proposal.reason
        trials.append(measured(proposal.point, len(trials), noise * rng.standard_normal()))
    return trials, "budget"


def best(trials: list[Trial]) -> Point:
    return min((t for t in trials if t.feasible), key=lambda t: t.result.losses[0]).point


TRUE_BEST = min((p for p in SPACE.points() if p99(p) * 1.05 <= 20), key=cost)


def test_a_true_simulator_needs_few_measurements():
    trials, reason = run(SimulateVerify(search(), Options()))
    assert trials[0].point == TRUE_BEST
    assert len(trials) <= 4
    assert "simulated points" in reason


def test_an_error_common_to_all_points_does_not_prolong_the_search():
    trials, _ = run(SimulateVerify(search(lambda p: prediction(p, factor=1.5)), Options()))
    assert best(trials) == TRUE_BEST
    assert len(trials) <= 5


def test_a_simulator_that_flatters_one_artifact_is_corrected():
    def flattering(point: Point) -> Prediction:
        return prediction(point, factor=0.2 if point["artifact"] == "torch" else 1.0)

    trials, _ = run(SimulateVerify(search(flattering), Options()), budget=12)
    assert trials[0].point["artifact"] == "torch"
    assert best(trials)["artifact"] == "openvino"
    assert cost(best(trials)) <= 1.03 * cost(TRUE_BEST)


def test_a_p99_that_is_predicted_too_low_is_learned():
    trials, _ = run(SimulateVerify(search(lambda p: prediction(p, p99_factor=0.4)), Options()), budget=12)
    assert cost(best(trials)) <= 1.03 * cost(TRUE_BEST)


def test_noise_of_measurements_does_not_make_it_wander():
    trials, _ = run(SimulateVerify(search(), Options()), noise=0.02)
    assert cost(best(trials)) <= 1.03 * cost(TRUE_BEST)
    assert len(trials) <= 8


def test_nothing_feasible_is_searched_until_every_point_was_tried():
    impossible = Aim.parse("min cost under p99 <= 1 ms at 200 rps")
    strategy = SimulateVerify(search(aim=impossible), Options())
    proposal = strategy.propose([])
    assert isinstance(proposal, Proposal)
    assert proposal.point["max_batch"] == 1  # the least late


def test_a_neighbourhood_that_fails_is_left():
    strategy = SimulateVerify(search(), Options())
    trials: list[Trial] = []
    for number in range(12):
        proposal = strategy.propose(trials)
        assert isinstance(proposal, Proposal)
        if proposal.point["artifact"] != "openvino":
            return
        trials.append(Trial(number, proposal.point, TrialState.FAILED, "", detail="did not start"))
    raise AssertionError("twelve failures of openvino taught nothing")


def test_what_cannot_be_predicted_is_never_proposed():
    def only_onnx(point: Point) -> Prediction | None:
        return prediction(point) if point["artifact"] == "onnx" else None

    trials, _ = run(SimulateVerify(search(only_onnx), Options()))
    assert {t.point["artifact"] for t in trials} == {"onnx"}


def test_points_that_are_expected_to_give_no_value_neither_win_nor_spoil_the_rest():
    def torch_is_hopeless(point: Point) -> Prediction:
        found = prediction(point)
        return found if point["artifact"] != "torch" else replace(found, losses=(math.inf,), p99_ms=math.inf)

    strategy = SimulateVerify(search(torch_is_hopeless), Options())
    trials, stopped = run(strategy)
    assert {t.point["artifact"] for t in trials} == {"openvino"}
    assert "nan" not in stopped
    with_default = [*trials, measured(search().default, len(trials))]
    following = strategy.propose(with_default)
    assert "nan" not in following.reason
    assert isinstance(following, Stop) or following.point["artifact"] != "torch"


def test_without_predictions_it_says_what_to_use_instead():
    with pytest.raises(InvalidInput, match="nothing to simulate with"):
        SimulateVerify(search(None), Options())
    with pytest.raises(InvalidInput, match="none of the space's points"):
        SimulateVerify(search(lambda _: None), Options())
