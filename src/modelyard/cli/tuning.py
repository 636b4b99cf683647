"""`yard tune` and `yard studies`: search for the best configuration, and look at what searches found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelyard.cli import arguments
from modelyard.cli.command import command, group
from modelyard.cli.exits import OK, REJECTED
from modelyard.cli.session import Session

if TYPE_CHECKING:
    from modelyard.workflow.values import TuneRequest

Ref = Annotated[str, typer.Argument(metavar="REF", help="Which version: digits, digits:3, digits@production.")]


def tune(
    session: Session,
    ref: Ref,
    aim: Annotated[
        str | None,
        typer.Option(
            "--aim",
            metavar="TEXT",
            help="'min cost under p99 <= 20 ms at 200 rps', 'max rate under p99 <= 20 ms', 'min p99 and min cost at "
            "100 rps'; default: min cost under the version's SLO, else max throughput at 16 concurrent.",
        ),
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option("--space", metavar="FILE", help="YAML with the knobs; default: all that this version has."),
    ] = None,
    strategy: Annotated[str, typer.Option("--strategy", help="How the next trial is chosen.")] = "simulate-verify",
    budget: Annotated[int, typer.Option("--budget", min=1, help="Configurations measured at most.")] = 6,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the strategy and of every schedule.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the strategy: initial=8. Repeatable."),
    ] = None,
    blocks: Annotated[int, typer.Option("--blocks", min=1, help="Independent blocks per trial.")] = 5,
    requests: Annotated[int, typer.Option("--requests", min=1, help="Requests per block at most.")] = 1000,
    duration: Annotated[
        float | None,
        typer.Option("--duration", min=0.1, help="Seconds per block at most; default: 10, in a closed loop 1."),
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="ID", help="Go on with this study, with its own settings.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Begin a new study even where there is one with these settings.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be searched and measured.")] = False,
) -> int:
    """Find the best configuration of a version for an aim, in few measurements.

    A study with the same settings is gone on with, or shown where it is finished. Exit code 4 if nothing that was
    measured holds the SLO of the aim.
    """
    from modelyard.cli import studies as shown
    from modelyard.domain.study import Aim
    from modelyard.workflow.values import TuneRequest

    request = TuneRequest(
        aim=Aim.parse(aim) if aim else None,
        space=_text(space) if space else None,
        strategy=strategy,
        options=arguments.knobs(set_ or []),
        budget=budget,
        seed=seed,
        blocks=blocks,
        requests=requests,
        duration_s=duration,
        again=again,
        resume=resume,
        space_name=str(space) if space else "space",
    )
    if dry_run:
        return _plan(session, ref, request)
    with session.yard() as yard, session.listener() as listener:
        study = yard.tune(ref, request, listener=listener)
    session.output.emit("study", study, lambda: shown.study(study))
    return REJECTED if study.answer and study.answer.best is None else OK


def _plan(session: Session, ref: str, request: TuneRequest) -> int:
    from modelyard.cli import studies as shown

    with session.yard() as yard, session.listener() as listener:
        plan = yard.plan_tune(ref, request, listener=listener)
    session.output.emit("tune-plan", plan, lambda: shown.plan(plan))
    return OK


def _text(path: Path) -> str:
    from modelyard.domain.errors import InvalidInput, NotFound

    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(f"there is no space file {path}", hint="docs/tuning.md describes it") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{path} is no UTF-8 text", why=str(error), hint="docs/tuning.md describes a space"
        ) from error


def ls(session: Session, ref: Ref) -> None:
    """List a version's studies."""
    from modelyard.cli import studies as shown

    with session.yard() as yard:
        found = yard.studies(ref)
    session.output.emit("studies", found, lambda: shown.studies(found))


def show(
    session: Session,
    id: Annotated[str, typer.Argument(metavar="ID", help="A study's id as `ls` shows it, or its beginning.")],  # noqa: A002
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write its report instead, with plots.")
    ] = None,
) -> None:
    """Show one study: what it looked for, every trial, and what it found."""
    from modelyard.cli import studies as shown

    with session.yard() as yard:
        study = yard.study(id)
        path = yard.report_study(study.id, html) if html else None
    if path is not None:
        session.output.emit("report", {"study": study.id, "path": str(path)}, lambda: str(path))
    else:
        session.output.emit("study", study, lambda: shown.study(study))


def add(app: typer.Typer) -> None:
    command(app, "tune", kept="every finished trial is kept")(tune)
    studies = group("studies", "Searches for the best configuration: list, show.")
    command(studies, "ls")(ls)
    command(studies, "show")(show)
    app.add_typer(studies)
