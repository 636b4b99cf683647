"""Throughput against p99: what each configuration does under each load."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from modelyard.domain.figures import figure
from modelyard.domain.measurement import Interval, Validity
from modelyard.profile.plots import axes as ax
from modelyard.profile.plots import svg
from modelyard.profile.plots.figure import Plot, Shown, by_configuration, distinct, in_order_of_load, left_out, sentence
from modelyard.profile.plots.labels import beside
from modelyard.profile.plots.scales import Scale, linear, logarithmic

MOST_LABELS: Final = 40
_FARTHEST: Final = 4.0
"""How far an interval may stretch an axis: a factor beyond the values themselves; the rest is cut at the frame."""
_KINDS: Final = {
    "star": "chosen",
    "solid": "valid",
    "hollow": "provisional",
    "diamond": "closed loop: capacity, not latency",
    "triangle": "saturated",
    "cross": "invalid",
}


@dataclass(frozen=True, slots=True)
class _Point:
    shown: Shown
    x: Interval
    y: Interval
    kind: str


def throughput_against_p99(
    shown: Sequence[Shown], *, chosen: str | None = None, slo_ms: float | None = None
) -> Plot | None:
    """One point per measurement that has a p99, with both intervals; the number is the row of the table.

    Under one offered rate all throughputs are that rate; then the cost takes the place of the throughput. Points of one
    configuration under several rates are joined. None where no measurement has a p99.
    """
    points = [
        _Point(s, s.measurement.indicators.throughput_rps, s.measurement.indicators.p99_ms, _kind(s, chosen))
        for s in shown
        if s.measurement.indicators.p99_ms is not None
    ]
    without = len(shown) - len(points)
    rates = [p.x.value for p in points]
    by_cost = len(points) > 1 and max(rates) < 1.25 * min(rates)
    if by_cost:
        points = [_Point(p.shown, _cost(p.shown), p.y, p.kind) for p in points if _has_cost(p.shown)]
    if not points:
        return None
    groups = by_configuration([p.shown for p in points])
    colours = {s.number: svg.series(n) for n, group in enumerate(groups.values()) for s in group}
    head, height = ax.legend(_entries(points, list(groups), slo_ms))
    steady = [p for p in points if not p.shown.doubtful] or points
    x = _scale([p.x for p in points], log=not by_cost and max(rates) > 30 * min(rates))
    axes = ax.below(height, x, _scale([p.y for p in steady], log=True, also=slo_ms), height=250)
    beyond = sum(1 for p in points if p.y.value > axes.y.high)
    body = [_joined(axes, points, groups.values()), *_limit(axes, slo_ms)]
    body += [_drawn(axes, p, colours[p.shown.number]) for p in points]
    if len(points) <= MOST_LABELS:
        body += beside([axes.at(p.x.value, p.y.value) for p in points], [str(p.shown.number) for p in points])
    title = f"Cost against p99 (all at about {figure(rates[0])} requests/s)" if by_cost else "Throughput against p99"
    frame = axes.draw("cost per 1M requests" if by_cost else "throughput, requests/s", "p99, ms")
    caption = sentence(
        "Bars: 95 % intervals; one that leaves the frame is longer than can be shown.",
        f"{beyond} at the upper edge lie above it." if beyond else "",
        "Numbers: rows of the table." if len(points) <= MOST_LABELS else "Rest the pointer on a point for its row.",
        left_out(without, "had too few requests for a p99"),
    )
    return Plot(title, caption, svg.document(ax.total_height(axes), head, frame, *body))


def _kind(s: Shown, chosen: str | None) -> str:
    m = s.measurement
    if m.verdict.validity is Validity.INVALID:
        return "cross"
    if m.verdict.saturated:
        return "triangle"
    if m.id == chosen:
        return "star"
    if not m.workload.open_loop:
        return "diamond"
    return "solid" if m.verdict.validity is Validity.VALID else "hollow"


def _has_cost(s: Shown) -> bool:
    return s.measurement.indicators.cost_known


def _cost(s: Shown) -> Interval:
    i = s.measurement.indicators
    return i.cost_interval or Interval(i.cost_per_million)


def _entries(points: Sequence[_Point], names: Sequence[str], slo_ms: float | None) -> list[ax.Entry]:
    """Colours of configurations first, then what the marks mean, those that occur."""
    kinds, shortened = {p.kind for p in points}, distinct(names)
    entries = [ax.Entry(shortened[name], "bar", svg.series(n)) for n, name in enumerate(names[: svg.SERIES])]
    if len(names) > svg.SERIES:
        entries.append(ax.Entry(f"{len(names) - svg.SERIES} others", "bar", svg.series(svg.SERIES)))
    for kind, words in _KINDS.items():
        if kind in kinds:
            entries.append(ax.Entry(words, kind, "wrong" if kind in ("cross", "triangle") else "s7"))
    return [*entries, *((ax.Entry(f"SLO {slo_ms:g} ms", "limit", "wrong"),) if slo_ms else ())]


def _scale(intervals: Sequence[Interval], *, log: bool, also: float | None = None) -> Scale:
    values = [interval.value for interval in intervals]
    low, high = min(values), max(values)
    ends = [end for interval in intervals for end in (interval.low, interval.high) if end is not None]
    reached = [min(max(end, low / _FARTHEST), high * _FARTHEST) for end in ends]
    every = [*values, *reached, *((also,) if also else ())]
    return logarithmic(every, room=1.3) if log else linear(every)


def _joined(axes: ax.Axes, points: Sequence[_Point], groups: Iterable[Sequence[Shown]]) -> str:
    """Thin lines through the open loops of each configuration that kept up, by rate: its curve."""
    places = {p.shown.number: axes.at(p.x.value, p.y.value) for p in points}
    lines = []
    for n, group in enumerate(groups):
        kept = [s for s in in_order_of_load(group) if s.measurement.workload.open_loop and not s.doubtful]
        if len({s.measurement.workload.rate_rps for s in kept}) > 1:
            lines.append(svg.polyline([places[s.number] for s in kept], f"thin {svg.series(n)}"))
    return "".join(lines)


def _limit(axes: ax.Axes, slo_ms: float | None) -> list[str]:
    return [svg.line(axes.left, axes.at_y(slo_ms), axes.right, axes.at_y(slo_ms), "limit wrong")] if slo_ms else []


def _drawn(axes: ax.Axes, p: _Point, class_: str) -> str:
    x, y = axes.at(p.x.value, p.y.value)
    bars = []
    if p.x.low is not None and p.x.high is not None:
        bars.append(svg.line(axes.at_x(p.x.low), y, axes.at_x(p.x.high), y, "thin"))
    if p.y.low is not None and p.y.high is not None:
        bars.append(svg.line(x, axes.at_y(p.y.low), x, axes.at_y(p.y.high), "thin"))
    # A point that must not be taken for a result has the colour of warnings and keeps that of its configuration inside.
    outer = "wrong" if p.kind in ("cross", "triangle") else class_
    return svg.group(*bars, ax.mark(p.kind, x, y, outer), class_=class_, hover=p.shown.hover)
