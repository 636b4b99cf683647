"""A study in words: what it found, line by line, the same on the command line and in the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from modelyard.domain.figures import figure
from modelyard.domain.study import Answer, Standing, Study, Trial
from modelyard.domain.study_figures import amount, measured, predicted, title

SHORT_ID: Final = 12
"""As in tables: every command takes so short a one."""


def progress(study: Study, trial: Trial) -> str:
    """A finished trial in one line: `trial 3 of 6: threads=2 ...: cost 0.9 -> 0.83 [0.8, 0.86], valid`."""
    objectives = study.aim.objectives
    parts = [
        f"{title(o)} {amount(o, p)} -> {amount(o, m)}" if p is not None else f"{title(o)} {amount(o, m)}"
        for o, p, m in zip(
            objectives, predicted(objectives, trial.prediction), measured(objectives, trial), strict=True
        )
    ]
    what = "confirming" if trial.confirms is not None else f"trial {trial.number} of {study.budget}"
    return f"{what}: {trial.point}: {', '.join(parts)}; {outcome(trial)}"


def outcome(trial: Trial) -> str:
    """How a trial ended, in a few words."""
    if trial.result is None:
        return f"{trial.state}: {trial.detail}" if trial.detail else str(trial.state)
    if trial.result.feasible or trial.result.p99_ms is None:
        return trial.result.verdict
    return f"{trial.result.verdict}, p99 {trial.result.p99_ms} ms"


def answer(study: Study) -> list[str]:
    """What the study found, most important first; one sentence each."""
    found = study.answer
    if found is None:
        return [f"No answer yet: {searched(study)} of {study.budget} trials are done."]
    lines = [_verdict(study), *_ties(study)]
    if found.binding and found.best is not None:
        lines.append(f"What limits it: {found.binding}.")
    if found.prediction_error:
        errors = ", ".join(f"{name} {math.expm1(error):.0%}" for name, error in found.prediction_error.items())
        lines.append(f"The simulation was off by (median): {errors}.")
    lines.append(f"Why it stopped: {found.stopped}.")
    return lines


def deploy_command(study: Study) -> str | None:
    """The command that deploys what the study found; None where it found nothing."""
    if study.answer is None or study.answer.best is None:
        return None
    return f"yard deploy {study.model}:{study.version} --from-study {study.id[:SHORT_ID]}"


def resume_command(study: Study) -> str:
    """The command that goes on with an unfinished study."""
    return f"yard tune {study.model}:{study.version} --resume {study.id[:SHORT_ID]}"


def _verdict(study: Study) -> str:
    found = study.answer
    assert found is not None  # noqa: S101  (the caller's branch)
    if found.best is None:
        return f"Nothing that was measured holds the aim {study.aim}: {found.binding or 'no trial was feasible'}."
    best = next(t for t in study.trials if t.number == found.best)
    if study.aim.pareto:
        return _set(study, found, best)
    if found.default_as_good:
        return f"The default is as good as anything that was measured: {study.default}. Keep it."
    (objective,), (value,) = study.aim.objectives, measured(study.aim.objectives, best)
    reached = f"{title(objective)} {amount(objective, value)}"
    return f"The best is trial {best.number}: {best.point}, with {reached}{_gain(study, best)}."


def _set(study: Study, found: Answer, best: Trial) -> str:
    """Of several objectives: which trials no other beats in all, and which of them is named."""
    sure = [r.trial for r in found.ranking if r.standing in (Standing.BEST, Standing.BETTER)]
    unsure = [r.trial for r in found.ranking if r.standing is Standing.TIED]
    values = zip(study.aim.objectives, measured(study.aim.objectives, best), strict=True)
    reached = ", ".join(f"{title(o)} {amount(o, value)}" for o, value in values)
    return (
        f"Not beaten in everything by another: {_trials(sure)}{f', perhaps {_trials(unsure)}' if unsure else ''}. "
        f"The best product of the objectives has trial {best.number}: {best.point}, with {reached}"
        f"{'; the default is as good by it' if found.default_as_good else ''}."
    )


def _trials(numbers: Sequence[int]) -> str:
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _gain(study: Study, best: Trial) -> str:
    """Against the last feasible measurement of the default: a confirmation is later than what it confirms."""
    (objective,) = study.aim.objectives
    of_default = [t for t in study.trials if t.point == study.default and t.result and t.feasible]
    if best.point == study.default:
        return ", the default"
    if not of_default or best.result is None:
        return "; the default does not hold the aim" if any(t.point == study.default for t in study.trials) else ""
    mine, theirs = best.result.values[0].value, of_default[-1].result.values[0].value  # type: ignore[union-attr]
    if min(mine, theirs) <= 0:
        return ""
    return f"; the default has {amount(objective, theirs)}, {figure(theirs / mine)} times as much"


def _ties(study: Study) -> list[str]:
    tied = [r.trial for r in study.answer.ranking if r.standing is Standing.TIED] if study.answer else []
    return [f"Not to be told from it: {_trials(tied)}."] if tied and not study.aim.pareto else []


def searched(study: Study) -> int:
    """Trials of the search so far, confirmations not counted."""
    return sum(t.confirms is None for t in study.trials)
