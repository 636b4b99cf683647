"""W3C Trace Context, by the examples and rules of its specification."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.serving.observe.context import new_places, new_span_id, new_span_ids, parse

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_the_specifications_example_is_read():
    context = parse(f"00-{TRACE}-{PARENT}-01".encode(), b"congo=t61rcWkgMzE")
    assert context is not None
    assert (context.trace_id, context.parent_id, context.sampled) == (TRACE, PARENT, True)
    assert context.state == "congo=t61rcWkgMzE"


def test_the_answer_names_the_same_trace_and_our_span():
    context = parse(f"00-{TRACE}-{PARENT}-00".encode())
    assert context is not None
    assert context.header == f"00-{TRACE}-{context.span_id}-00"
    assert context.span_id not in (PARENT, "0" * 16)


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("ff", True)])
def test_only_the_lowest_flag_means_sampled(flags, sampled):
    context = parse(f"00-{TRACE}-{PARENT}-{flags}".encode())
    assert context is not None
    assert context.sampled is sampled


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"0x-{TRACE}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00_{TRACE}_{PARENT}_01",
    ],
)
def test_a_malformed_traceparent_is_ignored(value):
    assert parse(value.encode()) is None


def test_a_later_version_is_read_as_far_as_it_is_known():
    context = parse(f"01-{TRACE}-{PARENT}-01-what-comes".encode())
    assert context is not None
    assert context.trace_id == TRACE


def test_a_tracestate_that_is_too_long_or_no_text_is_dropped():
    for state in (b"a=" + b"x" * 600, "ü=1".encode()):
        context = parse(f"00-{TRACE}-{PARENT}-01".encode(), state)
        assert context is not None
        assert context.state == ""


@given(st.binary(max_size=80), st.binary(max_size=40))
def test_no_bytes_are_an_error(value, state):
    context = parse(value, state)
    assert context is None or len(context.header) == 55


def test_new_ids_are_well_formed_and_differ():
    places = new_places(100)
    traces, spans = {p[0] for p in places}, {p[1] for p in places}
    many = new_span_ids(100).decode()
    spans |= {new_span_id() for _ in range(100)} | {many[at : at + 16] for at in range(0, len(many), 16)}
    assert (len(traces), len(spans)) == (100, 300)
    assert {len(t) for t in traces} == {32}
    assert {len(s) for s in spans} == {16}


def test_an_id_of_zeros_is_made_anew(monkeypatch):
    given = iter(["ab" * 8 + "0" * 16, "cd" * 16, "ab" * 16 + "0" * 16, "0" * 32 + "ab" * 8, "ef" * 24])
    monkeypatch.setattr("secrets.token_hex", lambda size: next(given))
    assert new_span_ids(2) == b"cd" * 16
    assert new_places(1) == [("ef" * 16, "ef" * 8, "", "")]


def test_a_call_of_several_requests_has_a_span_for_each():
    context = parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"a=b")
    assert context is not None
    other = context.another()
    assert other.span_id != context.span_id
    assert (other.trace_id, other.parent_id, other.sampled, other.state) == (
        context.trace_id, context.parent_id, context.sampled, context.state
    )  # fmt: skip
