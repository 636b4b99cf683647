"""Figures of the fault bench find their rows in docs/benchmarks.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.faults.result import Result, write

PAGE = """# Faults
| T18 outside | a | b | c |
<!-- fault table -->
| row | passes when | figure | how |
|---|---|---|---|
| T1 first | x <= 1 | | `one` |
| T18 expired | y <= 1 | old: MISSED | `two` |
<!-- end of the fault table -->
the end
"""


def test_a_row_that_ran_gets_its_figure_and_verdict_and_all_else_stays(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    write(page, {"T18": Result("0 of 10 | 20", passed=True), "T99": Result("unknown", passed=False)})
    assert page.read_text() == PAGE.replace("| old: MISSED |", "| 0 of 10 / 20: passed |")
    write(page, {"T1": Result("2", passed=False)})
    assert "| T1 first | x <= 1 | 2: MISSED | `one` |\n" in page.read_text()


def test_a_page_without_the_table_is_not_touched(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("no table")
    with pytest.raises(ValueError, match="no fault table"):
        write(page, {"T18": Result("1", passed=True)})
    assert page.read_text() == "no table"


def test_the_page_of_benchmarks_has_every_row_from_t10_to_t24_in_the_table():
    text = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text()
    table = text[text.index("<!-- fault table -->") : text.index("<!-- end of the fault table -->")]
    assert re.findall(r"^\| (T\d+) ", table, re.MULTILINE) == [f"T{n}" for n in range(10, 25)]
