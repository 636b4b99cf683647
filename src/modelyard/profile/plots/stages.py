"""Where the time of a request goes: the server's stages, and what lies between them and the client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from modelyard.domain.figures import figure
from modelyard.profile.plots import axes as ax
from modelyard.profile.plots import bars, svg
from modelyard.profile.plots.figure import Plot, Shown, left_out, sentence
from modelyard.profile.plots.scales import Scale, linear

STAGES: Final = ("queue", "batch_wait", "pre", "infer", "post", "encode")
REST: Final = "network and client"


@dataclass(frozen=True, slots=True)
class Split:
    """Mean milliseconds by stage of one measurement; `rest` is None where the client's mean is not known."""

    shown: Shown
    stages_ms: tuple[float, ...]
    rest_ms: float | None

    @property
    def total_ms(self) -> float:
        return sum(self.stages_ms) + (self.rest_ms or 0.0)


def split(shown: Shown) -> Split | None:
    """The server's split and the rest of what the client saw of successful requests; None without a split."""
    stages = shown.measurement.indicators.stages
    if stages is None:
        return None
    times = tuple(float(getattr(stages, f"{name}_ms")) for name in STAGES)
    mean = _client_mean_ms(shown)
    return Split(shown, times, None if mean is None else max(0.0, mean - sum(times)))


def _client_mean_ms(shown: Shown) -> float | None:
    """Of successful requests: the server's stages do not know of a timeout's length."""
    i = shown.measurement.indicators
    if shown.distribution is not None:
        return shown.distribution.mean_ms
    return i.mean_ms.value if i.mean_ms is not None and i.error_fraction == 0 else None


def stage_split(shown: Sequence[Shown]) -> Plot | None:
    """Stacked bars, one for each measurement with a split, those of a configuration by load; None without any."""
    splits = {s.number: found for s in shown if (found := split(s)) is not None}
    drawn = [s for s in shown if s.number in splits][: bars.MOST_ROWS]
    if not drawn:
        return None
    partly = [splits[s.number] for s in drawn]
    names = [name.replace("_", " ") for name in STAGES] + ([REST] if any(s.rest_ms is not None for s in partly) else [])
    head, height = ax.legend([ax.Entry(name, "bar", _colour(n)) for n, name in enumerate(names)])
    rows = bars.rows(drawn, height + 6)
    room = svg.CHARACTER * 9
    axes = ax.Axes(
        _scale(partly), Scale(0, 1, ()), rows.left, height + 4, svg.WIDTH - rows.left - room, rows.bottom - height
    )
    body = [_bar(axes, splits[row.shown.number], row.top) for row in rows]
    frame = axes.draw("mean ms per successful request", "")
    cut = any(s.total_ms > axes.x.high for s in partly)
    unknown = sum(1 for s in partly if s.rest_ms is None)
    caption = sentence(
        f"'{REST.capitalize()}' is what the client saw beyond the server's stages: kernel, network, its own work.",
        "» marks a bar of a saturated service, cut so that the others can be read." if cut else "",
        f"+ ?: {unknown} of which that is not known." if unknown else "",
        left_out(len(splits) - len(drawn), "are in the table"),
    )
    return Plot("Where the time goes", caption, svg.document(ax.total_height(axes), head, frame, rows.names, *body))


def _scale(splits: Sequence[Split]) -> Scale:
    """Up to the longest bar; a saturated service's queue may be cut so that it does not flatten all the others."""
    steady = [s.total_ms for s in splits if not s.shown.doubtful]
    longest = max(s.total_ms for s in splits)
    return linear([min(longest, 1.5 * max(steady)) if steady else longest], steps=4)


def _bar(axes: ax.Axes, found: Split, top: float) -> str:
    parts, begin = [], 0.0
    names = [*STAGES, REST]
    for n, value in enumerate([*found.stages_ms, found.rest_ms or 0.0]):
        left, right = axes.at_x(begin), axes.at_x(begin + value)
        begin += value
        if right - left >= 0.1:
            hover = f"{names[n].replace('_', ' ')} {figure(value)} ms of {figure(found.total_ms)} ms"
            parts.append(svg.rect(left, top, right - left, bars.BAR, f"bar {_colour(n)}", hover))
    cut = "» " if found.total_ms > axes.x.high else ""
    unknown = " + ?" if found.rest_ms is None else ""
    parts.append(svg.text(axes.at_x(found.total_ms) + 4, top + 12, f"{cut}{figure(found.total_ms)}{unknown}"))
    return svg.group(*parts, hover=found.shown.hover)


def _colour(stage: int) -> str:
    return f"s{stage + 1}"
