"""How two answers compare."""

from __future__ import annotations

import numpy as np
import pytest

from modelyard.serving.models.comparison import Difference, ShadowStatistics, compare

NAN, INF = float("nan"), float("inf")


def numbers(*rows, dtype=np.float32):
    return np.array(rows, dtype)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (numbers([1, 2], [3, 4]), numbers([1, 2], [3, 4]), Difference(rows=2, rows_agreeing=2)),
        (numbers([1, 2], [3, 4]), numbers([1, 2.5], [5, 4]), Difference(False, 2.0, 2, 1)),
        (numbers([1, NAN]), numbers([1.5, NAN]), Difference(False, 0.5, 1, 1)),
        (numbers([1, NAN]), numbers([1, 2]), Difference(True, 0.0, 1, 1)),
        (numbers([1, INF]), numbers([1, -INF]), Difference(True, 0.0, 1, 0)),
        (numbers([1, 2]), numbers([1, 2], [3, 4]), Difference(True)),
        (numbers([7], dtype=np.uint8), numbers([9], dtype=np.uint8), Difference(False, 2.0)),
        (np.array([2**63], np.uint64), np.array([0], np.uint64), Difference(False, 2.0**63)),
        (np.array([True, False]), np.array([True, True]), Difference(False, 1.0)),
        (np.zeros((0, 4)), np.zeros((0, 4)), Difference()),
        (np.array([[b"a"]], object), np.array([[b"a"]], object), Difference()),
        (np.array([[b"a"]], object), np.array([[b"b"]], object), Difference(True)),
        (numbers([-3e38, 0]), numbers([3e38, 0]), Difference(False, 6e38, 1, 0)),
    ],
)
def test_one_output(ours, theirs, expected):
    found = compare([ours], [theirs])
    assert found.max_abs_error == pytest.approx(expected.max_abs_error)
    expected.max_abs_error = found.max_abs_error
    assert found == expected


def test_several_outputs_and_requests_add_up():
    total = ShadowStatistics("m", 2, offered=3, dropped=1)
    for theirs in (numbers([1, 2]), numbers([9, 2])):
        compare([numbers([1, 2]), numbers([5])], [theirs, numbers([6])]).into(total)
    assert (total.compared, total.mismatched, total.max_abs_error) == (2, 0, 8.0)
    assert (total.rows, total.rows_agreeing, total.missing) == (2, 1, 0)
