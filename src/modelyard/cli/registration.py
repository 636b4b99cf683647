"""`yard register`: a manifest into the hub."""

from __future__ import annotations

from typing import Annotated

import typer

from modelyard.cli import arguments
from modelyard.cli.command import command
from modelyard.cli.session import Session


def register(
    session: Session,
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="A model.yaml, or the folder that holds it.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, load the model, write nothing.")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Allow formats that run code on load (pickle, joblib), in a child process.")
    ] = False,
) -> None:
    """Register a model: check its manifest and files, store them, give them the next version number."""
    path = arguments.manifest(manifest)
    with session.yard() as yard:
        if dry_run:
            document = yard.check_manifest(path, trust=trust)
            data = {"manifest": str(path), "definition": document.definition, "files": sorted(document.files)}
            session.output.emit(
                "manifest-check", data, lambda: f"{path} is valid: {document.definition.name}. Nothing was written."
            )
            return
        with session.listener() as listener:
            registration = yard.register(path, trust=trust, listener=listener)
    version = registration.version
    said = "registered as" if registration.created else "is already registered, with identical content, as"
    session.output.emit(
        "registration",
        registration,
        lambda: f"{version.model} {said} {version.ref}\nnext: yard publish {version.ref}",
    )


def add(app: typer.Typer) -> None:
    command(app, "register")(register)
