"""The trace file's lines, written in bulk, against the spans that they stand for."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.serving.observe import lines as written
from modelyard.serving.observe import spans as told
from modelyard.serving.observe.context import new_places
from modelyard.serving.observe.spans import Place, Sample, Span, spans
from modelyard.serving.oip.plan import Interface
from tests.serving_harness import VECTOR

_PAUSES = st.sampled_from([0.0, 1e-6, 0.0123456, 3.5])
_TEXTS = st.sampled_from(["", "r1", 'a "quoted" \\ id', "Grüße\n\x00"])


@st.composite
def samples(draw) -> Sample:
    name, error = (
        draw(
            st.sampled_from(["m", 'm"1']),
        ),
        draw(_TEXTS),
    )
    clock = draw(st.sampled_from([0.0, 123.456, 9_999_999.25]))
    free, start = clock + draw(_PAUSES), clock + 20.0
    end = start + draw(_PAUSES)
    members, places = [], []
    for _ in range(draw(st.integers(1, 4))):
        whole = clock + draw(_PAUSES)
        pre, post = draw(_PAUSES), draw(_PAUSES)
        enqueued = whole + pre + draw(_PAUSES)
        encoded = end + post + draw(_PAUSES)
        members.append((clock, whole, enqueued, pre, post, encoded, encoded + draw(_PAUSES), draw(_TEXTS), None))
        fresh = new_places(1)[0]
        places.append(draw(st.sampled_from([fresh, Place(*fresh[:2], "0af7651916cd43dd", 'k="v"')])))
    entry = (Interface(name, draw(st.integers(1, 10**6)), VECTOR), len(members), free, start, end, members, error)
    return Sample(entry, members, places)


@given(st.lists(samples(), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_lines_in_bulk_say_what_the_spans_do(several):
    with pytest.MonkeyPatch.context() as patch:
        for module in (written, told):
            patch.setattr(module, "unix_offset_s", lambda: 1.795e9)
        found = [msgspec.json.decode(line, type=Span) for line in written.lines(several).splitlines()]
        wanted = [span for sample in several for group in spans(sample) for span in group]
    assert len({span.span_id for span in found}) == len(found)
    for mine, span in zip(found, wanted, strict=True):
        if span.name not in written.STAGES:
            assert mine.span_id == span.span_id
        span.span_id = mine.span_id  # a stage's is random
        assert mine == span
    for line in written.lines(several).splitlines():
        assert msgspec.json.encode(msgspec.json.decode(line, type=Span)) == line


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1))
def test_digits_are_those_of_the_numbers(numbers):
    shown = written.digits(np.array(numbers, np.int64))
    assert [bytes(row).decode() for row in shown] == [f"{number:019d}" for number in numbers]


def test_stages_follow_one_another_without_a_gap():
    member = (1.0, 1.1, 1.3, 0.1, 0.05, 2.2, 2.3, "", None)
    entry = (Interface("m", 1, VECTOR), 1, 1.4, 1.5, 2.0, [member], "")
    found = [
        msgspec.json.decode(line, type=Span)
        for line in written.lines([Sample(entry, [member], new_places(1))]).splitlines()
    ]
    assert [span.name for span in found] == ["infer m", *written.STAGES]
    assert {span.parent_span_id for span in found[1:]} == {found[0].span_id}
    assert (found[1].start_unix_ns, found[-1].end_unix_ns) == (found[0].start_unix_ns, found[0].end_unix_ns)
    assert all(a.end_unix_ns == b.start_unix_ns for a, b in itertools.pairwise(found[1:]))
