"""The one way a command is registered: common options added, a session passed in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer
from typer.core import TyperCommand

from modelyard.cli.exits import Interrupted, ReaderGone, Terminated
from modelyard.cli.session import Session

Body: TypeAlias = "Callable[..., int | None]"
COMMON: Final = "Common options"

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="Data directory (else MODELYARD_HOME).", rich_help_panel=COMMON),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, errors too.", rich_help_panel=COMMON)
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and notes on stderr.", rich_help_panel=COMMON)
]
DebugOption = Annotated[
    bool,
    typer.Option(
        "--debug", help="Show the full traceback of a failure.", envvar="MODELYARD_DEBUG", rich_help_panel=COMMON
    ),
]
_COMMON_OPTIONS: Final = {
    "common_json": (JsonOption, False),
    "common_quiet": (QuietOption, False),
    "common_home": (HomeOption, None),
    "common_debug": (DebugOption, False),
}


def group(name: str, help: str) -> typer.Typer:  # noqa: A002  (typer's own word)
    """A resource: a group of actions (`yard models ...`)."""
    return typer.Typer(
        name=name, help=help, short_help=help, no_args_is_help=True, rich_markup_mode=None, add_completion=False
    )


def command(app: typer.Typer, name: str, *, kept: str = "") -> Callable[[Body], Body]:
    """Register `body(session, ...)` as the command `name`: typer sees its other parameters and the common options.

    What `body` returns is the exit code (None: 0). `kept` tells after Ctrl-C what was kept, where running the
    command again goes on from there.
    """

    def register(body: Body) -> Body:
        def run(context: typer.Context, **arguments: object) -> int | None:
            common = {name: arguments.pop(name) for name in _COMMON_OPTIONS}
            # typer would turn these two into exit codes of its own, without a word
            try:
                return body(_session(context, common), **arguments)
            except KeyboardInterrupt as error:
                raise Interrupted(kept, terminated=isinstance(error, Terminated)) from error
            except BrokenPipeError as error:
                raise ReaderGone from error

        run.__name__ = body.__name__
        run.__doc__ = inspect.getdoc(body)
        run.__signature__ = _signature(body)  # type: ignore[attr-defined]
        app.command(name, short_help=_summary(run.__doc__ or ""), cls=Grouped)(run)
        return body

    return register


class Grouped(TyperCommand):
    """A command whose help shows its options under the headings of their panels, in the order they first appear."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            usual = "Arguments" if param.param_type_name == "argument" else "Options"
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(param, "rich_help_panel", None) or usual, []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def _summary(doc: str) -> str:
    """The first sentence up to its colon: what fits beside the name in the list of commands."""
    return doc.partition("\n")[0].partition(". ")[0].partition(":")[0].rstrip(".")


def _signature(body: Body) -> inspect.Signature:
    own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
    keyword = inspect.Parameter.KEYWORD_ONLY
    context = inspect.Parameter("context", keyword, annotation=typer.Context)
    common = [
        inspect.Parameter(name, keyword, default=default, annotation=annotation)
        for name, (annotation, default) in _COMMON_OPTIONS.items()
    ]
    return inspect.Signature([context, *(p.replace(kind=keyword) for p in own), *common])


def _session(context: typer.Context, common: dict[str, object]) -> Session:
    session = context.find_root().obj["session"]
    assert isinstance(session, Session)  # noqa: S101  (put there by main, never user input)
    if common["common_home"]:
        session.home = Path(str(common["common_home"]))
    session.debug |= bool(common["common_debug"])
    session.output.json |= bool(common["common_json"])
    session.output.quiet |= bool(common["common_quiet"])
    return session
