"""`yard report` and `yard measurements export` over a real home, from the command line to the file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import modelyard
from modelyard.cli import main
from modelyard.config import Settings
from modelyard.domain.versions import Description
from tests.builders import configuration
from tests.contract.hub_content import definition
from tests.unit.profile.report_builders import of, samples

IDS = ("aaaaaaaa1", "bbbbbbbb2")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a version and two measurements of it."""
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    (tmp_path / "model").write_bytes(b"weights")
    files = dict.fromkeys(("model.pt2", "net/model.py", "holdout.npz"), tmp_path / "model")
    with modelyard.open(Settings.read()) as yard:
        made = yard.hub.versions.register(definition(), Description(), files, ["model.pt2", "net/model.py"])
        for seed, name in enumerate(IDS):
            raw = samples(seed=seed, requests=120)
            raw.save(tmp_path / "raw.npz")
            config = configuration(made.version.source_artifact, threads=seed + 1)
            yard.hub.measurements.record(of(name, raw, config=config), tmp_path / "raw.npz")
    return tmp_path


def test_every_kind_of_report_is_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["digits"], ["--measurement", IDS[0]], ["--compare", IDS[0][:6], IDS[1]]):
        path = home / "new" / f"{len(argv)}.html"
        assert main(["report", *argv, "--html", str(path)]) == 0, capsys.readouterr().err
        assert path.read_text().count("<svg") >= 3
    assert "B against A, paired blocks" in (home / "new/3.html").read_text()


def test_every_format_is_written_and_agrees(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow.parquet as pq

    for suffix in ("csv", "json", "parquet"):
        assert main(["measurements", "export", "digits", "--out", str(home / f"x.{suffix}")]) == 0
    capsys.readouterr()
    rows = list(csv.DictReader((home / "x.csv").open(newline="")))
    told = json.loads((home / "x.json").read_text())["measurements"]
    table = pq.read_table(home / "x.parquet")
    assert [row["measurement"] for row in rows] == [m["id"] for m in told] == list(IDS)
    assert [float(row["p99_ms"]) for row in rows] == [m["indicators"]["p99_ms"]["value"] for m in told]
    assert table.num_rows == sum(int(row["requests"]) for row in rows)


def test_a_format_nobody_named_is_one_clear_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measurements", "export", "digits", "--out", str(home / "x.bin")]) == 2
    assert "--format" in capsys.readouterr().err
    assert not (home / "x.bin").exists()
