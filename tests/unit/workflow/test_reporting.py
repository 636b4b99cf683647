"""Reports and exports from a real hub: which measurements, with which samples, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelyard.domain.decision import Decision
from modelyard.domain.errors import BackendFailed, InvalidInput, NotFound
from modelyard.domain.measurement import Measurement
from modelyard.hub import Hub
from modelyard.profile import Price
from modelyard.profile.export import ExportFormat
from modelyard.workflow.comparing import comparable
from modelyard.workflow.exporting import Exporting, format_of
from modelyard.workflow.reporting import Reporting
from modelyard.workflow.writing import whole_file
from tests.builders import configuration
from tests.contract.hub_content import Clock, Place
from tests.unit.profile.report_builders import of, poisson, samples

Record = Callable[..., Measurement]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    clock = Clock()
    with Hub.open(f"sqlite:///{tmp_path}/hub.db", str(tmp_path / "blobs"), tmp_path / "cache", clock) as hub:
        yield Place(hub, "", str(tmp_path / "blobs"), tmp_path, clock)


@pytest.fixture
def record(place: Place, tmp_path: Path) -> Record:
    """Record a measurement of `digits:VERSION` with the samples of a queue."""
    artifacts: dict[int, str] = {}

    def make(name: str, *, version: int = 1, seed: int = 0, threads: int = 1, rate: float = 250.0) -> Measurement:
        if version not in artifacts:
            artifacts[version] = place.add(place.register(content=f"v{version}".encode())).id
        raw = samples(seed=seed, requests=200)
        raw.save(tmp_path / f"{name}.npz")
        made = of(name, raw, config=configuration(artifacts[version], threads=threads), workload=poisson(rate))
        return place.hub.measurements.record(dataclasses.replace(made, version=version), tmp_path / f"{name}.npz")

    return make


def lose(place: Place, m: Measurement) -> None:
    """As after a disk was restored without its blobs."""
    for folder in (place.directory / "blobs", place.directory / "cache"):
        for path in folder.rglob(f"*{m.samples[-40:]}*"):
            path.chmod(0o644)
            path.unlink()


def decide(place: Place, version: int, chosen: str) -> None:
    decision = Decision(f"d{version}{chosen}", "digits", version, chosen, None, (chosen,), None, None, "the cheapest")
    place.hub.decisions.record(decision)


class TestComparable:
    def test_ids_are_taken_as_they_are(self, place, record):
        a, b = record("aaaaaa1"), record("bbbbbb1", seed=1)
        assert comparable(place.hub, "aaaaaa", "bbbbbb1") == (a, b)

    def test_a_version_stands_for_its_choice_and_the_pair_with_the_same_schedules(self, place, record):
        record("first", rate=300.0)
        second = record("second", rate=250.0)
        other = record("other", version=2, rate=250.0)
        record("odd", version=2, threads=4, rate=300.0)
        decide(place, 1, "first")
        decide(place, 2, "other")
        assert comparable(place.hub, "digits:1", "digits:2") == (second, other)

    def test_nothing_chosen_is_said_with_the_command_to_type(self, place, record):
        record("aaaaaa1")
        with pytest.raises(NotFound) as told:
            comparable(place.hub, "digits:1", "aaaaaa1")
        assert "yard publish digits:1" in told.value.hint

    def test_an_unknown_name_is_not_found(self, place, record):
        record("aaaaaa1")
        with pytest.raises(NotFound):
            comparable(place.hub, "nothing", "aaaaaa1")


class TestReports:
    @pytest.fixture
    def reporting(self, place: Place) -> Reporting:
        return Reporting(place.hub, Price())

    def test_two_compared_tell_the_difference_in_words_with_both_lines(self, reporting, record, tmp_path):
        record("aaaaaa1")
        record("bbbbbb1", threads=2)
        page = reporting.write_comparison("aaaaaa1", "bbbbbb1", tmp_path / "new/c.html").read_text()
        assert "paired blocks" in page
        assert "no difference shown at p99" in page  # the same samples
        assert "A (1)" in page
        assert "B (2)" in page
        assert '<td class="differs"><span>2, 1</span>' in page

    def test_lost_samples_are_told_and_the_rest_is_shown(self, reporting, place, record, tmp_path):
        kept, lost = record("aaaaaa1"), record("bbbbbb1", seed=1)
        lose(place, lost)
        page = reporting.write_measurements([kept, lost], tmp_path / "m.html").read_text()
        assert "No raw samples of row 2" in page
        assert "Latency distribution" in page
        compared = reporting.write_comparison("aaaaaa1", "bbbbbb1", tmp_path / "c.html").read_text()
        assert "No differences can be told" in compared

    def test_the_report_of_a_version_bears_them_too(self, reporting, place, record, tmp_path):
        lost = record("aaaaaa1")
        decide(place, 1, "aaaaaa1")
        lose(place, lost)
        page = reporting.write(place.hub.versions.list("digits")[0], tmp_path / "v.html").read_text()
        assert "the cheapest" in page
        assert "No raw samples of row 1" in page


class TestExport:
    def test_all_of_a_version_or_some_by_id(self, place, record, tmp_path):
        record("aaaaaa1")
        record("bbbbbb1")
        record("cccccc1", version=2)
        exporting = Exporting(place.hub)
        assert [m.id for m in exporting.select("digits:1", ())] == ["aaaaaa1", "bbbbbb1"]
        assert [m.id for m in exporting.select(None, ("cccccc", "aaaaaa", "cccccc1"))] == ["cccccc1", "aaaaaa1"]
        with pytest.raises(InvalidInput):
            exporting.select(None, ())
        written = exporting.write(exporting.select("digits:1", ()), tmp_path / "new/x.json", ExportFormat.JSON)
        assert len(json.loads(Path(written.path).read_text())["measurements"]) == written.rows == 2

    def test_a_parquet_file_has_what_is_there_and_names_what_is_not(self, place, record, tmp_path):
        import pyarrow.parquet as pq

        kept, lost = record("aaaaaa1"), record("bbbbbb1", seed=1)
        lose(place, lost)
        written = Exporting(place.hub).write([kept, lost], tmp_path / "x.parquet", ExportFormat.PARQUET)
        assert (written.measurements, written.rows, [name for name, _ in written.left_out]) == (1, 1000, ["bbbbbb1"])
        assert set(pq.read_table(tmp_path / "x.parquet")["measurement"].to_pylist()) == {"aaaaaa1"}
        with pytest.raises(NotFound):
            Exporting(place.hub).write([lost], tmp_path / "y.parquet", ExportFormat.PARQUET)
        assert not (tmp_path / "y.parquet").exists()

    def test_the_suffix_names_the_format_unless_one_is_given(self):
        assert format_of(Path("x.CSV"), None) is ExportFormat.CSV
        assert format_of(Path("x.csv"), "json") is ExportFormat.JSON
        for path, named in (("x.txt", None), ("x.csv", "xml")):
            with pytest.raises(InvalidInput):
                format_of(Path(path), named)


class TestWholeFile:
    def test_a_failure_leaves_what_was_there_and_no_part(self, tmp_path):
        path = tmp_path / "r.html"
        path.write_text("old")
        with pytest.raises(ZeroDivisionError), whole_file(path, "--html") as part:
            part.write_text("half")
            raise ZeroDivisionError
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_where_nothing_can_be_written_the_error_names_the_option(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(BackendFailed) as told, whole_file(tmp_path / "file/r.html", "--html") as part:
            part.write_text("x")
        assert told.value.hint == "give another --html"
