"""The distribution of latency, its tail drawn as wide as its middle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from modelyard.domain.measurement import Interval
from modelyard.profile.distribution import Distribution
from modelyard.profile.plots import axes as ax
from modelyard.profile.plots import svg
from modelyard.profile.plots.figure import BAND, Plot, Shown, left_out, ms, sentence
from modelyard.profile.plots.scales import logarithmic, tail

MOST_CURVES: Final = svg.SERIES


def latency_distribution(shown: Sequence[tuple[str, Shown]], slo_ms: float | None = None) -> Plot | None:
    """One line for each named measurement that has samples, six at most; None where there is none."""
    curves = [(name, each, each.distribution) for name, each in shown if each.distribution is not None]
    drawn = curves[:MOST_CURVES]
    if not drawn:
        return None
    head, height = ax.legend(
        [
            *(ax.Entry(f"{name} ({each.number})", "line", svg.series(n)) for n, (name, each, _) in enumerate(drawn)),
            *((ax.Entry(f"SLO {slo_ms:g} ms", "limit", "wrong"),) if slo_ms else ()),
        ]
    )
    axes = _axes([d for _, _, d in drawn], height, slo_ms)
    limit = [svg.line(axes.at_x(slo_ms), axes.top, axes.at_x(slo_ms), axes.bottom, "limit wrong")] if slo_ms else []
    body = [_curve(axes, each, d, n) for n, (_, each, d) in enumerate(drawn)]
    caption = _caption([(each, d) for _, each, d in drawn], len(curves) - len(drawn))
    frame = axes.draw("latency from the scheduled send time, ms", "share of requests that took no longer")
    return Plot("Latency distribution", caption, svg.document(ax.total_height(axes), head, frame, *body, *limit))


def _axes(drawn: Sequence[Distribution], head: float, slo_ms: float | None) -> ax.Axes:
    most = max(float(d.shares[-1]) for d in drawn)
    # The few quickest requests would take a third of a logarithmic axis, and nobody asks for them.
    low = min(float(d.latency_ms[np.searchsorted(d.shares, 0.02)]) for d in drawn)
    values = [low, *(_longest(d) for d in drawn), *((slo_ms,) if slo_ms else ())]
    return ax.below(head, logarithmic([max(v, 1e-4) for v in values]), tail(most), height=250)


def _longest(d: Distribution) -> float:
    """Of the requests that were answered: a timeout of seconds would press what took milliseconds into a corner."""
    answered = d.points_ms[d.points_ok]
    return float(answered[-1] if d.failed and len(answered) else d.latency_ms[-1])


def _curve(axes: ax.Axes, each: Shown, d: Distribution, number: int) -> str:
    line = [axes.at(float(v), float(s)) for v, s in zip(d.latency_ms, d.shares, strict=True)]
    sure = sum(1 for share in d.shares if share <= d.sure_to)
    i = each.measurement.indicators
    marks = [(i.p50_ms, 0.5), (i.p95_ms, 0.95), *(((i.p99_ms, 0.99),) if i.p99_ms else ())]
    return svg.group(
        _band(axes, d),
        svg.polyline(line[:sure], "line"),
        svg.polyline(line[max(0, sure - 1) :], "dash"),
        # One below the other where there are several lines, so that none hides another.
        *(_stated(axes, interval, share, 2.5 * number) for interval, share in marks),
        class_=svg.series(number),
        hover=f"{each.hover}\n{d.requests:,} requests, {d.failed:,} failed",
    )


def _band(axes: ax.Axes, d: Distribution) -> str:
    if d.band is None:
        return ""
    low = [axes.at(float(v), float(s)) for v, s in zip(d.band.low_ms, d.band.shares, strict=True)]
    high = [axes.at(float(v), float(s)) for v, s in zip(d.band.high_ms, d.band.shares, strict=True)]
    return svg.polyline([*low, *reversed(high)], "band", closed=True)


def _stated(axes: ax.Axes, interval: Interval, share: float, lower: float) -> str:
    """The interval that the table states, as a bar with ends."""
    if interval.low is None or interval.high is None or not math.isfinite(interval.high):
        return ""
    y, left, right = axes.at_y(share) + lower, axes.at_x(interval.low), axes.at_x(interval.high)
    bar = svg.line(left, y, right, y, "thin")
    ends = [svg.line(x, y - 4, x, y + 4, "thin") for x in (left, right)]
    return svg.group(bar, *ends, hover=f"p{share * 100:g} {ms(interval)}")


def _caption(shown: Sequence[tuple[Shown, Distribution]], more: int) -> str:
    drawn = [d for _, d in shown]
    failed, of = sum(d.failed for d in drawn), sum(d.requests for d in drawn)
    single = sum(1 for d in drawn if d.band is None)
    closed = any(not each.measurement.workload.open_loop for each, _ in shown)
    return sentence(
        "Numbers: rows of the table. Each step up is a further nine, so that p99 and p99.9 can be read.",
        "Dotted: too few requests to be sure of that percentile."
        if any(d.sure_to < float(d.shares[-1]) for d in drawn)
        else "",
        f"Band: {BAND}." if single < len(drawn) else "",
        "No band: one block has no spread." if single == len(drawn) else "",
        "Bars: the intervals of the table." if single < len(drawn) else "",
        f"{failed:,} of {of:,} requests failed; each counts as the full timeout, which may lie beyond the right edge."
        if failed
        else "",
        "A closed loop sends no faster than it is answered: its latencies promise nothing." if closed else "",
        left_out(more, "are in the table"),
    )
