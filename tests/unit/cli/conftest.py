"""Running `yard` in this process, over a fake facade."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modelyard.cli import main
from tests.unit.cli.fakes import FakeYard


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)["data"]

    @property
    def error(self) -> Any:
        return json.loads(self.err.splitlines()[-1])["error"]


@pytest.fixture
def fake() -> FakeYard:
    return FakeYard()


@pytest.fixture
def yard(
    fake: FakeYard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Run]]:
    """Run `yard ARGS...` in `tmp_path`, its data under `tmp_path/home`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    for variable in ("MODELYARD_DEBUG", "FORCE_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    before = signal.getsignal(signal.SIGTERM)

    def run(*argv: str, over: FakeYard | None = None) -> Run:
        code = main(argv, open_yard=lambda _: over or fake)  # type: ignore[arg-type,return-value]
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    yield run
    signal.signal(signal.SIGTERM, before)
