"""Exports hold what was measured, to the last digit, under documented names."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import pytest

from modelyard.domain.errors import Unsupported
from modelyard.domain.measurement import EarlyStopping, Interval, Measurement, ScenarioResult, Validity, Verdict
from modelyard.domain.workload import Scenario
from modelyard.profile.export import COLUMNS, METADATA, SCHEMA, Document, csv_text, json_text, write_parquet
from tests.builders import measurement
from tests.unit.profile.report_builders import in_flight, of, samples

PAGE = Path(__file__).parents[3] / "docs/reports.md"


def cells(measurements: list[Measurement]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_text(measurements))))


class TestCsv:
    def test_a_row_holds_its_numbers_to_the_last_digit(self):
        m = of("m", samples(), workload=in_flight(8))
        (row,) = cells([m])
        assert list(row) == list(COLUMNS)
        assert float(row["p99_ms"]) == m.indicators.p99_ms.value
        assert float(row["p99_ms_high"]) == m.indicators.p99_ms.high
        assert (row["concurrency"], row["rate_rps"], row["infer_ms"]) == ("8", "", "0.6")

    def test_what_is_unknown_is_empty_and_a_cost_never_zero_for_want_of_one(self):
        m = measurement(p99=None)
        unknown = dataclasses.replace(m.indicators, core_s_per_request=0.0, cost_per_million=0.0)
        (row,) = cells([dataclasses.replace(m, indicators=unknown)])
        empty = ("p99_ms", "p99_ms_low", "p999_ms", "queue_ms", "cost_per_million", "cost_per_million_low", "mean_ms")
        assert [row[name] for name in empty] == [""] * len(empty)

    def test_what_early_stopping_certifies_has_its_columns(self):
        stopping = EarlyStopping(0.99, 5000, 459, 12.5, limit_ms=10.0, over=60, allowed=31)
        result = ScenarioResult(Scenario.SERVER, "p99", 12.25, "ms", stopping)
        m = measurement()
        with_it = dataclasses.replace(m, indicators=dataclasses.replace(m.indicators, scenario=result))
        row, without = cells([with_it, m])
        named = {name.removeprefix("early_stopping_"): row[name] for name in row if name.startswith("early_stopping_")}
        told = "share=0.99 queries=5000 needed=459 at_most_ms=12.5 limit_ms=10.0 over=60 allowed=31 met=False"
        assert named == dict(word.split("=") for word in told.split())
        assert (row["scenario_metric"], row["scenario_value"]) == ("p99", "12.25")
        assert {without[name] for name in row if name.startswith(("early_", "scenario_"))} == {""}

    def test_reasons_with_commas_quotes_and_lines_stay_one_cell(self):
        reasons = ('a "quoted", one', "two\nlines")
        m = dataclasses.replace(measurement(), verdict=Verdict(Validity.INVALID, reasons))
        (row,) = cells([m])
        assert (row["validity"], row["reasons"]) == ("invalid", "; ".join(reasons))


class TestJson:
    def test_it_is_the_measurement_and_reads_back_as_it(self):
        m = of("m", samples())
        read = msgspec.json.decode(json_text([m]), type=Document)
        assert read == Document(SCHEMA, (m,))

    def test_numbers_that_are_none_are_null(self):
        broken = dataclasses.replace(measurement(), blocks_discarded=1)
        broken = dataclasses.replace(
            broken, indicators=dataclasses.replace(broken.indicators, rows_per_s=float("nan"), p99_ms=None)
        )
        body = json.loads(json_text([broken]))["measurements"][0]["indicators"]
        assert (body["rows_per_s"], body["p99_ms"]) == (None, None)


class TestParquet:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        measured = []
        for n, failed in enumerate((0, 3)):
            raw = samples(seed=n, requests=100, failed=failed)
            raw.save(tmp_path / f"{n}.npz")
            measured.append((of(f"m{n}", raw), tmp_path / f"{n}.npz"))
        assert write_parquet(tmp_path / "x.parquet", measured) == 1000
        return tmp_path / "x.parquet"

    def test_a_row_is_a_request_and_nothing_is_left_out(self, file):
        import pyarrow.parquet as pq

        table = pq.read_table(file).to_pydict()
        raw = samples(seed=1, requests=100, failed=3)
        second = [i for i, name in enumerate(table["measurement"]) if name == "m1"]
        assert len(second) == 500
        for name in ("block", "scheduled_s", "dispatched_s", "sent_s", "completed_s", "status"):
            assert np.array_equal(np.array(table[name])[second], getattr(raw, name)), name
        assert np.array_equal(np.array(table["latency_ms"])[second], raw.latencies_ms(10.0))
        assert table["ok"].count(False) == 15

    def test_the_file_says_what_it_is_of(self, file):
        import pyarrow.parquet as pq

        about = msgspec.json.decode(pq.read_schema(file).metadata[METADATA], type=Document)
        assert [m.id for m in about.measurements] == ["m0", "m1"]
        m = about.measurements[0]
        assert (m.workload.seed, m.configuration.runtime, m.fingerprint.cores) == (0, "onnxruntime", 2)
        assert pq.ParquetFile(file).num_row_groups == 2

    def test_without_pyarrow_the_error_has_the_line_to_type(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(Unsupported) as told:
            write_parquet(tmp_path / "x.parquet", [])
        assert "pip install 'modelyard[parquet]'" in told.value.hint


def paths(kind: Any, prefix: str) -> Iterator[str]:
    """Every field of the JSON: `indicators.p99_ms.low`, `verdict.reasons[]`, `environment.*`."""
    found = [a for a in get_args(kind) if a is not NoneType] if get_origin(kind) in (Union, UnionType) else [kind]
    for each in found:
        origin = get_origin(each)
        if each is Interval:
            yield prefix
        elif dataclasses.is_dataclass(each):
            for name, hint in get_type_hints(each).items():
                yield from paths(hint, f"{prefix}.{name}" if prefix else name)
        elif origin is tuple:
            yield from paths(get_args(each)[0], f"{prefix}[]")
        elif origin is not None and issubclass(origin, Mapping):
            yield from paths(get_args(each)[1], f"{prefix}.*")
        else:
            assert isinstance(each, type)
            assert issubclass(each, Enum | str | int | float | bool), prefix
            yield prefix


def documented(title: str) -> list[str]:
    """Names in the first cells of the table under a heading of the page."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"# {title}\n")
    part = re.split(r"^#", rest, flags=re.MULTILINE)[0]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| ")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_field_of_the_json_is_documented_and_no_other():
    """An interval's four fields are documented once, for all of them."""
    assert set(documented("JSON")) == set(paths(Measurement, ""))


def test_every_column_of_the_csv_is_documented_in_order():
    expanded = [name for column in documented("CSV") for name in _with_bounds(column)]
    assert expanded == list(COLUMNS)


def _with_bounds(name: str) -> list[str]:
    stem = name.removesuffix("[_low,_high]")
    return [name] if stem == name else [stem, f"{stem}_low", f"{stem}_high"]


def test_every_column_of_the_parquet_is_documented(tmp_path):
    import pyarrow.parquet as pq

    raw = samples(requests=10)
    raw.save(tmp_path / "raw.npz")
    write_parquet(tmp_path / "x.parquet", [(of("m", raw), tmp_path / "raw.npz")])
    assert documented("Parquet") == pq.read_schema(tmp_path / "x.parquet").names


def test_the_schema_named_on_the_page_is_the_one_that_is_written():
    assert f'"schema": "{SCHEMA}"' in PAGE.read_text(encoding="utf-8")
