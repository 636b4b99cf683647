"""Every failure ends in one clear message, the documented exit code, and nothing on stdout."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelyard.cli import exits
from modelyard.domain import errors
from modelyard.domain.errors import ModelyardError, NotFound
from tests.unit.cli.conftest import Run
from tests.unit.cli.fakes import FakeYard, failing


def leaves(kind: type[ModelyardError] = ModelyardError) -> Iterator[type[ModelyardError]]:
    for child in kind.__subclasses__():
        if child.__module__.startswith("modelyard."):
            yield child
            yield from leaves(child)


def test_every_leaf_of_the_error_family_has_its_own_row() -> None:
    defined = {v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, ModelyardError)}
    assert set(exits.BY_ERROR) == defined
    assert defined - {ModelyardError} <= set(leaves())
    for leaf in leaves():
        assert next(kind for kind in leaf.__mro__ if kind in exits.BY_ERROR) is not ModelyardError, leaf


def test_every_code_is_explained() -> None:
    codes = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert set(exits.MEANING) == codes
    assert set(exits.BY_ERROR.values()) <= codes


@pytest.mark.parametrize(("kind", "code"), list(exits.BY_ERROR.items()))
def test_an_error_tells_what_why_and_what_to_try(
    kind: type[ModelyardError], code: int, yard: Callable[..., Run]
) -> None:
    run = yard("doctor", over=failing(kind))
    assert (run.code, run.out) == (code, "")
    assert run.err.splitlines() == ["error: what happened", "  why: the reason", "  try: yard doctor"]


def test_a_choice_that_does_not_exist_is_told_with_those_that_do(yard: Callable[..., Run]) -> None:
    run = yard("profile", "digits", "--scenario", "foo")
    assert run.code == exits.USAGE
    assert run.err.splitlines() == [
        "error: Invalid value for '--scenario': 'foo' is not one of "
        "'single-stream', 'multi-stream', 'server', 'offline'",
        "  try: yard profile --help",
    ]


def test_with_json_the_error_is_the_last_line_of_stderr(yard: Callable[..., Run]) -> None:
    run = yard("convert", "digits", "--json", over=failing(NotFound))
    assert (run.code, run.out) == (3, "")
    assert run.error == {
        "type": "NotFound",
        "what": "what happened",
        "why": "the reason",
        "hint": "yard doctor",
        "exit_code": 3,
    }


@pytest.mark.parametrize(
    "argv",
    [
        ("modls",),
        ("models", "ls", "--nope"),
        ("register",),
        ("profile", "digits", "--blocks", "many"),
        ("models", "rm"),
    ],
)
def test_a_wrong_command_line_is_code_2_and_names_the_help(argv: tuple[str, ...], yard: Callable[..., Run]) -> None:
    run = yard(*argv)
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith("error: ")
    assert "--help" in run.err


def test_a_wrong_command_line_is_json_too(yard: Callable[..., Run]) -> None:
    run = yard("models", "ls", "--json", "--nope")
    assert run.code == 2
    assert run.error["type"] == "Usage"


def test_a_group_without_an_action_shows_its_help(yard: Callable[..., Run]) -> None:
    run = yard("models")
    assert run.code == 2
    assert "rollback" in run.err


def test_an_unforeseen_failure_is_one_line_and_a_log(yard: Callable[..., Run], tmp_path: Path) -> None:
    run = yard("doctor", over=FakeYard(fail=RuntimeError("broken inside")))
    assert run.code == 1
    assert "broken inside" in run.err
    assert "Traceback" not in run.err
    (log,) = (tmp_path / "home" / "logs").iterdir()
    assert str(log) in run.err
    assert "Traceback" in log.read_text()
    assert "yard doctor" in log.read_text()


@pytest.mark.parametrize("by", ["option", "variable"])
def test_debug_shows_the_traceback(by: str, yard: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "variable":
        monkeypatch.setenv("MODELYARD_DEBUG", "1")
    run = yard("doctor", *(["--debug"] if by == "option" else []), over=FakeYard(fail=RuntimeError("broken inside")))
    assert run.code == 1
    assert "Traceback" in run.err


def test_a_full_disk_is_no_bug_report(yard: Callable[..., Run]) -> None:
    run = yard("doctor", over=FakeYard(fail=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")))
    assert run.code == 1
    assert run.err.startswith("error: the disk is full at /data/x")
    assert "yard gc" in run.err


def test_a_full_disk_is_that_of_the_copy_not_of_its_source(yard: Callable[..., Run]) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/source/m.onnx", None, "/data/copy")
    assert yard("doctor", over=FakeYard(fail=full)).err.startswith("error: the disk is full at /data/copy\n")


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(yard: Callable[..., Run]) -> None:
    fake = FakeYard(fail=KeyboardInterrupt())
    run = yard("publish", "digits:1", "--slo", "p99 <= 20 ms", over=fake)
    assert run.code == 130
    assert "error" not in run.err
    assert "Traceback" not in run.err
    assert "is kept" in run.err
    assert "yard publish digits:1 --slo 'p99 <= 20 ms'" in run.err
    assert fake.closed


def test_sigterm_cleans_up_like_ctrl_c(yard: Callable[..., Run]) -> None:
    class Killed(FakeYard):
        def _asked(self, name: str, value: object) -> None:
            signal.raise_signal(signal.SIGTERM)

    fake = Killed()
    run = yard("publish", "digits:1", over=fake)
    assert run.code == 143
    assert "terminated" in run.err
    assert fake.closed


def test_the_facade_is_closed_after_a_failure(yard: Callable[..., Run]) -> None:
    fake = failing(NotFound)
    yard("doctor", over=fake)
    assert fake.closed


@pytest.mark.parametrize("argv", [("config", "show"), ("config", "show", "--json"), ("--help",)])
def test_a_reader_that_went_away_ends_it_quietly(argv: tuple[str, ...], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "modelyard", *argv],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, "MODELYARD_HOME": str(tmp_path)},
        text=True,
        timeout=60,
    )
    os.close(writing)
    assert done.returncode == exits.BROKEN_PIPE
    assert done.stderr == ""
