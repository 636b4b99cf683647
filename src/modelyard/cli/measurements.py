"""`yard measurements`: what was measured, one number's whole story, and comparing two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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


def export(
    session: Session,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write; the suffix names the format.")],
    ref: Annotated[str | None, typer.Argument(metavar="REF", help="All of a version: digits, digits:3.")] = None,
    measurement: Annotated[
        list[str] | None, typer.Option("--measurement", metavar="ID", help="One of them; may be repeated.")
    ] = None,
    format_: Annotated[
        Literal["csv", "json", "parquet"] | None,
        typer.Option("--format", help="csv: a row each; json: everything; parquet: every request."),
    ] = None,
) -> None:
    """Write measurements to a file for other programs: CSV, JSON, or Parquet with the raw samples.

    The columns and the JSON's schema are in docs/reports.md.
    """
    with session.yard() as yard:
        written = yard.export(out, ref=ref, measurements=measurement or (), format=format_)
    for name, why in written.left_out:
        session.output.warn(f"{name} is not in the file: {why}")
    what = "requests" if written.format == "parquet" else "rows"
    session.output.emit(
        "exported", written, lambda: f"{written.path}: {written.measurements} measurements, {written.rows:,} {what}"
    )


def add(app: typer.Typer) -> None:
    measurements = group("measurements", "What was measured: list, show, compare, export.")
    command(measurements, "ls")(ls)
    command(measurements, "show")(show)
    command(measurements, "compare")(compare)
    command(measurements, "export")(export)
    app.add_typer(measurements)
