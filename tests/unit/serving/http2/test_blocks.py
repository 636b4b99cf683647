"""Header blocks are decoded as the hpack library decodes them, whatever the block."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder, HPACKError
from hypothesis import given
from hypothesis import strategies as st

from modelyard.serving.grpc.http2.blocks import CountingTable, decode
from modelyard.serving.grpc.http2.frames import Violation
from modelyard.serving.grpc.http2.heads import SharedHeads, read_head
from modelyard.serving.grpc.ports import Method, by_path
from tests.unit.serving.http2.wire import headers

NAMES = [b":path", b":method", b"content-type", b"x", b"x-" + b"y" * 130, b"cookie", b""]
fields = st.lists(
    st.tuples(
        st.sampled_from(NAMES), st.one_of(st.sampled_from([b"POST", b"/", b"v" * 4100]), st.binary(max_size=200))
    ),
    max_size=8,
)


@st.composite
def blocks(draw):
    """Blocks of one connection's encoder, with table sizes that change; some twisted, cut, or of any bytes."""
    encoder, made = Encoder(), []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.integers(0, 4)) == 0:
            encoder.header_table_size = draw(st.sampled_from([0, 40, 200, 4096]))
        given = [(n, v, draw(st.booleans())) for n, v in draw(fields)]
        block = bytes(encoder.encode(given, huffman=draw(st.booleans())))
        match draw(st.sampled_from(["", "", "", "twist", "cut", "any"])):
            case "twist" if block:
                at = draw(st.integers(0, len(block) - 1))
                block = block[:at] + bytes((draw(st.integers(0, 255)),)) + block[at + 1 :]
            case "cut":
                block = block[: draw(st.integers(0, len(block)))]
            case "any":
                block = draw(st.binary(max_size=30))
        made.append(block)
    return made


@given(blocks())
def test_any_blocks_decode_as_by_the_library(sent):
    theirs, ours = Decoder(65536), CountingTable()
    for block in sent:
        try:
            want = [(bytes(n), bytes(v)) for n, v in theirs.decode(block, raw=True)]
        except (HPACKError, IndexError):
            with pytest.raises(Violation):
                decode(block, ours)
            return  # the connection ends
        before = ours.state
        got, size = decode(block, ours)
        assert got == want
        assert size == sum(len(n) + len(v) + 32 for n, v in want)
        table = theirs.header_table
        assert [(bytes(n), bytes(v)) for n, v in table.dynamic_entries] == list(ours.dynamic_entries)
        assert table.maxsize == ours.maxsize
        if ours.state == before:
            assert decode(block, ours)[0] == want, "the same bytes mean the same while the table is unchanged"


METHODS = by_path(Method("/t.S/Infer", unary=lambda message, call: None))
parts = st.lists(
    st.sampled_from(
        [
            ("grpc-timeout", "5S"), ("grpc-timeout", "bad"), ("traceparent", "00-a-b-01"), ("tracestate", "a=b"),
            ("traceparent", "x\r\n"), ("x", "1"), ("a-bin", "AA"), (":path", "/late"), ("connection", "x"),
        ]
    ),
    max_size=5,
)  # fmt: skip


def encoded(pairs):
    return [(n.encode(), v.encode()) for n, v in pairs]


@given(parts, parts)
def test_a_calls_own_fields_are_read_wherever_they_stand(first, then):
    """With every head known but for its own fields, and against what each field alone says."""
    shared = SharedHeads(METHODS)
    given = encoded([*first, *headers(), *then])
    for _ in range(2):
        head = shared.of(given, 500)
        own = [f for f in [*first, *then] if f[0] in ("grpc-timeout", "traceparent", "tracestate")]
        rest = read_head([f for f in given if (f[0].decode(), f[1].decode()) not in own], METHODS)
        if rest.malformed or first or ("traceparent", "x\r\n") in own:
            assert head.malformed
            continue
        assert bool(head.answer) == bool(rest.answer or ("grpc-timeout", "bad") in own)
        if not head.answer:
            assert head.method is METHODS["/t.S/Infer"]
            assert head.timeout_s == (5.0 if ("grpc-timeout", "5S") in own else None)
            assert head.traceparent == (b"00-a-b-01" if ("traceparent", "00-a-b-01") in own else b"")
            named = {n: v for n, v in then if n in ("x", "traceparent", "tracestate")}
            assert head.metadata == named
            assert head.binary == ({"a-bin": b"\0"} if ("a-bin", "AA") in then else {})


def test_heads_shared_by_all_connections_do_not_pile_up():
    shared = SharedHeads(METHODS)
    for i in range(1000):
        shared.of(encoded(headers("/t.S/Infer", ("x", str(i)))), 300)
    assert len(shared._heads) <= 256
