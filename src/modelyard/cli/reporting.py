"""`yard report`: the HTML pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelyard.cli.command import command
from modelyard.cli.session import Session
from modelyard.domain.errors import InvalidInput


def report(
    session: Session,
    html: Annotated[Path, typer.Option("--html", metavar="FILE", help="Where to write the report.")],
    ref: Annotated[str | None, typer.Argument(metavar="REF", help="Report a version: digits, digits:3.")] = None,
    measurement: Annotated[
        list[str] | None, typer.Option("--measurement", metavar="ID", help="Report measurements; may be repeated.")
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option("--compare", metavar="A B", help="Report two measurements or versions side by side."),
    ] = None,
) -> None:
    """Write evidence as one HTML file with plots that opens offline: of a version, of measurements, of two compared.

    A version named with --compare stands for what was last chosen of it.
    """
    if sum((ref is not None, bool(measurement), compare is not None)) != 1:
        raise InvalidInput("which report?", hint="give one of: a version (digits:3), --measurement ID, --compare A B")
    with session.yard() as yard:
        if compare is not None:
            path = yard.report_comparison(*compare, html)
        elif measurement:
            path = yard.report_measurements(measurement, html)
        else:
            path = yard.report(str(ref), html)
    about = {"ref": ref, "measurements": measurement or [], "compare": compare or [], "path": str(path)}
    session.output.emit("report", about, lambda: str(path))


def add(app: typer.Typer) -> None:
    command(app, "report")(report)
