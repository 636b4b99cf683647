"""`yard measurements`: what was measured, one number's whole story, and comparing two."""

from __future__ import annotations

from typing import Annotated

import typer

from modelyard.cli.command import command, group
from modelyard.cli.session import Session

Id = Annotated[str, typer.Argument(metavar="ID", help="A measurement's id as `ls` shows it, or its beginning.")]


def ls(
    session: Session,
    ref: Annotated[str, typer.Argument(metavar="REF", help="Which version: digits, digits:3, digits@production.")],
) -> None:
    """List a version's measurements."""
    from modelyard.cli import tables
    from modelyard.domain.versions import ModelRef

    with session.yard() as yard:
        measured = yard.hub.measurements.list(ModelRef.parse(ref))
    session.output.emit("measurements", measured, lambda: tables.measurements(measured, ids=True))


def show(session: Session, id: Id) -> None:  # noqa: A002  (what the user sees)
    """Show one measurement with everything it depends on."""
    with session.yard() as yard:
        measured = yard.hub.measurements.get(id)
    from modelyard.cli import tables

    session.output.emit("measurement", measured, lambda: tables.measurement(measured))


def compare(session: Session, a: Id, b: Id) -> None:
    """Compare two measurements: the ratios with their confidence intervals, in words."""
    with session.yard() as yard:
        comparison = yard.compare(a, b)
    from modelyard.cli import tables

    session.output.emit("comparison", comparison, lambda: tables.comparison(comparison))


def add(app: typer.Typer) -> None:
    measurements = group("measurements", "What was measured: list, show, compare.")
    command(measurements, "ls")(ls)
    command(measurements, "show")(show)
    command(measurements, "compare")(compare)
    app.add_typer(measurements)
