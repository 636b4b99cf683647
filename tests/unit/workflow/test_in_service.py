"""The correction of in-process curves by what a server says of its runs."""

from __future__ import annotations

import pytest

from modelyard.domain.latency import CurvePoint
from modelyard.workflow.in_service import LONGEST_S, factor_of, scaled

ALONE = [CurvePoint(1, 1, 20e-6, 20e-6, 100), CurvePoint(16, 1, 200e-6, 200e-6, 100)]


def test_a_factor_compares_with_the_interpolated_curve():
    assert factor_of(30e-6, ALONE, 1) == pytest.approx(1.5)
    assert factor_of(220e-6, ALONE, 8.5) == pytest.approx(2.0)  # half way: 110 us


def test_a_factor_that_cannot_be_is_bounded():
    assert factor_of(10e-6, ALONE, 1) == 1.0
    assert factor_of(1.0, ALONE, 1) == 3.0


def test_between_sizes_the_factor_goes_along_the_logarithm_and_beyond_it_stays():
    factors = {1.0: 1.8, 16.0: 1.4}
    times = {rows: scaled(CurvePoint(rows, 1, 1e-4, 1e-4, 9), factors).wall_s / 1e-4 for rows in (1, 4, 16, 64)}
    assert times == pytest.approx({1: 1.8, 4: 1.6, 16: 1.4, 64: 1.4})


def test_everything_of_a_point_is_scaled_but_a_run_after_a_rest_never_shortened():
    point = CurvePoint(1, 1, 1e-4, 2e-4, 9, walls_s=(0.9e-4, 1e-4, 1.1e-4), rested_s=1.2e-4)
    found = scaled(point, {1.0: 1.5})
    assert found.wall_s == pytest.approx(1.5e-4)
    assert found.cpu_s == pytest.approx(3e-4)
    assert found.walls_s == pytest.approx((1.35e-4, 1.5e-4, 1.65e-4))
    assert found.rested_s == pytest.approx(1.5e-4)


def test_the_correction_fades_with_the_length_of_the_run():
    wall_s = LONGEST_S / 10**0.5
    assert scaled(CurvePoint(8, 1, wall_s, wall_s, 9), {1.0: 2.0}).wall_s == pytest.approx(1.5 * wall_s)
    assert scaled(CurvePoint(8, 1, LONGEST_S, LONGEST_S, 9), {1.0: 2.0}).wall_s == pytest.approx(LONGEST_S)
    assert scaled(CurvePoint(8, 1, 1e-4, 1e-4, 9), {}).wall_s == 1e-4
