"""Aims are read and written; losses invert; points are canonical."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.domain.errors import InvalidInput
from modelyard.domain.study import LATENCIES, Aim, Goal, Objective, Point

OBJECTIVES = [
    *(Objective(Goal.LATENCY, s) for s in LATENCIES),
    *(Objective(g) for g in (Goal.THROUGHPUT, Goal.COST, Goal.MEMORY)),
]
numbers = st.integers(1, 10**6).map(lambda n: n / 100)


@given(st.lists(st.sampled_from(OBJECTIVES), min_size=1, max_size=3, unique=True), st.none() | numbers, numbers)
def test_an_aim_is_read_back_as_it_was_written(objectives: list[Objective], slo: float | None, rate: float) -> None:
    aim = Aim(tuple(objectives), slo_ms=slo, rate_rps=rate)
    again = Aim.parse(str(aim))
    assert again.objectives == aim.objectives
    assert str(again) == str(aim)


@given(st.text(st.sampled_from("minax cost under p99 <= 20 ms at 200 rps concurrent,.0")) | st.text(max_size=60))
def test_any_text_is_an_aim_or_a_clear_error(text: str) -> None:
    try:
        aim = Aim.parse(text)
    except InvalidInput:
        return
    assert aim.objectives


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cost", "is not an aim"),
        ("min cost", "needs one load"),
        ("max cost at 5 rps", "nobody wants 'max cost'"),
        ("min p42 at 5 rps", "'p42' cannot be an objective"),
        ("min cost at 0 rps", "positive"),
        ("min cost under p99 <= 0 ms at 5 rps", "positive"),
        ("min cost at 1.2.3 rps", "is not an aim"),
        ("min cost at 2.5 concurrent", "not a number of requests in flight"),
        ("min cost under p99 <= 20 ms at 4 concurrent", "not in a closed loop"),
        ("max rate at 5 rps", "under an SLO, alone"),
        ("max rate and min cost under p99 <= 20 ms", "under an SLO, alone"),
        ("min cost and min cost at 5 rps", "each once"),
    ],
)
def test_what_is_no_aim_is_told(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Aim.parse(text)


@pytest.mark.parametrize("objective", [*OBJECTIVES, Objective(Goal.RATE)], ids=str)
def test_less_loss_is_better_and_the_value_comes_back(objective: Objective) -> None:
    assert objective.value(objective.loss(7.5)) == pytest.approx(7.5)
    assert (objective.loss(2.0) < objective.loss(1.0)) == objective.goal.maximised
    assert objective.loss(0.0) == math.inf
    assert objective.loss(math.nan) == math.inf


def test_equal_knobs_are_equal_points() -> None:
    point = Point.of({"artifact": "onnx", "threads": 2, "cap": 0.5})
    assert point == Point.of(dict(point))
    assert hash(point) == hash(Point.of(dict(point)))
    assert str(point) == "artifact=onnx threads=2 cap=0.5"
    assert (point["threads"], point.get("none"), point.get("none", 3)) == (2, None, 3)
    with pytest.raises(KeyError):
        point["none"]
