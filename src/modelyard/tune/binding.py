"""What kept better configurations out, in words: the SLO, a constraint, or the bounds of a knob."""

from __future__ import annotations

from collections.abc import Sequence

from modelyard.domain.figures import figure
from modelyard.domain.study import Point, Prediction, Study, Trial
from modelyard.tune import ranking
from modelyard.tune.knobs import Choice
from modelyard.tune.ports import Search


def words(study: Study, search: Search, best: Trial, counted: Sequence[Trial]) -> str:
    """What keeps better points than `best` out; empty where nothing is known to."""
    parts = [_slo(study, best, counted), _constraint(search, best), _bounds(search, best.point)]
    return "; ".join(part for part in parts if part)


def without_winner(study: Study, counted: Sequence[Trial]) -> str:
    """Why nothing is feasible: how near the nearest came."""
    if not counted:
        return "nothing was measured"
    if not any(t.result for t in counted):
        lost = [t.detail for t in counted if t.detail]
        return f"no configuration could be measured{': ' + lost[-1] if lost else ''}"
    if study.aim.slo_ms is None:
        return "no measurement tells what is looked for: most often it takes more or longer blocks"
    measured = [
        (t.result.p99_ms.value, t.number, t.point)
        for t in counted
        if t.result and t.result.p99_ms and not study.at_timeout(t)
    ]
    if not measured:
        return (
            f"no configuration was shown to keep p99 <= {study.aim.slo_ms:g} ms; in none did 99 % of the requests "
            "succeed within their timeout"
        )
    p99_ms, _, point = min(measured)
    nearest = f"{figure(p99_ms)} ms with {point}"
    return f"no configuration was shown to keep p99 <= {study.aim.slo_ms:g} ms; the nearest: {nearest}"


def _slo(study: Study, best: Trial, counted: Sequence[Trial]) -> str:
    if study.aim.slo_ms is None or best.result is None:
        return ""
    least = ranking.score(best.result)
    out = [
        (ranking.score(t.result), t.number, t.point, t.result.p99_ms)
        for t in counted
        if t.result
        and t.result.p99_ms
        and not study.at_timeout(t)
        and not t.feasible
        and ranking.score(t.result) < least
    ]
    if not out:
        return ""
    _, _, point, p99_ms = min(out)
    others = f" and {len(out) - 1} more" if len(out) > 1 else ""
    return f"p99 <= {study.aim.slo_ms:g} ms keeps out {point} ({p99_ms} ms){others}"


def _constraint(search: Search, best: Trial) -> str:
    """The constraint that excludes a neighbour; the one with the best prediction, where one is predicted better."""
    broken: list[tuple[float, str, Point]] = []
    for point in search.space.around(best.point):
        reason = search.space.check(point)
        if reason in search.space.constraints:
            broken.append((_expected(search, point), str(reason), point))
    limit = _expected(search, best.point)
    better = [found for found in broken if found[0] < limit]
    if not better:
        return ""
    _, constraint, point = min(better, key=lambda found: found[0])
    return f"{constraint} keeps out {point}, which is predicted to be better"


def _expected(search: Search, point: Point) -> float:
    """The predicted score; infinite where it is not predicted to be feasible."""
    found: Prediction | None = None if search.predict is None else search.predict(point)
    return float("inf") if found is None or not found.feasible else sum(found.losses)


def _bounds(search: Search, point: Point) -> str:
    """Knobs at the end of their range, where the space ends and not the service."""
    ends = []
    for name, value in point:
        knob = search.space.knobs.get(name)
        if knob is None or isinstance(knob, Choice):
            continue
        levels = knob.spread(2)
        if len(levels) > 1 and value == levels[-1]:
            ends.append(f"{name} is at its upper bound {value}")
    return " and ".join(ends)
