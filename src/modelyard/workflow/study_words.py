"""A study in words: what it found, line by line, the same on the command line and in the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from modelyard.domain.figures import figure
from modelyard.domain.measurement import Interval
from modelyard.domain.study import Answer, Point, Prediction, Standing, Study, Trial, TrialState
from modelyard.domain.study_figures import amount, measured, predicted, title
from modelyard.tune.ranking import CONFIDENCE
from modelyard.tune.space import Space

SHORT_ID: Final = 12
"""As in tables: every command takes so short a one."""


def started(study: Study, number: int, proposal: Point, prediction: Prediction | None, reason: str) -> str:
    """A trial that begins, in one line: `trial 3 of 6: threads=2 ..., expected cost per 1M 0.9: the best ...`."""
    objectives = study.aim.objectives
    values = zip(objectives, predicted(objectives, prediction), strict=True)
    expected = ", ".join(f"{title(o)} {amount(o, Interval(p))}" for o, p in values if p is not None)
    return f"trial {number} of {study.budget}: {proposal}{f', expected {expected}' if expected else ''}: {reason}"


def ended(study: Study) -> str:
    """The last thing that was done to a study, in one line: `trial 3: cost per 1M 0.9 -> 0.83 [0.8, 0.86], valid`."""
    if study.answer is not None:
        return f"finished: {study.answer.stopped}"
    trial, objectives = study.trials[-1], study.aim.objectives
    if trial.result is None:
        return f"trial {trial.number}: {outcome(trial)}"
    values = zip(objectives, predicted(objectives, trial.prediction), measured(objectives, trial), strict=True)
    told = [
        f"{title(o)} {f'{amount(o, Interval(p))} -> ' if p is not None else ''}{amount(o, m, study.blocks(trial))}"
        for o, p, m in values
    ]
    held = "" if trial.feasible else ", does not hold the aim"
    return f"trial {trial.number}: {', '.join(told)}; {verdict(trial)}{held}"


def verdict(trial: Trial) -> str:
    """How a trial ended, without reasons: `valid`, `provisional, saturated`, `failed: out of memory`."""
    if trial.result is None:
        return outcome(trial)
    return trial.result.verdict.partition(":")[0] if trial.state is TrialState.MEASURED else str(trial.state)


def reasons(trial: Trial) -> list[str]:
    """Why a trial's measurement is not plainly valid."""
    text = trial.result.verdict.partition(": ")[2] if trial.result else ""
    return text.split("; ") if text else []


def outcome(trial: Trial) -> str:
    """How a trial ended, with every reason."""
    if trial.result is None:
        return f"{trial.state}: {trial.detail}" if trial.detail else str(trial.state)
    return trial.result.verdict


def answer(study: Study) -> list[str]:
    """What the study found, most important first; one sentence each."""
    found = study.answer
    if found is None:
        done = searched(study)
        left = ", and the best are yet to be measured again" if done >= study.budget else ""
        return [f"No answer yet: {done} of {study.budget} trials are done{left}."]
    lines = [_verdict(study), *_ties(study), *_timeouts(study)]
    if found.binding and found.best is not None:
        lines.append(f"What limits it: {found.binding}.")
    if found.prediction_error:
        errors = ", ".join(f"{name} {_factor(error)}" for name, error in found.prediction_error.items())
        lines.append(f"The simulation was off by (median): {errors}.")
    lines.append(f"Why it stopped: {found.stopped}.")
    lines.append(f"Not searched: {not_searched(study)}.")
    return lines


def not_searched(study: Study) -> str:
    """How many configurations of the space were not measured, and how many its constraints exclude."""
    space = Space.parse(study.space)
    measured = {t.point for t in study.trials if space.check(t.point) is None}
    if space.size is None:
        return f"all but {len(measured):,} of more configurations than can be listed"
    left = space.size - len(measured)
    told = f"{left:,} of {space.size:,} configurations" if left else f"none of {space.size:,} configurations"
    whole = Space(space.knobs, (), space.constants).size if space.constraints else space.size
    if whole is None:
        return f"{told}; the constraints exclude others"
    return f"{told}; the constraints exclude {whole - space.size:,} more" if whole > space.size else told


def load(study: Study) -> str:
    """What every trial is measured under; the goal `rate` tries many rates."""
    work = study.workload
    if work is None:
        return ""
    name = f"poisson at many rates x{work.batch} {work.protocol}" if study.aim.seeks_rate else work.label
    long = f"of {work.requests:,} requests or {work.duration_s:g} s" if work.open_loop else f"of {work.duration_s:g} s"
    return f"{name}, {work.blocks} blocks {long}"


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
    reached = f"{title(objective)} {amount(objective, value, study.blocks(best))}"
    return f"The best is trial {best.number}: {best.point}, with {reached}{_gain(study, best)}."


def _set(study: Study, found: Answer, best: Trial) -> str:
    """Of several objectives: which trials no other beats in all, and which of them is named."""
    free = [r for r in found.ranking if r.standing in (Standing.BEST, Standing.BETTER, Standing.TIED)]
    sure = [r.trial for r in free if r.standing is Standing.BETTER or r.confidence >= CONFIDENCE]
    unsure = [r.trial for r in free if r.trial not in sure]
    values = zip(study.aim.objectives, measured(study.aim.objectives, best), strict=True)
    reached = ", ".join(f"{title(o)} {amount(o, value, study.blocks(best))}" for o, value in values)
    told = [_trials(sure)] * bool(sure) + [f"perhaps {_trials(unsure)}"] * bool(unsure)
    return (
        f"Not beaten in everything by another: {' and '.join(told)}. "
        f"The best product of the objectives has trial {best.number}: {best.point}, with {reached}"
        f"{'; the default is as good by it' if found.default_as_good else ''}."
    )


def _timeouts(study: Study) -> list[str]:
    """What a p99 that is the timeout means, said once."""
    late = [t.number for t in study.trials if study.at_timeout(t)]
    if not late or study.workload is None:
        return []
    limit = f"{study.workload.timeout_s:g} s"
    where = _trials(late)
    return [f"1 % of the requests or more failed or took {limit} in {where}: p99 is that timeout, no latency."]


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
    if objective.goal.maximised:
        return f"; {figure(mine / theirs)} times the default's {amount(objective, theirs)}"
    return f"; the default has {amount(objective, theirs)}, {figure(theirs / mine)} times as much"


def _factor(error: float) -> str:
    """An error on the log scale: `47%`, or `x5.1` where a percentage would be hard to read."""
    return f"{math.expm1(error):.0%}" if error < math.log(2) else f"x{figure(math.exp(error))}"


def _ties(study: Study) -> list[str]:
    tied = [r.trial for r in study.answer.ranking if r.standing is Standing.TIED] if study.answer else []
    return [f"Not to be told from it: {_trials(tied)}."] if tied and not study.aim.pareto else []


def searched(study: Study) -> int:
    """Trials of the search so far, confirmations not counted."""
    return sum(t.confirms is None for t in study.trials)
