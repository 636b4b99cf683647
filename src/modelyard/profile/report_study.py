"""The report of a study: what it found in words, every trial expected and measured, and the search in plots."""

from __future__ import annotations

from dataclasses import dataclass

from modelyard.domain.measurement import Fingerprint, Interval
from modelyard.domain.study import Objective, Point, Study, Trial
from modelyard.domain.study_figures import measured, other_knobs, predicted, scaled, shared_knobs, title
from modelyard.profile.plots.study import expected_against_measured, tradeoff, trials_in_order
from modelyard.profile.report_page import render


@dataclass(frozen=True, slots=True)
class StudyData:
    """What the report shows. `answer`: sentences, most important first; `outcomes`: how each trial ended, in words.

    `nodes` are the machines of its measurements; `commands` are (what it does, command line); `load` is what every
    trial was measured under.
    """

    study: Study
    answer: tuple[str, ...]
    outcomes: tuple[str, ...]
    nodes: tuple[Fingerprint, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    load: str = ""


@dataclass(frozen=True, slots=True)
class _Cell:
    """What was expected and measured of one objective."""

    expected: float | None
    measured: Interval | None


@dataclass(frozen=True, slots=True)
class _Row:
    """One trial of the table."""

    trial: Trial
    point: str
    outcome: str
    cells: tuple[_Cell, ...]
    standing: str
    confidence: float | None
    best: bool


def render_study(data: StudyData) -> str:
    """The report as one self-contained HTML document: no script, no address, everything escaped."""
    study = data.study
    objectives = study.aim.objectives
    traded, shared = tradeoff(study), shared_knobs(study.trials)
    plots = [*expected_against_measured(study), *trials_in_order(study), *([traded] if traded else [])]
    return render(
        "study.html.j2",
        data=data,
        study=study,
        titles=[title(o) for o in objectives],
        with_p99=not any(o.statistic == "p99" for o in objectives),
        shared=str(shared),
        rows=[_row(study, trial, outcome, shared) for trial, outcome in zip(study.trials, data.outcomes, strict=True)],
        searched=sum(t.confirms is None for t in study.trials),
        found=study.answer is not None and study.answer.best is not None,
        plots=plots,
    )


def _row(study: Study, trial: Trial, outcome: str, shared: Point) -> _Row:
    objectives = study.aim.objectives
    ranked = {r.trial: r for r in study.answer.ranking} if study.answer else {}
    own = ranked.get(trial.number)
    again = next((t.number for t in study.trials if t.confirms == trial.number), None)
    cells = zip(objectives, predicted(objectives, trial.prediction), measured(objectives, trial), strict=True)
    return _Row(
        trial=trial,
        point=str(other_knobs(trial.point, shared)),
        outcome=outcome,
        cells=tuple(_cell(o, expected, got) for o, expected, got in cells),
        standing=str(own.standing) if own else f"see {again}" if again else "",
        confidence=own.confidence if own else None,
        best=study.answer is not None and trial.number == study.answer.best,
    )


def _cell(objective: Objective, expected: float | None, got: Interval | None) -> _Cell:
    at = scaled(objective, None if expected is None else Interval(expected))
    return _Cell(at.value if at else None, scaled(objective, got))
