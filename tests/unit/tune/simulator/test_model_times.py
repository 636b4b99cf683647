"""Run times between and beyond what was measured."""

from __future__ import annotations

import pytest

from modelyard.domain.errors import InvalidInput
from modelyard.domain.latency import ContentionPoint, Curve, CurvePoint
from modelyard.tune.simulator import ModelTimes


def point(batch: int, wall_s: float, *walls: float, threads: int = 1, cpu_s: float | None = None) -> CurvePoint:
    return CurvePoint(batch, threads, wall_s, wall_s if cpu_s is None else cpu_s, 10, walls)


def test_between_two_sizes_walls_are_on_the_line() -> None:
    times = ModelTimes([point(1, 1.0), point(4, 4.0)])
    assert [times.run(n).wall_s for n in (1, 2, 3, 4)] == pytest.approx([1, 2, 3, 4])


def test_beyond_the_largest_size_the_line_goes_on() -> None:
    assert ModelTimes([point(1, 1.0), point(4, 2.5)]).run(8).wall_s == pytest.approx(4.5)


def test_a_falling_line_does_not_reach_zero() -> None:
    assert ModelTimes([point(1, 2.0), point(2, 1.0)]).run(64).wall_s > 0


def test_one_measured_size_is_scaled() -> None:
    assert ModelTimes([point(2, 1.0)]).run(6).wall_s == pytest.approx(3.0)


def test_the_spread_is_interpolated_with_the_size() -> None:
    times = ModelTimes([point(1, 1.0, 0.5, 1.0, 1.5), point(3, 3.0, 1.5, 3.0, 4.5)])
    run = times.run(2)
    assert (run.walls_s[0], run.wall_s, run.walls_s[-1]) == pytest.approx((1.0, 2.0, 3.0), rel=0.02)


def test_sizes_with_and_without_a_spread_go_together() -> None:
    run = ModelTimes([point(1, 1.0, 0.9, 1.0, 1.1), point(3, 3.0)]).run(2)
    assert run.wall_s == pytest.approx(2.0)
    assert run.walls_s[0] < run.walls_s[-1]


def test_a_run_keeps_its_cpu_time_over_its_wall_busy_and_not_more_than_its_threads() -> None:
    assert ModelTimes([point(1, 1.0, cpu_s=1.6, threads=2)]).run(1).width == pytest.approx(1.6)
    assert ModelTimes([point(1, 1.0, cpu_s=1.6)]).run(1).width == 1.0


def test_a_curve_without_these_threads_is_an_error_that_names_the_known() -> None:
    with pytest.raises(InvalidInput) as caught:
        ModelTimes.of(Curve("x", (point(1, 1.0), point(1, 1.0, threads=4))), 2, 1, 4)
    assert "1, 4" in (caught.value.why or "")


def test_the_slowdown_is_what_sharing_the_cores_does_not_explain() -> None:
    """Two copies of two threads on two cores take twice as long by sharing alone."""
    points = (point(1, 1.0, threads=2), point(1, 1.0))
    together = (ContentionPoint(2, 2, 1, 3.0), ContentionPoint(2, 1, 1, 1.2))
    curve = Curve("x", points, contention=together)
    assert ModelTimes.of(curve, 2, 2, 2).slowdown == pytest.approx((1.0, 1.5))
    assert ModelTimes.of(curve, 1, 3, 4).slowdown == pytest.approx((1.0, 1.2, 1.2))


def test_copies_that_seem_faster_are_noise() -> None:
    curve = Curve("x", (point(1, 1.0),), contention=(ContentionPoint(2, 1, 1, 0.9),))
    assert ModelTimes.of(curve, 1, 2, 2).slowdown == (1.0, 1.0)
