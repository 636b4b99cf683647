"""Request heads: strict framing, and lines of a call's own cut out without changing what the head means."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelyard.domain.errors import InvalidInput
from modelyard.serving.http.head import Heads, _parse
from modelyard.serving.http.percall import cut

START = b"POST /v2 HTTP/1.1\r\nHost: h\r\n"
PARENT = b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def head(*lines, start=START):
    return Heads().get(start + b"".join(line + b"\r\n" for line in lines) + b"\r\n")


SMUGGLING = [
    b"Content-Length: 3\r\nContent-Length: 3", b"Content-Length: 3\r\nContent-Length: 4", b"Content-Length: 3, 3",
    b"Content-Length: +3", b"Content-Length: -1", b"Content-Length: 0x3", b"Content-Length: 3 3", b"Content-Length:",
    b"Content-Length: 1_0", b"Content-Length: 99999999999999999999", b"Content-Length : 3", b" Content-Length: 3",
    b"Content-Length: 3\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 3",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunked;q=1",
    b"Transfer-Encoding: identity", b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding : chunked", b"Transfer-Encoding: 'chunked'", b"X: a\r\n Content-Length: 3",
    b"X: a\r\n\tTransfer-Encoding: chunked", b"X: a\nContent-Length: 3", b"X: a\rContent-Length: 3", b"X: a\x00b",
    b"X\x00: a", b"X y: a", b": a", b"nocolon", b"Host: other", b"X: a\x7f",
]  # fmt: skip


@pytest.mark.parametrize("lines", SMUGGLING)
@pytest.mark.parametrize("own", [(), (PARENT,), (b"X-Request-Id: 1", PARENT)])
def test_what_two_parsers_could_frame_differently_is_refused(lines, own):
    with pytest.raises(InvalidInput):
        head(*own, lines)
    with pytest.raises(InvalidInput):
        head(lines, *own)


@pytest.mark.parametrize(
    "start",
    [
        b"POST  /v2 HTTP/1.1\r\nHost: h\r\n", b"POST /v2  HTTP/1.1\r\nHost: h\r\n",
        b"POST /v2 HTTP/1.1 \r\nHost: h\r\n",
        b" POST /v2 HTTP/1.1\r\nHost: h\r\n", b"POST /v2\r\nHost: h\r\n", b"POST /v2 HTTP/1.2\r\nHost: h\r\n",
        b"POST /v2 HTTP/2.0\r\nHost: h\r\n", b"POST /v2 ICE/1.0\r\nHost: h\r\n", b"POST /v2 RTSP/1.0\r\nHost: h\r\n",
        b"post /v2 HTTP/1.1\r\nHost: h\r\n", b"NOSUCH /v2 HTTP/1.1\r\nHost: h\r\n",
        b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n",
        b"POST /v\xff2 HTTP/1.1\r\nHost: h\r\n", b"POST /v2 HTTP/1.1\nHost: h\r\n", b"POST v2 HTTP/1.1\r\nHost: h\r\n",
        b"PRI * HTTP/2.0\r\n", b"POST /v2 HTTP/1.1\r\n", b"POST /v2 HTTP/1.1\r\nHost: a b\r\n",
        b"POST /v2 HTTP/1.1\r\nHost: a/b\r\n", b"POST /v2 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
    ],
)  # fmt: skip
def test_malformed_request_lines_and_hosts_are_refused(start):
    with pytest.raises(InvalidInput):
        head(start=start)


@pytest.mark.parametrize(
    ("target", "segments"),
    [
        (b"/v2/models/a%2Fb", ("v2", "models", "a/b")),
        (b"http://h:8000/v2?x=1", ("v2",)),
        (b"//v2///models/", ("v2", "models")),
        (b"/v2?/x#y", ("v2",)),
        (b"/", ()),
        (b"*", ("*",)),
    ],
)
def test_targets(target, segments):
    assert head(start=b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n")[0].segments == segments


def test_lines_of_a_calls_own_share_one_known_head():
    heads = Heads()
    known = set()
    for i in range(5):
        lines = b"traceparent: 00-%032x-%016x-01\r\nX-Request-Id: r%d\r\nContent-Length: 3\r\n\r\n" % (i + 1, i + 1, i)
        found, own = heads.get(START + lines)
        known.add(id(found))
        assert own.trace.trace_id == f"{i + 1:032x}"
        assert b"X-Request-Id: r%d\r\n" % i in own.lines
        assert found.length == 3
    assert len(known) == 1
    assert list(heads.known) == [START + b"Content-Length: 3\r\n\r\n"]


@pytest.mark.parametrize("name", [b"traceparent", b"Traceparent", b"TRACEPARENT"])
def test_the_trace_of_the_caller_is_read_and_answered_with_a_span_of_our_own(name):
    _, own = head(name + PARENT[11:], b"tracestate: a=1", b"TraceState: b=2")
    assert (own.trace.trace_id, own.trace.parent_id) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert own.trace.sampled
    assert own.trace.state == "a=1,b=2"
    assert own.lines == b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-%b-01\r\n" % own.trace.span_id.encode()
    assert own.trace.span_id != own.trace.parent_id


def test_what_is_given_twice_or_unusable_counts_as_none():
    assert head(PARENT, PARENT)[1] == (None, b"")
    assert head(b"traceparent: nonsense", b"X-Request-Id: " + b"x" * 200)[1] == (None, b"")
    assert head(b"X-Request-Id: a", b"x-request-id: b")[1] == (None, b"")
    assert head(b"X-Request-Id:")[1] == (None, b"")


def test_a_request_id_cannot_split_the_answer():
    for evil in (b"a\r\nSet-Cookie: x", b"a\rb", b"a\nb", b"a\x00b", b"a\x85b"):
        try:
            _, own = head(b"X-Request-Id: " + evil)
        except InvalidInput:
            continue
        assert own is None or own.lines.count(b"\r\n") == 1
        assert own is None or evil not in own.lines


FRAGMENTS = [
    b"traceparent: x", PARENT, b"Tracestate: a=b", b"x-request-id: 7", b"X-Request-Id:", b" x-request-id: 7",
    b"x-request-id : 7", b"\tfolded", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"X: traceparent: y", b"X:",
    b"Host: i", b"Connection: close", b"traceparent: a\nContent-Length: 9", b"traceparent: a\rX: b", b"tracestate", b"",
    b"x-request-id: \xff", b"Expect: 100-continue", b"traceparent:\x00",
]  # fmt: skip


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=6), st.sampled_from([b"\r\n", b"\r\n", b"\n", b"\r"]))
@example([PARENT, b" folded"], b"\r\n")
def test_the_cut_never_changes_how_a_head_is_framed(lines, odd_end):
    whole = START + b"\r\n".join(lines[:-1]) + (odd_end + lines[-1] if lines else b"") + b"\r\n\r\n"
    whole = whole[: whole.index(b"\r\n\r\n") + 4]

    def outcome(raw):
        try:
            return _parse(raw)
        except InvalidInput:
            return None

    assert outcome(cut(whole)[0]) == outcome(whole)


def test_numbers_by_header():
    found, _ = head(b"X-Request-Timeout-Ms: 250", b"x-envoy-expected-rq-timeout-ms: 100", b"X-Request-Priority: 2")
    assert (found.timeout_s, found.priority, found.problem) == (0.1, 2, None)
    assert head(b"X-Request-Timeout-Ms: 0")[0].timeout_s is None
    for bad in (
        b"X-Request-Timeout-Ms: 1.5",
        b"X-Request-Priority: -1",
        b"X-Request-Priority: 1\r\nX-Request-Priority: 2",
    ):
        status, text = head(bad)[0].problem
        assert status == 400
        assert text.startswith(bad.partition(b":")[0].decode())


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (b"gzip", "gzip"), (b"deflate, gzip", "gzip"), (b"deflate", "deflate"), (b"br", ""), (b"*", "gzip"),
        (b"gzip;q=0", ""), (b"gzip;q=0.0, deflate", "deflate"), (b"gzip;q=0, *", "deflate"), (b"GZIP ; q=0.5", "gzip"),
        (b"identity", ""), (b"*;q=0", ""), (b"", ""),
    ],
)  # fmt: skip
def test_the_coding_of_the_answer_is_one_that_the_client_accepts(header, coding):
    assert head(b"Accept-Encoding: " + header)[0].accepts == coding


def test_known_heads_are_bounded():
    heads = Heads()
    for i in range(3000):
        heads.get(START + b"X: %d\r\n\r\n" % i)
    assert len(heads.known) <= 1024
    heads.get(START + b"X: " + b"y" * 4000 + b"\r\n\r\n")
    assert all(len(raw) <= 2048 for raw in heads.known)


@pytest.mark.parametrize("name", ["X-Request-Timeout-Ms", "X-Request-Priority", "Inference-Header-Content-Length"])
def test_a_number_with_too_many_digits_is_told_how_many_it_may_have(name):
    found, _ = head(f"{name}: {'9' * 12}".encode())
    assert found.problem is None
    found, _ = head(f"{name}: {'9' * 26}".encode())
    assert found.problem == (400, f"{name} must be a non-negative integer of at most 12 digits")
