"""Round-trip time against concurrency, with single requests: what the design-space paper draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from modelyard.profile.plots import axes as ax
from modelyard.profile.plots import svg
from modelyard.profile.plots.figure import Plot, Shown, by_configuration, distinct, left_out, ms, sentence
from modelyard.profile.plots.scales import logarithmic, ordinal

MOST_SERIES: Final = 4
_GOLDEN: Final = 0.6180339887498949
"""Multiples of it, less their whole part, fill (0, 1) evenly (Weyl): a jitter that needs no random numbers."""


def round_trips(shown: Sequence[Shown]) -> Plot | None:
    """Latency of single requests and the median at each number in flight, a series for each configuration.

    Of closed loops with samples. None where no configuration has two different numbers in flight.
    """
    closed = [s for s in shown if not s.measurement.workload.open_loop and s.distribution is not None]
    groups = [(label, _once_each(group)) for label, group in by_configuration(closed).items()]
    groups = [(label, group) for label, group in groups if len(group) > 1]
    drawn = groups[:MOST_SERIES]
    if not drawn:
        return None
    names = distinct([label for label, _ in drawn])
    levels = sorted({s.measurement.workload.concurrency for _, group in drawn for s in group})
    entries = [ax.Entry(names[label], "line", svg.series(n)) for n, (label, _) in enumerate(drawn)]
    failed = any(s.distribution and s.distribution.failed for _, group in drawn for s in group)
    head, height = ax.legend([*entries, *((ax.Entry("failed: full timeout", "cross", "wrong"),) if failed else ())])
    values = [
        float(v) for _, group in drawn for s in group if s.distribution for v in s.distribution.points_ms[[0, -1]]
    ]
    y = logarithmic([max(value, 1e-4) for value in values])
    axes = ax.below(height, ordinal([str(level) for level in levels]), y, height=250)
    body = [_series(axes, group, levels, (n, len(drawn)), svg.series(n)) for n, (_, group) in enumerate(drawn)]
    caption = sentence(
        "Points: single requests, spread sideways, at most 300 a column, evenly by rank with the first and the last.",
        "Line: medians, with their 95 % intervals over blocks. Columns are evenly spaced, not to scale.",
        left_out(len(groups) - len(drawn), "configurations are in the table"),
    )
    frame = axes.draw("requests in flight (closed loop)", "round-trip time, ms")
    return Plot("Round-trip time against concurrency", caption, svg.document(ax.total_height(axes), head, frame, *body))


def _once_each(group: Sequence[Shown]) -> list[Shown]:
    """The last measurement of each number in flight, in their order."""
    last = {s.measurement.workload.concurrency: s for s in group}
    return [last[level] for level in sorted(last)]


def _series(axes: ax.Axes, group: Sequence[Shown], levels: Sequence[int], place: tuple[int, int], class_: str) -> str:
    number, count = place
    lane = 0.8 / count
    points, marks, line = [], [], []
    for s in group:
        centre = levels.index(s.measurement.workload.concurrency) - 0.4 + lane * (number + 0.5)
        points.append(_points(axes, s, centre, lane * 0.9))
        x, y = axes.at(centre, s.measurement.indicators.p50_ms.value)
        line.append((x, y))
        marks.append(_median(axes, s, x, y))
    return svg.group(*points, svg.polyline(line, "line"), *marks, class_=class_)


def _points(axes: ax.Axes, s: Shown, centre: float, width: float) -> str:
    d = s.distribution
    if d is None:
        return ""
    sideways = [centre + (((n + 1) * _GOLDEN) % 1 - 0.5) * width for n in range(len(d.points_ms))]
    places = [axes.at(x, float(y)) for x, y in zip(sideways, d.points_ms, strict=True)]
    good = svg.dots(place for place, ok in zip(places, d.points_ok, strict=True) if ok)
    bad = [ax.mark("cross", x, y, "wrong", 2.5) for (x, y), ok in zip(places, d.points_ok, strict=True) if not ok]
    return svg.group(good, *bad, hover=s.hover)


def _median(axes: ax.Axes, s: Shown, x: float, y: float) -> str:
    p50 = s.measurement.indicators.p50_ms
    bars = []
    if p50.low is not None and p50.high is not None:
        bars.append(svg.line(x, axes.at_y(p50.low), x, axes.at_y(p50.high), "thin"))
    kind, class_ = ("cross", "wrong") if s.doubtful else ("solid", "")
    return svg.group(*bars, ax.mark(kind, x, y, class_, 3.5), hover=f"{s.hover}\nmedian {ms(p50)}")
