"""`yard convert`: other formats of a version, each proven equal or refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from modelyard.cli import arguments
from modelyard.cli.command import command
from modelyard.cli.exits import FAILURE, OK, REJECTED
from modelyard.cli.session import Session

if TYPE_CHECKING:
    from modelyard.domain.artifacts import Conversion


def convert(
    session: Session,
    ref: Annotated[str, typer.Argument(metavar="REF", help="Which version: digits, digits:3, digits@production.")],
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="TARGETS",
            help="Targets, e.g. onnx,openvino:bf16; repeatable. Default: auto, what suits the model.",
        ),
    ] = None,
) -> int:
    """Convert a version and prove every result equal to its source. Results already made are reused.

    Exit code 4 if a target was rejected, 1 if it failed; with auto, only if nothing was proven.
    """
    requested = arguments.words(to or ["auto"])
    with session.yard() as yard, session.listener() as listener:
        conversions = yard.convert(ref, requested, listener=listener)
    from modelyard.cli import tables

    session.output.emit("conversions", conversions, lambda: tables.conversions(conversions))
    return _exit_code(conversions, lenient="auto" in requested)


def _exit_code(conversions: list[Conversion], *, lenient: bool) -> int:
    from modelyard.domain.artifacts import Outcome

    proven = {c.target for c in conversions if c.outcome is Outcome.PROVEN}
    missed = [c for c in conversions if c.target not in proven]
    if not missed or (lenient and proven):
        return OK
    return REJECTED if any(c.outcome is Outcome.REJECTED for c in missed) else FAILURE


def add(app: typer.Typer) -> None:
    command(app, "convert", kept="every finished conversion is kept")(convert)
