"""Progress where stderr is no terminal: few lines, none that matters lost."""

from __future__ import annotations

import io

from rich.console import Console

from modelyard.cli.progress import PLAIN_EVERY_S, PlainLines, listening
from modelyard.workflow.progress import Progress, Step


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_of_one_step_are_rate_limited_but_its_last_is_told() -> None:
    lines: list[str] = []
    clock = Clock()
    listener = PlainLines(lines.append, clock)
    for i in range(10):
        listener(Progress(Step.PROFILE, f"cell {i}", i / 10))
    assert lines == ["[profile   0%] cell 0"]
    listener(Progress(Step.CHOOSE, "deciding"))
    assert lines[1:] == ["[profile  90%] cell 9", "[choose] deciding"]
    clock.now += PLAIN_EVERY_S
    listener(Progress(Step.CHOOSE, "decided"))
    assert lines[-1] == "[choose] decided"


def test_flush_tells_what_was_held_back_once() -> None:
    lines: list[str] = []
    listener = PlainLines(lines.append, Clock())
    listener(Progress(Step.CONVERT, "a"))
    listener(Progress(Step.CONVERT, "b"))
    listener.flush()
    listener.flush()
    assert lines == ["[convert] a", "[convert] b"]


def test_a_terminal_gets_a_line_per_step_with_its_last_message() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    with listening(console, shown=True) as listener:
        listener(Progress(Step.CONVERT, "onnx [dynamo]", 0.5))
        listener(Progress(Step.DEPLOY, "starting"))
    final = stream.getvalue().rsplit("\r", 1)[-1] + stream.getvalue()
    assert "onnx [dynamo]" in final
    assert "deploy" in final


def test_not_shown_is_silent() -> None:
    stream = io.StringIO()
    with listening(Console(file=stream, force_terminal=True), shown=False) as listener:
        listener(Progress(Step.CONVERT, "onnx"))
    assert stream.getvalue() == ""
