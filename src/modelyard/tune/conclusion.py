"""From the trials of a search to its answer: the best are measured again, and only that counts.

The best of many noisy values is too good to be true (the winner's curse), so the winner is the best of a confirmation
with fresh seeds, measured in turns with the default configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from modelyard.domain.errors import BackendFailed
from modelyard.domain.study import Answer, Point, Result, Study, Trial, TrialState
from modelyard.tune import binding, ranking
from modelyard.tune.ports import Confirm, Outcome, Search

_CONFIRMATION: Final = 0x636F6E66
"""Sets the seeds of confirmations apart from those of the search ('conf')."""
_LOST: Final = (TrialState.FAILED, TrialState.TIMED_OUT, TrialState.ABANDONED)


@dataclass(frozen=True, slots=True)
class Rules:
    """How a search is concluded.

    `contenders`: points confirmed at most, besides the default; `pareto_contenders`: the same with several objectives.
    `rounds`: confirmations at most, should none of the confirmed be feasible.
    """

    contenders: int = 3
    pareto_contenders: int = 6
    rounds: int = 3


def conclude(
    study: Study, search: Search, stopped: str, confirm: Confirm, rules: Rules, clock_s: Callable[[], float]
) -> Study:
    """Confirm the contenders and the default, and give the study its answer. Raises what `confirm` raises."""
    tried = study.trials
    confirmed: list[Trial] = []
    for round_ in range(rules.rounds):
        points = _contenders(tried, confirmed, study, rules)
        if round_ == 0:
            points = _with_default(points, tried, search)
        if not points or any(trial.feasible for trial in confirmed):
            break
        began_s = clock_s()
        outcomes = confirm(points, confirmation_seed(study.seed, round_))
        if len(outcomes) != len(points):
            raise BackendFailed(f"{len(points)} points were to be confirmed, and {len(outcomes)} were")
        seconds = (clock_s() - began_s) / len(points)
        confirmed += _trials(len(tried) + len(confirmed), points, outcomes, tried, search, seconds)
    finished = replace(study, trials=(*tried, *confirmed))
    return replace(finished, answer=_answer(finished, confirmed, search, stopped))


def confirmation_seed(seed: int, round_: int) -> int:
    """The seed of a confirmation: another one than any the search measures with."""
    return int(np.random.SeedSequence([abs(seed), _CONFIRMATION, round_]).generate_state(1)[0])


def _contenders(tried: Sequence[Trial], confirmed: Sequence[Trial], study: Study, rules: Rules) -> list[Point]:
    """The best feasible point that is not confirmed, and those that may be as good, the most promising first."""
    known = {trial.point for trial in confirmed}
    rest = [(t.point, t.result) for t in tried if t.result is not None and t.feasible and t.point not in known]
    if not rest:
        return []
    if study.aim.pareto:
        chances = ranking.nondominated([result for _, result in rest])
        order = sorted(range(len(rest)), key=lambda i: (-chances[i], ranking.score(rest[i][1])))
        likely = [i for i in order if chances[i] > 1 - ranking.CONFIDENCE] or order[:1]
        return [rest[i][0] for i in likely[: rules.pareto_contenders]]
    rest.sort(key=lambda pair: ranking.score(pair[1]))
    best = rest[0][1]
    return [point for point, result in rest if ranking.overlap(result, best)][: rules.contenders]


def _with_default(points: list[Point], tried: Sequence[Trial], search: Search) -> list[Point]:
    """The default is confirmed too, unless it did not run."""
    lost = any(t.point == search.default and t.state in _LOST for t in tried)
    return points if lost or search.default in points else [*points, search.default]


def _trials(
    before: int,
    points: Sequence[Point],
    outcomes: Sequence[Outcome],
    tried: Sequence[Trial],
    search: Search,
    seconds: float,
) -> list[Trial]:
    found = []
    for i, (point, outcome) in enumerate(zip(points, outcomes, strict=True)):
        searched = next((t for t in tried if t.point == point), None)
        prediction = searched.prediction if searched else search.predict(point) if search.predict else None
        found.append(
            Trial(
                number=before + i + 1,
                point=point,
                state=outcome.state,
                reason="measured again with fresh seeds" if searched else "the default, to compare with",
                result=outcome.result,
                prediction=prediction,
                detail=outcome.detail,
                seconds=seconds,
                confirms=searched.number if searched else 0,
            )
        )
    return found


def _answer(study: Study, confirmed: Sequence[Trial], search: Search, stopped: str) -> Answer:
    counted = _counted(study.trials, confirmed)
    errors = prediction_error(study)
    slo = study.aim.slo_ms
    winner = _winner(confirmed)
    if winner is None:
        words = binding.without_winner(study, counted)
        ranked = tuple(ranking.infeasible(counted, slo))
        return Answer(None, ranked, stopped, binding=words, prediction_error=errors)
    default = next((t for t in confirmed if t.point == search.default and t.feasible), None)
    rivals = [t.result for t in confirmed if t is not default and t.result is not None and t.feasible]
    # Each of several rivals may look better by chance; so may the best of them.
    level = ranking.family(len(rivals))
    as_good = default is not None and not _shown_worse(default, rivals, level)
    best = default if as_good and default is not None else winner
    return Answer(
        best.number,
        ranking.against(best, counted, slo, level),
        stopped,
        default_as_good=as_good,
        binding=binding.words(study, search, best, counted),
        prediction_error=errors,
    )


def _counted(trials: Sequence[Trial], confirmed: Sequence[Trial]) -> list[Trial]:
    """One trial per point: its confirmation where there is one."""
    again = {trial.point for trial in confirmed}
    return [t for t in trials if t.confirms is not None or t.point not in again]


def _winner(confirmed: Sequence[Trial]) -> Trial | None:
    feasible = [(ranking.score(t.result), t.number, t) for t in confirmed if t.result is not None and t.feasible]
    return min(feasible)[2] if feasible else None


def _shown_worse(default: Trial, rivals: Sequence[Result], level: float) -> bool:
    """Whether any rival is shown to be better than the default."""
    mine = default.result
    return mine is not None and any(ranking.worse(mine, rival) >= level for rival in rivals)


def prediction_error(study: Study) -> Mapping[str, float]:
    """Median |log(measured / predicted)| of every objective and of p99, over the trials that have both.

    Trials that the simulator expected to saturate are left out, for it predicts no latency there, and so is a p99 that
    is the timeout.
    """
    seen: dict[str, list[float]] = {}
    for trial in study.trials:
        if trial.result is None or trial.prediction is None or trial.prediction.saturated:
            continue
        predicted = trial.prediction.losses
        for objective, measured, expected in zip(study.aim.objectives, trial.result.losses, predicted, strict=True):
            seen.setdefault(objective.statistic or str(objective.goal), []).append(abs(measured - expected))
        if not any(o.statistic == "p99" for o in study.aim.objectives):
            seen.setdefault("p99", []).append(_log_ratio(trial.result, trial.prediction.p99_ms))
        if study.at_timeout(trial):
            seen["p99"].pop()
    kept = {name: [v for v in values if math.isfinite(v)] for name, values in seen.items()}
    return {name: float(np.median(values)) for name, values in kept.items() if values}


def _log_ratio(result: Result, predicted_ms: float) -> float:
    if result.p99_ms is None or result.p99_ms.value <= 0 or predicted_ms <= 0:
        return math.inf
    return abs(math.log(result.p99_ms.value / predicted_ms))
