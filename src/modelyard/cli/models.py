"""`yard models`: list, show, search, diff, update, remove, alias, roll back."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelyard.cli.command import command, group
from modelyard.cli.session import Session
from modelyard.domain.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from modelyard.hub import Freed

Ref = Annotated[str, typer.Argument(metavar="REF", help="Which version: digits, digits:3, digits@production.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name.")]


def ls(
    session: Session,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="List the versions of this model.")] = None,
) -> None:
    """List the models, or the versions of one model."""
    from modelyard.cli import tables

    with session.yard() as yard:
        if model:
            versions = yard.hub.versions.list(model)
            session.output.emit("versions", versions, lambda: tables.versions(versions))
        else:
            models = yard.hub.versions.models()
            session.output.emit("models", models, lambda: tables.models(models))


def show(
    session: Session,
    ref: Ref,
    logs: Annotated[
        bool, typer.Option("--logs", help="Also the logs of conversions that failed or were rejected.")
    ] = False,
) -> None:
    """Show a version: what it is, its artifacts and their standing, conversions, measurements, services."""
    from modelyard.cli import tables
    from modelyard.domain.versions import ModelRef

    with session.yard() as yard:
        lineage = yard.hub.versions.lineage(ModelRef.parse(ref))
    session.output.emit("version", lineage, lambda: tables.version(lineage, logs=logs))


def search(
    session: Session,
    name: Annotated[
        str, typer.Option("--name", metavar="TEXT", help="Part of the name, or a glob such as 'res*'.")
    ] = "",
    task: Annotated[str, typer.Option("--task", metavar="TEXT", help="Task, e.g. image-classification.")] = "",
    framework: Annotated[str, typer.Option("--framework", metavar="TEXT", help="Framework, e.g. pytorch.")] = "",
    format: Annotated[str, typer.Option("--format", metavar="TEXT", help="Format of any artifact, e.g. onnx.")] = "",  # noqa: A002
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Tag; repeat: all must be there.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", metavar="TEXT", help="Claimed metric, e.g. 'accuracy>=0.9'; repeat.")
    ] = None,
    text: Annotated[str, typer.Option("--text", metavar="TEXT", help="Words in name, description, card or tags.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Versions per page.")] = 50,
    cursor: Annotated[
        str | None, typer.Option("--cursor", metavar="TEXT", help="Go on after a page; it names the cursor.")
    ] = None,
) -> None:
    """Find versions; all that is given must hold. Newest first."""
    from modelyard.cli import tables
    from modelyard.hub import MetricFilter, VersionQuery

    query = VersionQuery(
        name=name,
        task=task,
        framework=framework,
        format=format,
        tags=tuple(tag or ()),
        metrics=tuple(MetricFilter.parse(m) for m in metric or ()),
        text=text,
        limit=limit,
        cursor=cursor,
    )
    with session.yard() as yard:
        page = yard.hub.versions.search(query)
    session.output.emit("version-page", page, lambda: tables.versions(page.items))
    if page.next:
        session.output.note(f"more: add --cursor {page.next}")


def diff(
    session: Session,
    left: Annotated[str, typer.Argument(metavar="LEFT", help="A version, e.g. digits:1.")],
    right: Annotated[str, typer.Argument(metavar="RIGHT", help="Another, e.g. digits:2.")],
) -> None:
    """Show what differs between two versions."""
    from modelyard.cli import tables

    with session.yard() as yard:
        difference = yard.diff(left, right)
    session.output.emit("version-diff", difference, lambda: tables.diff(difference))


def update(
    session: Session,
    ref: Ref,
    description: Annotated[str | None, typer.Option("--description", metavar="TEXT", help="New description.")] = None,
    license: Annotated[str | None, typer.Option("--license", metavar="SPDX", help="New licence, e.g. MIT.")] = None,  # noqa: A002
    author: Annotated[list[str] | None, typer.Option("--author", metavar="TEXT", help="New authors; repeat.")] = None,
    reference: Annotated[
        list[str] | None, typer.Option("--reference", metavar="TEXT", help="New references; repeat.")
    ] = None,
    add_tag: Annotated[list[str] | None, typer.Option("--add-tag", metavar="TAG", help="Add a tag; repeat.")] = None,
    remove_tag: Annotated[
        list[str] | None, typer.Option("--remove-tag", metavar="TAG", help="Remove a tag; repeat.")
    ] = None,
    card: Annotated[
        Path | None, typer.Option("--card", metavar="FILE", help="New model card from a Markdown file.")
    ] = None,
) -> None:
    """Change what may change after registration: description, licence, authors, references, tags, card."""
    from modelyard.domain.versions import ModelRef
    from modelyard.hub import DescriptionChanges

    parsed = ModelRef.parse(ref)
    with session.yard() as yard:
        tags = None
        if add_tag or remove_tag:
            present = yard.hub.versions.get(parsed).description.tags
            _check_removable(ref, remove_tag or (), present)
            kept = [t for t in present if t not in (remove_tag or ())]
            tags = tuple(dict.fromkeys([*kept, *(add_tag or ())]))
        changes = DescriptionChanges(
            description=description,
            license=license,
            authors=tuple(author) if author else None,
            references=tuple(reference) if reference else None,
            tags=tags,
            card=_card(card) if card else None,
        )
        if changes == DescriptionChanges():
            raise InvalidInput(
                "nothing to update", hint="give e.g. --description or --add-tag; yard models update --help"
            )
        version = yard.hub.versions.update(parsed, changes)
    session.output.emit("version", version, lambda: f"updated {version.ref}")


def _check_removable(ref: str, unwanted: Sequence[str], present: Sequence[str]) -> None:
    unknown = [tag for tag in unwanted if tag not in present]
    if unknown:
        raise NotFound(
            f"{ref} has no tag '{unknown[0]}'", hint=f"it has {', '.join(present)}" if present else "it has no tags"
        )


def _card(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", hint="--card takes a Markdown file") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise InvalidInput(f"{path} is no text file", hint="--card takes a Markdown file") from None


def rm(
    session: Session,
    ref: Annotated[str, typer.Argument(metavar="REF", help="The version, by number or alias: digits:3.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Remove aliases of the version too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a version with its artifacts, measurements and studies. A version that a service runs is never deleted."""
    from modelyard.cli import tables
    from modelyard.domain.versions import ModelRef

    parsed = ModelRef.parse(ref)
    if parsed.version is None and parsed.alias is None:
        raise InvalidInput(f"'{ref}' names a model, not a version", hint=f"say which one: yard models rm {ref}:1")
    with session.yard() as yard:
        if not dry_run and not yes:
            _need_terminal()
            _confirm(yard.hub.versions.delete(parsed, force=force, dry_run=True))
        freed = yard.hub.versions.delete(parsed, force=force, dry_run=dry_run)
    session.output.emit("freed", freed, lambda: tables.freed(freed, dry_run=dry_run))


def _need_terminal() -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidInput("deleting needs a yes, and there is no terminal to ask on", hint="add --yes, or --dry-run")


def _confirm(would: Freed) -> None:
    what = ", ".join(would.versions)
    typer.confirm(
        f"Delete {what} with {would.artifacts} artifacts and {would.measurements} measurements?", abort=True, err=True
    )


def alias(
    session: Session,
    model: Model,
    name: Annotated[str | None, typer.Argument(metavar="[ALIAS]", help="The alias, e.g. production.")] = None,
    version: Annotated[int | None, typer.Argument(metavar="[VERSION]", min=1, help="Version to point it at.")] = None,
    history: Annotated[bool, typer.Option("--history", help="Show where the alias pointed over time.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias; its history stays.")] = False,
) -> None:
    """List a model's aliases, point one at a version, show its history, or remove it."""
    from modelyard.cli import tables

    if name is None and (history or remove):
        raise InvalidInput("which alias?", hint=f"yard models alias {model} ALIAS --history")
    if version is not None and (history or remove):
        raise InvalidInput("a version goes with neither --history nor --remove", hint="yard models alias --help")
    with session.yard() as yard:
        aliases = yard.hub.aliases
        if name is None or (version is None and not history and not remove):
            pointing = aliases.list(model)
            if name is not None and name not in pointing:
                raise NotFound(
                    f"{model} has no alias '{name}'", hint=f"yard models alias {model} {name} VERSION sets it"
                )
            chosen = pointing if name is None else {name: pointing[name]}
            session.output.emit("aliases", chosen, lambda: tables.aliases(chosen))
        elif history:
            events = aliases.history(model, name)
            session.output.emit("alias-history", events, lambda: tables.alias_history(events))
        elif remove:
            event = aliases.remove(model, name)
            session.output.emit("alias-event", event, lambda: f"removed {model}@{name}")
        elif version is not None:
            event = aliases.set(model, name, version)
            session.output.emit("alias-event", event, lambda: f"{model}@{name} -> {model}:{version}")


def rollback(
    session: Session,
    model: Model,
    name: Annotated[str, typer.Argument(metavar="ALIAS", help="The alias, e.g. production.")],
) -> None:
    """Point an alias back at the version it named before. Running services stay as they are."""
    with session.yard() as yard:
        event = yard.hub.aliases.rollback(model, name)
    session.output.emit(
        "alias-event", event, lambda: f"{model}@{name}: back from {model}:{event.previous} to {model}:{event.version}"
    )


def add(app: typer.Typer) -> None:
    models = group("models", "The hub: list, show, search, diff, update, rm, alias, rollback.")
    command(models, "ls")(ls)
    command(models, "show")(show)
    command(models, "search")(search)
    command(models, "diff")(diff)
    command(models, "update")(update)
    command(models, "rm")(rm)
    command(models, "alias")(alias)
    command(models, "rollback")(rollback)
    app.add_typer(models)
