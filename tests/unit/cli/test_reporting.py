"""`yard report` and `yard measurements export`: one subject each, told plainly where it is none or two."""

from __future__ import annotations

from pathlib import Path

import pytest

REPORTS = [
    (("digits:3",), ("report", ("digits:3", Path("o.html")))),
    (("--measurement", "a", "--measurement", "b"), ("report_measurements", (("a", "b"), Path("o.html")))),
    (("--compare", "digits:1", "abcdef"), ("report_comparison", ("digits:1", "abcdef", Path("o.html")))),
]


@pytest.mark.parametrize(("argv", "call"), REPORTS, ids=["version", "measurements", "comparison"])
def test_a_report_is_of_a_version_of_measurements_or_of_two_compared(yard, fake, argv, call):
    run = yard("report", *argv, "--html", "o.html")
    assert (run.code, run.out) == (0, "o.html\n")
    assert fake.calls == [call]


@pytest.mark.parametrize("argv", [(), ("digits", "--measurement", "a"), ("digits", "--compare", "a", "b")])
def test_none_or_two_subjects_are_one_clear_error(yard, fake, argv):
    run = yard("report", *argv, "--html", "o.html", "--json")
    assert run.code == 2
    assert "--compare A B" in run.error["hint"]
    assert fake.calls == []


def test_an_export_says_what_it_wrote_and_warns_of_what_it_could_not(yard, fake):
    run = yard("measurements", "export", "--measurement", "abc", "--out", "o.bin", "--format", "parquet")
    assert run.code == 0
    assert run.out == "o.bin: 2 measurements, 1,234 requests\n"
    assert "warning: old is not in the file: its blob is gone" in run.err
    assert fake.calls == [("export", (Path("o.bin"), None, ("abc",), "parquet"))]
