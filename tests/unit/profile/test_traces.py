"""Trace files: every layout is told from its first lines, read to the same arrivals, and a bad line is named."""

from __future__ import annotations

import gzip
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.domain.workload import TraceLayout
from modelyard.profile.traces import TraceFile

AZURE_2019 = "HashOwner,HashApp,HashFunction,Trigger," + ",".join(map(str, range(1, 1441)))


def written(tmp_path, text, name="trace.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def row_2019(function, **minutes):
    cells = ["0"] * 1440
    for minute, count in minutes.items():
        cells[int(minute[1:]) - 1] = str(count)
    return f"o,a,{function},http," + ",".join(cells)


@pytest.mark.parametrize(
    ("text", "layout", "values", "interval_s"),
    [
        ("100.5\n101.0\n103.25\n", TraceLayout.TIMESTAMPS, [0, 0.5, 2.75], None),
        ("# a log\ntimestamp\n7\n5\n\n6\n", TraceLayout.TIMESTAMPS, [0, 1, 2], None),
        ("id,Time\na,0.5\nb,2\n", TraceLayout.TIMESTAMPS, [0, 1.5], None),
        ("1700000000000\n1700000000250\n", TraceLayout.TIMESTAMPS, [0, 0.25], None),
        ("2026-11-22T06:00:00Z\n2026-11-22T06:00:01.5Z\n", TraceLayout.TIMESTAMPS, [0, 1.5], None),
        ("12\n0\n7\n", TraceLayout.COUNTS, [12, 0, 7], 60),
        ("3\n3\n3\n", TraceLayout.COUNTS, [3, 3, 3], 60),
        ("time,count\n0,5\n60,9\n", TraceLayout.COUNTS, [5, 9], 60),
        ("minute,tweets\n1,5\n2,9\n", TraceLayout.COUNTS, [5, 9], 60),
        ("app,func,end_timestamp,duration\na,f,10,2.5\na,g,9,1\n", TraceLayout.AZURE_2021, [0, 0.5], None),
    ],
)
def test_a_layout_is_told_from_the_file(tmp_path, text, layout, values, interval_s):
    found, read_as = TraceFile(written(tmp_path, text)).read()
    assert read_as is layout
    assert found.interval_s == interval_s
    assert found.values == pytest.approx(np.array(values, float), abs=1e-6)


def test_azure_2019_sums_the_functions_or_takes_some(tmp_path):
    text = "\n".join([AZURE_2019, row_2019("abc", m1=4, m1440=2), row_2019("xyz", m1=10, m3=1)])
    path = written(tmp_path, text)
    whole, layout = TraceFile(path).read()
    assert layout is TraceLayout.AZURE_2019
    assert (whole.requests, whole.span_s, whole.values[0], whole.values[2]) == (17, 86400, 14, 1)
    some, _ = TraceFile(path, function="ab").read()
    assert (some.requests, some.values[0], some.values[1439]) == (6, 4, 2)
    with pytest.raises(InvalidInput) as caught:
        TraceFile(path, function="nothing").read()
    assert "'nothing'" in caught.value.what


def test_layout_column_and_interval_may_be_said(tmp_path):
    path = written(tmp_path, "1,9.5\n2,10.5\n3,12\n")
    by_number, _ = TraceFile(path, column="2").read()
    assert by_number.values == pytest.approx([0, 1, 2.5])
    counts, _ = TraceFile(path, TraceLayout.COUNTS, column="1", interval_s=1).read()
    assert (counts.interval_s, counts.requests) == (1, 6)
    headed, _ = TraceFile(written(tmp_path, "a,b\n5,1\n7,4\n"), column="1").read()
    assert headed.values.tolist() == [0, 2]
    named, _ = TraceFile(written(tmp_path, "a,b\n5,1\n7,4\n"), TraceLayout.COUNTS, column="b").read()
    assert named.values.tolist() == [1, 4]


def test_a_compressed_file_is_the_same_trace(tmp_path):
    packed = tmp_path / "trace.csv.gz"
    packed.write_bytes(gzip.compress(b"0\n1.5\n"))
    plain = written(tmp_path, "timestamp,note\n10,hello\n11.5,there\n")
    assert TraceFile(packed).read()[0].digest == TraceFile(plain).read()[0].digest


@pytest.mark.parametrize(
    ("text", "layout", "said"),
    [
        ("0.5\n1\nsoon\n", None, "line 3: 'soon' is no instant"),
        ("0.5\n1\nnan\n", None, "line 3: 'nan' is no instant"),
        ("# x\n5\n-1\n3\n", TraceLayout.COUNTS, "line 3: '-1' is no number of requests"),
        ("5\n2.5\n", TraceLayout.COUNTS, "line 2: '2.5' is no number of requests"),
        ("time,x\n1,2\n2\n\n", TraceLayout.COUNTS, "line 1: there is no column count or counts"),
        ("x,time\n1,2\n2\n", None, "line 3: no cell 2 in a row of 1"),
        ("1,2\n2,3\n", None, "line 1: there is no column timestamp or"),
        (f"{AZURE_2019}\no,a,f,http,1,2\n", None, "line 2: 6 cells under a header of 1444"),
        (f"{AZURE_2019}\no,a,f,http,{'1,' * 1439}2.5\n", None, "line 2: '2.5' is no number of requests"),
        (f"{AZURE_2019}\no,a,f,http,{'1,' * 1439}many\n", None, "line 2: 'many' is no number of requests"),
        ("app,func,end_timestamp,duration\na,f,x,1\n", None, "line 2: 'x' is no instant"),
        ("a,b\n", TraceLayout.AZURE_2019, "line 1: the header is not HashOwner"),
        ("a,b\n", TraceLayout.AZURE_2021, "line 1: the header is not app"),
        ("", None, "line 1: there is nothing but"),
        ("# nothing\n\n", None, "line 1: there is nothing but"),
        ("0\n0\n0\n", TraceLayout.COUNTS, "the trace holds no request"),
    ],
)
def test_a_bad_file_is_one_error_with_its_line_and_a_next_step(tmp_path, text, layout, said):
    with pytest.raises(InvalidInput) as caught:
        TraceFile(written(tmp_path, text), layout).read()
    assert said in caught.value.what
    assert caught.value.hint


def test_a_missing_or_binary_file_is_told(tmp_path):
    with pytest.raises(NotFound):
        TraceFile(tmp_path / "nothing.csv").read()
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(InvalidInput):
        TraceFile(tmp_path / "binary").read()


@given(st.text(max_size=200), st.sampled_from([None, *TraceLayout]))
def test_any_text_is_arrivals_or_a_clear_error(tmp_path_factory, text, layout):
    path = tmp_path_factory.mktemp("any") / "trace"
    path.write_text(text, encoding="utf-8", errors="surrogatepass" if not text.isprintable() else "strict")
    with suppress(InvalidInput):
        found, _ = TraceFile(path, layout).read()
        assert np.isfinite(found.values).all()
        assert found.requests > 0
