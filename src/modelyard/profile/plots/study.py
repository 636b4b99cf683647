"""Plots of a study: what was expected against what was measured, the search in time, and what is traded for what."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from modelyard.domain.measurement import Interval
from modelyard.domain.study import Objective, Study, Trial, TrialState
from modelyard.domain.study_figures import amount, measured, predicted, scaled, title
from modelyard.profile.plots import axes as ax
from modelyard.profile.plots import svg
from modelyard.profile.plots.figure import Plot, left_out, sentence
from modelyard.profile.plots.labels import beside
from modelyard.profile.plots.scales import Scale, linear, logarithmic

MOST_LABELS: Final = 40
_WIDE: Final = 4.0
"""Values that differ by more than this factor have a logarithmic axis."""
Kind = Literal["star", "solid", "hollow", "cross", "triangle"]
_KINDS: Final[dict[Kind, str]] = {
    "star": "the answer",
    "solid": "holds the aim",
    "hollow": "measured again",
    "cross": "does not hold the aim",
    "triangle": "failed or given up",
}


@dataclass(frozen=True, slots=True)
class _Point:
    trial: Trial
    x: Interval
    y: Interval
    kind: Kind


def expected_against_measured(study: Study) -> list[Plot]:
    """One plot for each objective, and for p99, of which trials have both: on the line, the expectation was right."""
    plots = [_expected(study, _both(study, place), title(o)) for place, o in enumerate(study.aim.objectives)]
    if not any(o.statistic == "p99" for o in study.aim.objectives):
        plots.append(_expected(study, _both_p99(study), "p99 ms"))
    return [plot for plot in plots if plot is not None]


def trials_in_order(study: Study) -> list[Plot]:
    """One plot for each objective: every trial in its turn, and the best so far of those that hold the aim."""
    return [plot for place, o in enumerate(study.aim.objectives) if (plot := _in_order(study, place, o)) is not None]


def tradeoff(study: Study) -> Plot | None:
    """Two objectives against each other with the set that nothing beats in both; of one, it against p99 and the SLO.

    None where fewer than two trials have both values.
    """
    objectives = study.aim.objectives
    if len(objectives) > 1:
        first, second = objectives[:2]
        points = [
            _Point(t, x, y, _kind(study, t))
            for t in study.trials
            if (x := _value(first, 0, t)) is not None and (y := _value(second, 1, t)) is not None
        ]
        return _traded(study, points, title(first), title(second), _front(points, first, second))
    if objectives[0].statistic == "p99":
        return None
    points = [
        _Point(t, x, t.result.p99_ms, _kind(study, t))
        for t in study.trials
        if (x := _value(objectives[0], 0, t)) is not None and t.result and t.result.p99_ms and t.result.p99_ms.value > 0
    ]
    return _traded(study, points, title(objectives[0]), "p99 ms", [], slo_ms=study.aim.slo_ms)


def _value(objective: Objective, place: int, trial: Trial) -> Interval | None:
    """The measured value in the unit of its title, where it is a number to be drawn."""
    if trial.result is None:
        return None
    value = scaled(objective, trial.result.values[place])
    return value if value is not None and math.isfinite(value.value) and value.value > 0 else None


def _kind(study: Study, trial: Trial) -> Kind:
    if trial.result is None or trial.state is not TrialState.MEASURED:
        return "triangle"
    if study.answer is not None and trial.number == study.answer.best:
        return "star"
    if not trial.feasible:
        return "cross"
    return "solid" if trial.confirms is None else "hollow"


def _class(kind: Kind) -> str:
    return {"star": "s1", "solid": "s1", "hollow": "s3", "cross": "wrong", "triangle": "wrong"}[kind]


def _hover(study: Study, trial: Trial) -> str:
    objectives = study.aim.objectives
    lines = [f"trial {trial.number}: {trial.point}"]
    expected, got = predicted(objectives, trial.prediction), measured(objectives, trial)
    for o, e, m in zip(objectives, expected, got, strict=True):
        lines.append(f"{title(o)}: expected {amount(o, e)}, measured {amount(o, m, study.blocks(trial))}")
    if trial.result and trial.result.p99_ms:
        lines.append(f"p99 {trial.result.p99_ms.told(study.blocks(trial))} ms")
    lines.append(trial.result.verdict if trial.result else f"{trial.state}: {trial.detail}")
    return "\n".join(lines)


def _both(study: Study, place: int) -> list[_Point]:
    o, found = study.aim.objectives[place], []
    for trial in study.trials:
        expected, got = predicted(study.aim.objectives, trial.prediction)[place], _value(o, place, trial)
        at = None if expected is None else scaled(o, Interval(expected))
        if at is not None and got is not None:
            found.append(_Point(trial, at, got, _kind(study, trial)))
    return found


def _both_p99(study: Study) -> list[_Point]:
    return [
        _Point(t, Interval(t.prediction.p99_ms), t.result.p99_ms, _kind(study, t))
        for t in study.trials
        if t.prediction and t.result and t.result.p99_ms and min(t.prediction.p99_ms, t.result.p99_ms.value) > 0
        if math.isfinite(t.prediction.p99_ms)
    ]


def _expected(study: Study, points: Sequence[_Point], name: str) -> Plot | None:
    if not points:
        return None
    head, height = ax.legend(_entries(points, ax.Entry("as expected", "dash", "s7")))
    every = [p.x.value for p in points] + [v for p in points for v in _reach(p.y)]
    both = logarithmic(every, room=1.2)
    axes = ax.below(height, both, both, height=300)
    diagonal = svg.line(*axes.at(both.low, both.low), *axes.at(both.high, both.high), "dash s7")
    frame = axes.draw(f"expected {name}", f"measured {name}")
    body = [diagonal, *_drawn(axes, study, points), *_labels(axes, points)]
    caption = sentence(
        "Both axes are logarithmic and alike: above the line, more was measured than the simulation expected.",
        "Bars: 95 % intervals. Numbers: trials.",
        left_out(len(study.trials) - len(points), "have no expectation or no value"),
    )
    return Plot(f"Expected and measured: {name}", caption, svg.document(ax.total_height(axes), head, frame, *body))


def _in_order(study: Study, place: int, o: Objective) -> Plot | None:
    valued = {t.number: v for t in study.trials if (v := _value(o, place, t)) is not None}
    if not valued:
        return None
    y = _scale([v for value in valued.values() for v in _reach(value)])
    worst, edge = (y.low, "lower") if o.goal.maximised else (y.high, "upper")
    points = [
        _Point(t, Interval(float(t.number)), valued.get(t.number, Interval(worst)), _kind(study, t))
        for t in study.trials
    ]
    best = list(_best_so_far(study, o, valued))
    entries = [ax.Entry("best so far", "line", "s2")] if best else []
    head, height = ax.legend(_entries(points, *entries))
    axes = ax.below(height, _turns(study.trials), y, height=220)
    steps = [axes.at(x, value) for x, value in best]
    body = [svg.polyline(steps, "line s2"), *_drawn(axes, study, points)]
    frame = axes.draw("trial", title(o))
    lost = len(points) - len(valued)
    caption = sentence(
        f"{'Higher' if o.goal.maximised else 'Lower'} is better. Bars: 95 % intervals.",
        "The best so far counts what holds the aim, without what was measured again.",
        f"Without a value, at the {edge} edge: {lost}." if lost else "",
    )
    return Plot(f"The search: {title(o)}", caption, svg.document(ax.total_height(axes), head, frame, *body))


def _best_so_far(study: Study, o: Objective, valued: dict[int, Interval]) -> Iterator[tuple[float, float]]:
    """The corners of a line of steps over the trials of the search."""
    best: float | None = None
    last = 0
    for trial in study.trials:
        if trial.confirms is not None:
            continue
        last = trial.number
        value = valued[trial.number].value if trial.feasible and trial.number in valued else None
        if value is not None and (best is None or o.loss(value) < o.loss(best)):
            if best is not None:
                yield float(trial.number), best
            best = value
            yield float(trial.number), best
    if best is not None:
        yield float(last), best


def _traded(
    study: Study,
    points: Sequence[_Point],
    x_title: str,
    y_title: str,
    front: Sequence[_Point],
    *,
    slo_ms: float | None = None,
) -> Plot | None:
    if len(points) < 2:
        return None
    extra = [ax.Entry("not beaten in both", "line", "s2")] if front else []
    extra += [ax.Entry(f"SLO {slo_ms:g} ms", "limit", "wrong")] if slo_ms else []
    head, height = ax.legend(_entries(points, *extra))
    x = _scale([v for p in points for v in _reach(p.x)])
    y = _scale([v for p in points for v in _reach(p.y)] + ([slo_ms] if slo_ms else []))
    axes = ax.below(height, x, y, height=250)
    limit = [svg.line(axes.left, axes.at_y(slo_ms), axes.right, axes.at_y(slo_ms), "limit wrong")] if slo_ms else []
    line = svg.polyline([axes.at(p.x.value, p.y.value) for p in front], "line s2")
    body = [*limit, line, *_drawn(axes, study, points), *_labels(axes, points)]
    caption = sentence(
        "Bars: 95 % intervals. Numbers: trials.",
        left_out(len(study.trials) - len(points), "have no value to show"),
    )
    frame = axes.draw(x_title, y_title)
    return Plot(f"{x_title} against {y_title}", caption, svg.document(ax.total_height(axes), head, frame, *body))


def _front(points: Sequence[_Point], first: Objective, second: Objective) -> list[_Point]:
    """Of those that hold the aim, the ones that no other is at least as good as in both, from left to right."""
    held = [p for p in points if p.trial.feasible]
    losses = {p.trial.number: (first.loss(p.x.value), second.loss(p.y.value)) for p in held}
    front = [
        p
        for p in held
        if not any(
            other[0] <= losses[p.trial.number][0]
            and other[1] <= losses[p.trial.number][1]
            and other != losses[p.trial.number]
            for other in losses.values()
        )
    ]
    return sorted(front, key=lambda p: p.x.value)


def _reach(value: Interval) -> list[float]:
    """A value and its bounds, these no farther than a factor of four: one wide interval must not flatten a plot."""
    bounds = [b for b in (value.low, value.high) if b is not None and math.isfinite(b)]
    return [value.value, *(min(max(b, value.value / _WIDE), value.value * _WIDE) for b in bounds)]


def _scale(values: Sequence[float]) -> Scale:
    return logarithmic(values, room=1.3) if max(values) > _WIDE * min(values) else linear(values)


def _turns(trials: Sequence[Trial]) -> Scale:
    """Whole numbers, some of them named where there are many."""
    numbers = [t.number for t in trials]
    every = max(1, math.ceil(len(numbers) / 12))
    ticks = tuple((float(n), str(n)) for n in numbers[::every])
    return Scale(min(numbers) - 0.6, max(numbers) + 0.6, ticks)


def _entries(points: Sequence[_Point], *more: ax.Entry) -> list[ax.Entry]:
    """What the marks mean, those that occur, and then `more`."""
    kinds = {p.kind for p in points}
    return [*(ax.Entry(words, kind, _class(kind)) for kind, words in _KINDS.items() if kind in kinds), *more]


def _drawn(axes: ax.Axes, study: Study, points: Sequence[_Point]) -> list[str]:
    found = []
    for p in sorted(points, key=lambda p: p.kind == "star"):  # the answer lies on top
        x, y = axes.at(p.x.value, p.y.value)
        bars = []
        if p.x.low is not None and p.x.high is not None:
            bars.append(svg.line(axes.at_x(p.x.low), y, axes.at_x(p.x.high), y, "thin"))
        if p.y.low is not None and p.y.high is not None:
            bars.append(svg.line(x, axes.at_y(p.y.low), x, axes.at_y(p.y.high), "thin"))
        class_ = _class(p.kind)
        found.append(svg.group(*bars, ax.mark(p.kind, x, y, class_), class_=class_, hover=_hover(study, p.trial)))
    return found


def _labels(axes: ax.Axes, points: Sequence[_Point]) -> list[str]:
    """The trial's number beside each point, where there are not too many to be read."""
    if len(points) > MOST_LABELS:
        return []
    return beside([axes.at(p.x.value, p.y.value) for p in points], [str(p.trial.number) for p in points])
