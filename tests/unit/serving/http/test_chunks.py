"""The chunked-body decoder: any split gives the same payload, and nothing malformed passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.domain.errors import InvalidInput
from modelyard.serving.http.chunks import ChunkedBody


def encode(parts, trailer=b""):
    chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(p), p) for p in parts if p)
    return chunks + b"0\r\n" + trailer + b"\r\n"


@given(st.lists(st.binary(max_size=30), max_size=8), st.lists(st.integers(1, 9), min_size=1), st.booleans())
def test_any_split_of_any_chunking_gives_the_payload(parts, cuts, with_trailer):
    wire = encode(parts, b"a: b\r\n" if with_trailer else b"") + b"NEXT"
    decoder, buffer, at, i = ChunkedBody(), bytearray(), 0, 0
    while not decoder.done:
        assert at < len(wire)
        step = cuts[i % len(cuts)]
        buffer += wire[at : at + step]
        at += step
        i += 1
        del buffer[: decoder.feed(buffer, 0)]
    assert bytes(decoder.body) == b"".join(parts)
    assert bytes(buffer) + wire[at:] == b"NEXT"


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n", b"g\r\n", b"-1\r\n", b"+1\r\na\r\n", b"0x1\r\na\r\n", b" 1\r\na\r\n", b"1 \r\na\r\n", b"1\r\nab\r\n",
        b"1\r\na\nb", b"1\n a\r\n", b"ffffffffffffffffff\r\n", b"1;" + b"x" * 300, b"1;a\nb\r\na\r\n",
        b"0\r\n" + b"a: b\r\n" * 3000, b"0\r\n" + b"x" * 9000,
    ],
)  # fmt: skip
def test_malformed_chunks_are_refused(wire):
    with pytest.raises(InvalidInput):
        ChunkedBody().feed(wire, 0)


@given(st.binary(max_size=60))
def test_any_bytes_either_decode_or_are_refused(wire):
    decoder = ChunkedBody()
    try:
        used = decoder.feed(wire, 0)
    except InvalidInput:
        return
    assert 0 <= used <= len(wire)
    assert decoder.done or len(decoder.body) <= len(wire)
