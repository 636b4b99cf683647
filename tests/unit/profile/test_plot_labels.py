"""Labels of a plot can be read: none covers another or a point, and they stay near what they name."""

from __future__ import annotations

import re
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from modelyard.profile.plots import Shown, throughput_against_p99
from modelyard.profile.plots.labels import overlap, spread
from tests.builders import measurement

SIZE, MARKER = (14.0, 11.0), 4.0
coordinate = st.floats(0, 300)


@given(st.lists(st.tuples(coordinate, coordinate), max_size=25))
def test_no_label_covers_another_or_a_point(points):
    boxes = spread(points, [SIZE] * len(points), MARKER)
    assert not any(overlap(a, b) for a, b in combinations(boxes, 2))
    for box in boxes:
        for x, y in points:
            assert not overlap(box, (x - MARKER, y - MARKER, x + MARKER, y + MARKER))


def test_a_lonely_point_has_its_label_above_right():
    ((left, bottom, _, _),) = spread([(100.0, 50.0)], [SIZE], MARKER)
    assert (left, bottom) == (104.0, 54.0)


def test_ten_points_on_one_place_have_ten_labels_around_it():
    for left, bottom, right, top in spread([(100.0, 100.0)] * 10, [SIZE] * 10, MARKER):
        assert abs((left + right) / 2 - 100) < 60
        assert abs((bottom + top) / 2 - 100) < 60


def test_the_plot_has_a_label_for_each_of_many_like_measurements():
    alike = [measurement(f"m{n}", p99=(5 + n / 100, 4.9, 5.2), cost=1 + n / 500) for n in range(8)]
    plot = throughput_against_p99([Shown(m, 100 + n) for n, m in enumerate(alike)], chosen="m0", slo_ms=6)
    assert plot is not None
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>(10\d)</text>', plot.svg)
    assert sorted(text for _, _, text in found) == [str(100 + n) for n in range(8)]
    for (x, y, _), (u, v, _) in combinations(found, 2):
        assert abs(float(x) - float(u)) > 15 or abs(float(y) - float(v)) > 8
