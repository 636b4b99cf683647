"""`yard services`: what runs, its logs, and stopping it."""

from __future__ import annotations

from typing import Annotated

import typer

from modelyard.cli.command import command, group
from modelyard.cli.session import Session
from modelyard.domain.errors import InvalidInput

Name = Annotated[str, typer.Argument(metavar="SERVICE", help="Name of the service.")]


def ls(session: Session) -> None:
    """List the services and their state now."""
    with session.yard() as yard:
        statuses = yard.services()
    from modelyard.cli import tables

    session.output.emit("services", statuses, lambda: tables.services(statuses))


def show(session: Session, name: Name) -> None:
    """Show one service: configuration, endpoint, replicas, what each version did, how a shadow compares."""
    with session.yard() as yard:
        status = yard.service(name)
    from modelyard.cli import service_tables

    session.output.emit("service-status", status, lambda: service_tables.service(status))


def logs(
    session: Session,
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    tail: Annotated[int, typer.Option("--tail", min=0, help="How many past lines.")] = 100,
    replica: Annotated[int | None, typer.Option("--replica", min=0, help="Only this replica.")] = None,
) -> None:
    """Print a service's log lines. With --json one envelope per line."""
    from modelyard.cli.output import envelope

    with session.yard() as yard:
        for line in yard.logs(name, replica=replica, follow=follow, tail=tail):
            session.output.line(envelope("log-line", data=line) if session.output.json else line.rstrip("\n"))


def stop(
    session: Session,
    names: Annotated[list[str] | None, typer.Argument(metavar="[SERVICE]...", help="Names of services.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Stop every service.")] = False,
) -> None:
    """Stop services: in-flight requests finish, then no process is left."""
    if bool(names) == everything:
        raise InvalidInput("say which services to stop", hint="yard services stop NAME..., or --all")
    with session.yard() as yard:
        wanted = [status.service.name for status in yard.services()] if everything else list(names or ())
        for name in wanted:
            yard.stop(name)
            session.output.note(f"stopped {name}")
    session.output.emit("stopped", wanted, lambda: None if wanted else "no service is running")


def add(app: typer.Typer) -> None:
    services = group("services", "What runs: list, show, logs, stop.")
    command(services, "ls")(ls)
    command(services, "show")(show)
    command(services, "logs")(logs)
    command(services, "stop")(stop)
    app.add_typer(services)
