"""Studies as people read them: the listing, one study with its trials, and what would be searched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.text import Text

from modelyard.cli.evidence import doubts
from modelyard.cli.layout import BAD, DOUBTFUL, FAINT, GOOD, facts, interval, seconds, section, table, when
from modelyard.domain import study_figures as figures
from modelyard.domain.study import Point, Standing, Study, Trial
from modelyard.workflow import study_words as words

if TYPE_CHECKING:
    from modelyard.workflow.values import TunePlan

_STYLES: Final = {
    Standing.BEST: GOOD,
    Standing.BETTER: GOOD,
    Standing.TIED: DOUBTFUL,
    Standing.DOMINATED: FAINT,
    Standing.INFEASIBLE: BAD,
}


def studies(found: Sequence[Study]) -> RenderableType:
    """One line for each study."""
    rows = [
        (
            Text(s.id[: words.SHORT_ID], style="bold"),
            str(s.aim),
            s.strategy,
            f"{words.searched(s)} of {s.budget}",
            _state(s),
            when(s.created_at),
        )
        for s in found
    ]
    columns = ("study", "aim", "strategy", "trials", "found", "begun")
    return table(columns, rows, right="=  >", empty="no studies yet; yard tune REF begins one", spare=("begun",))


def _state(study: Study) -> Text:
    if study.answer is None:
        return Text("unfinished", style=DOUBTFUL)
    if study.answer.best is None:
        return Text("nothing holds the aim", style=BAD)
    if study.answer.default_as_good:
        return Text("the default is as good", style=GOOD)
    return Text(f"trial {study.answer.best}", style=GOOD)


def study(found: Study) -> RenderableType:
    """What was asked, every trial with what was expected of it, the answer, and how to deploy it."""
    head = facts(
        [
            ("study", Text(found.id, style="bold")),
            ("version", f"{found.model}:{found.version}"),
            ("aim", str(found.aim)),
            ("strategy", " ".join([found.strategy, *(f"{k}={v}" for k, v in found.options.items())])),
            ("budget", f"{words.searched(found)} of {found.budget} trials, seed {found.seed}"),
            ("load", words.load(found)),
            ("default", str(found.default)),
            ("node", Text(found.fingerprint, style=FAINT)),
            ("begun", when(found.created_at)),
        ]
    )
    lines = [Text(line) for line in words.answer(found)]
    return Group(head, section("Trials", _trials(found)), section("Answer", *lines), *_next(found))


def _trials(found: Study) -> RenderableType:
    objectives = found.aim.objectives
    standing = {r.trial: (r.standing, r.confidence) for r in found.answer.ranking} if found.answer else {}
    shared = figures.shared_knobs(found.trials)
    again = {t.confirms: t.number for t in found.trials if t.confirms}
    with_p99 = not any(o.statistic == "p99" for o in objectives)
    columns = ["#", "point", *(f"{figures.title(o)}\nexpected" for o in objectives)]
    columns += [f"{figures.title(o)}\nmeasured" for o in objectives]
    columns += (["p99 ms"] if with_p99 else []) + ["standing", "took"]
    rows: list[tuple[RenderableType, ...]] = []
    for trial in found.trials:
        expected = [
            figures.amount(o, v)
            for o, v in zip(objectives, figures.predicted(objectives, trial.prediction), strict=True)
        ]
        got = [
            interval(figures.scaled(o, v), found.blocks(trial))
            for o, v in zip(objectives, figures.measured(objectives, trial), strict=True)
        ]
        late = found.at_timeout(trial)
        tail = interval(trial.result.p99_ms if trial.result else None, found.blocks(trial))
        p99 = ["timeout" if late else tail] if with_p99 else []
        rows.append(
            (
                str(trial.number),
                _point(trial, shared),
                *expected,
                *got,
                *p99,
                _standing(trial, standing, again.get(trial.number)),
                seconds(trial.seconds),
            )
        )
    right = "> " + ">" * (2 * len(objectives) + with_p99) + " >"
    expected_columns = [f"{figures.title(o)}\nexpected" for o in objectives]
    shown = table(columns, rows, right=right, empty="none yet", spare=("took", *expected_columns))
    why = doubts([words.reasons(trial) for trial in found.trials])
    return Group(*([Text(f"in every trial: {shared}", style=FAINT)] if shared.knobs else []), shown, *why)


def _point(trial: Trial, shared: Point) -> Text:
    shown = Text(str(figures.other_knobs(trial.point, shared)))
    if trial.confirms is not None:
        shown.append(f"\nconfirms {trial.confirms}" if trial.confirms else "\nto compare with", style=FAINT)
    if (ended := words.verdict(trial)) != "valid":
        shown.append(f"\n{ended}", style=FAINT)
    return shown


def _standing(trial: Trial, ranked: dict[int, tuple[Standing, float]], again: int | None) -> Text:
    """With its confidence; a trial that was measured again stands where its confirmation does."""
    if trial.number not in ranked:
        shown = (
            f"see {again}"
            if again
            else str(trial.state)
            if trial.result is None
            else "-"
            if trial.feasible
            else "infeasible"
        )
        return Text(shown, style=FAINT)
    standing, confidence = ranked[trial.number]
    return Text(
        f"{standing}\n{confidence:.0%}" if standing is not Standing.INFEASIBLE else str(standing), _STYLES[standing]
    )


def _next(found: Study) -> list[RenderableType]:
    """The command to copy: it stands on a line of its own, unwrapped."""
    if found.answer is None:
        return ["", Text("Go on:", style="bold"), _line(words.resume_command(found))]
    deploy = words.deploy_command(found)
    if deploy is None:
        return []
    return ["", Text("Deploy it:", style="bold"), _line(deploy)]


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ignore")


def plan(found: TunePlan) -> RenderableType:
    """What would be searched and what would be measured first."""
    s = found.study
    begun = f"{s.id}, {words.searched(s)} trials done" if s.id else ""
    return Group(
        facts(
            [
                ("version", f"{s.model}:{s.version}"),
                ("aim", str(s.aim)),
                ("strategy", " ".join([s.strategy, *(f"{k}={v}" for k, v in s.options.items())])),
                ("budget", f"{s.budget} trials, seed {s.seed}"),
                ("load", words.load(s)),
                ("goes on with", begun),
                ("configurations", "infinitely many" if found.size is None else f"{found.size:,}"),
                ("default", str(s.default)),
                ("not searched", str(found.fixed) if found.fixed.knobs else ""),
                ("first", str(found.first) if found.first else "nothing more would be measured"),
                ("because", found.reason),
            ]
        ),
        section("Space", Text(s.space.rstrip())),
    )
