"""Progress on stderr: live bars on a terminal, plain rate-limited lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console

    from modelyard.workflow.progress import Listener, Progress

PLAIN_EVERY_S: Final = 2.0
"""Least time between two plain lines of one step: a log stays readable, a watcher sees that it is alive."""


@contextmanager
def listening(console: Console, *, shown: bool, plain: bool = False) -> Iterator[Listener]:
    """A listener that shows progress on `console` (stderr) while the block runs; ignores it if not `shown`.

    `plain`: lines even on a terminal.
    """
    from modelyard.workflow.progress import silent

    if not shown:
        yield silent
    elif console.is_terminal and not plain and not console.is_dumb_terminal:
        with _bars(console) as listener:
            yield listener
    else:
        lines = PlainLines(lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201
        try:
            yield lines
        finally:
            lines.flush()


class PlainLines:
    """Writes `[step] message` lines: each new step at once, within a step at most one in `PLAIN_EVERY_S` seconds.

    The last message of a step is never lost: it is written when the next step begins or at `flush`.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._step = ""
        self._written = ""
        self._held: str | None = None
        self._next = 0.0

    def __call__(self, progress: Progress) -> None:
        line = _line(progress)
        if progress.step != self._step:
            self.flush()
            self._step = progress.step
        elif self._clock() < self._next:
            self._held = line
            return
        self._put(line)

    def flush(self) -> None:
        """Write the message held back, if any."""
        if self._held is not None:
            self._put(self._held)

    def _put(self, line: str) -> None:
        self._held = None
        if line != self._written:
            self._write(line)
            self._written = line
        self._next = self._clock() + PLAIN_EVERY_S


def _line(progress: Progress) -> str:
    share = "" if progress.fraction is None else f" {progress.fraction:4.0%}"
    return f"[{progress.step}{share}] {progress.message}"


@contextmanager
def _bars(console: Console) -> Iterator[Listener]:
    from rich.markup import escape
    from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.fields[step]:<8}", style="bold"),
        BarColumn(bar_width=16),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(progress: Progress) -> None:
            if progress.step not in tasks:
                tasks[progress.step] = bars.add_task("", total=None, step=str(progress.step))
            task = tasks[progress.step]
            bars.update(task, description=escape(progress.message))
            if progress.fraction is not None:
                bars.update(task, total=1.0, completed=progress.fraction)

        yield show
        for task in tasks.values():
            bars.update(task, total=1.0, completed=1.0)
