"""`yard doctor`, `gc`, `config`, `version`: about the installation and its data."""

from __future__ import annotations

from typing import Annotated

import typer

from modelyard.cli.command import command, group
from modelyard.cli.exits import OK, UNAVAILABLE
from modelyard.cli.session import Session


def doctor(session: Session) -> int:
    """Check this installation: frameworks, data directory, hub, tools.

    Exit code 5 if something required is missing.
    """
    with session.yard() as yard:
        findings = yard.doctor()
    from modelyard.cli import tables

    session.output.emit("findings", findings, lambda: tables.findings(findings))
    return UNAVAILABLE if any(f.required and not f.ok for f in findings) else OK


def gc(
    session: Session,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be freed.")] = False,
) -> None:
    """Remove what no version, artifact, measurement or service refers to."""
    with session.yard() as yard:
        freed = yard.gc(dry_run=dry_run)
    from modelyard.cli import tables

    session.output.emit("freed", freed, lambda: tables.freed(freed, dry_run=dry_run))


def show_config(session: Session) -> None:
    """Show every setting, its value and where it comes from."""
    from modelyard.cli import configuration, tables

    rows = configuration.rows(session.settings(), home_given=session.home is not None)
    session.output.emit("settings", rows, lambda: tables.settings(rows))


def version(session: Session) -> None:
    """Print the version of Modelyard and of Python."""
    import platform

    from modelyard import __version__

    data = {"modelyard": __version__, "python": platform.python_version()}
    session.output.emit("version", data, lambda: f"modelyard {__version__} (Python {data['python']})")


def add(app: typer.Typer) -> None:
    command(app, "doctor")(doctor)
    command(app, "gc")(gc)
    config = group("config", "The settings in force.")
    command(config, "show")(show_config)
    app.add_typer(config)
    command(app, "version")(version)
