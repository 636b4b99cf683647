"""stdout: data for people (tables) or for programs (`--json`); stderr: everything else.

The JSON envelope, on stdout: `{"schema": "modelyard/v1", "kind": KIND, "data": ...}`. An error, on stderr:
`{"schema": "modelyard/v1", "kind": "error", "error": {type, what, why, hint, exit_code}}`, always its last line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Final

from modelyard.cli.exits import Complaint, ReaderGone

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SCHEMA: Final = "modelyard/v1"
PLAIN_WIDTH: Final = 100
"""Columns of tables where stdout is no terminal and COLUMNS is not set."""


class Output:
    """Where a command writes. Not thread-safe for data; progress has its own lock."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet

    @cached_property
    def out(self) -> Console:
        return _console(stderr=False)

    @cached_property
    def err(self) -> Console:
        return _console(stderr=True)

    def emit(self, kind: str, data: object, render: Callable[[], RenderableType | None]) -> None:
        """Write the command's result: the envelope around `data` with `--json`, else what `render` gives."""
        if self.json:
            sys.stdout.write(envelope(kind, data=data) + "\n")
            sys.stdout.flush()
            return
        shown = render()
        if shown is not None:
            self.out.print(shown, crop=False)  # a line to copy stays whole, however long

    def line(self, text: str) -> None:
        """Write one line of data as it is: no markup, no wrapping."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Tell the user something beside the data (stderr); silent with `--quiet` and `--json`."""
        if not (self.quiet or self.json):
            self.err.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Warn of something that is likely a mistake, in one line (stderr); silent with `--quiet` only."""
        if not self.quiet:
            self.err.print(f"warning: {text}", markup=False, highlight=False, soft_wrap=True, style="yellow")

    def complain(self, complaint: Complaint) -> None:
        """Tell an error (stderr); never silent."""
        if self.json:
            sys.stderr.write(envelope("error", error=complaint) + "\n")
            return
        for i, line in enumerate(complaint.lines()):
            self.err.print(line, markup=False, highlight=False, soft_wrap=True, style="bold red" if i == 0 else "")


def envelope(kind: str, **content: object) -> str:
    """The one JSON shape of everything `yard` prints with `--json`; `content` is `data=` or `error=`."""
    import msgspec

    encoder = msgspec.json.Encoder(enc_hook=_plain)
    return encoder.encode({"schema": SCHEMA, "kind": kind, **content}).decode()


def _plain(value: object) -> object:
    import numpy as np

    if isinstance(value, np.ndarray):
        return [_plain_element(v) for v in value.ravel()] if value.dtype == object else value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return str(value)


def _plain_element(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _console(*, stderr: bool) -> Console:
    import os

    from rich.console import Console

    class Plain(Console):
        """Leaves a broken pipe to the boundary in `app`; rich would exit with 1."""

        def on_broken_pipe(self) -> None:
            raise ReaderGone

    stream = sys.stderr if stderr else sys.stdout
    sized = stream.isatty() or "COLUMNS" in os.environ
    return Plain(stderr=stderr, width=None if sized else PLAIN_WIDTH, highlight=False, emoji=False, markup=False)
