"""The app: the root command, every group, and the boundary where errors become messages and exit codes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer

from modelyard.cli import (
    conversions,
    deployment,
    housekeeping,
    max_rate,
    measurements,
    models,
    prediction,
    profiling,
    publishing,
    registration,
    reporting,
    services,
    tuning,
)
from modelyard.cli.command import DebugOption, HomeOption, QuietOption
from modelyard.cli.exits import (
    BROKEN_PIPE,
    FAILURE,
    INTERRUPTED,
    TERMINATED,
    USAGE,
    Complaint,
    Interrupted,
    ReaderGone,
    Terminated,
    exit_code,
    of_os_error,
)
from modelyard.cli.output import Output
from modelyard.cli.session import OpenYard, Session
from modelyard.domain.errors import ModelyardError

PARTS: Final = (
    publishing,
    registration,
    models,
    conversions,
    profiling,
    max_rate,
    measurements,
    reporting,
    tuning,
    deployment,
    services,
    prediction,
    housekeeping,
)
"""One module per command group, in the order of `yard --help`; each has `add(app)`."""


def build() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="yard",
        help="Turn a trained model into the cheapest service that meets its latency target.",
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"max_content_width": 100},
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for part in PARTS:
        part.add(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from modelyard import __version__

        sys.stdout.write(f"modelyard {__version__}\n")
        raise typer.Exit


def _root(
    context: typer.Context,
    home: HomeOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
    version: Annotated[  # noqa: ARG001  (handled by its callback)
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    session: Session = context.obj["session"]
    session.home = home
    session.debug = debug
    session.output.quiet = quiet


def main(argv: Sequence[str] | None = None, *, open_yard: OpenYard | None = None) -> int:
    """Run `yard` with `argv` (default: the process') and return the exit code; never raises for a failed command."""
    arguments = tuple(sys.argv[1:] if argv is None else argv)
    session = Session(argv=arguments, open_yard=open_yard, output=Output(json="--json" in arguments))
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        code = build()(arguments, prog_name="yard", standalone_mode=False, obj={"session": session})
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except Interrupted as error:
        return _interrupted(session, error)
    except typer.Abort:
        session.output.complain(Complaint("Interrupted", "aborted", "", "", INTERRUPTED))
        return INTERRUPTED
    except typer.TyperException as error:
        return _usage(session, error)
    except ModelyardError as error:
        return _known(session, error)
    except (ReaderGone, BrokenPipeError):
        return _reader_gone()
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return _reader_gone()  # typer met it while printing help
    except Exception as error:  # noqa: BLE001  (the process boundary: told in one line, traceback kept)
        known = of_os_error(error) if isinstance(error, OSError) else None
        if known is None:
            return _unexpected(session, error)
        known.__cause__ = error
        return _known(session, known)


def _reader_gone() -> int:
    # what is still buffered must not fail again when the interpreter flushes at exit
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def _terminate(_signum: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: the clean-up must not be interrupted by a second one
    raise Terminated


def _interrupted(session: Session, error: Interrupted) -> int:
    hint = f"run it again to go on from there: {session.command_line}" if error.kept else ""
    what = "terminated" if error.terminated else "interrupted"
    code = TERMINATED if error.terminated else INTERRUPTED
    session.output.complain(Complaint("Interrupted", f"{what}; {error.kept}" if error.kept else what, "", hint, code))
    return code


def _usage(session: Session, error: typer.TyperException) -> int:
    """A wrong command line. A group without an action shows its help instead, which typer raises as an error too."""
    message = error.format_message().replace(": Value error, ", ": ")  # how pydantic begins what it says of a choice
    if message.lstrip().startswith("Usage:"):
        sys.stderr.write(message + "\n")
        return USAGE
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "yard"
    session.output.complain(Complaint("Usage", message.rstrip("."), "", f"{path} --help", USAGE))
    return USAGE


def _known(session: Session, error: ModelyardError) -> int:
    if session.debug:
        traceback.print_exception(error, file=sys.stderr)
    session.output.complain(Complaint.of(error))
    return exit_code(error)


def _unexpected(session: Session, error: Exception) -> int:
    """A bug, or a failure nobody foresaw: one line, and where the traceback is."""
    text = "".join(traceback.format_exception(error))
    log = None if session.debug else _write_log(session, text)
    if log is None:
        sys.stderr.write(text)
    complaint = Complaint(
        type(error).__name__,
        f"unexpected {type(error).__name__}: {error}".splitlines()[0],
        "",
        f"report it with the traceback in {log}" if log else "report it with the traceback above",
        FAILURE,
    )
    session.output.complain(complaint)
    return FAILURE


def _write_log(session: Session, text: str) -> Path | None:
    """Keep the traceback under the data directory; None where that cannot be written."""
    try:
        directory = session.settings().home / "logs"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"yard-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
        path.write_text(f"{session.command_line}\n\n{text}")
    except (OSError, ModelyardError):
        return None
    return path
