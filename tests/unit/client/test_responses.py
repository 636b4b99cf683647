"""HTTP/1.1 responses however they arrive."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.client.responses import MAX_HEAD_BYTES, Response, ResponseReader
from modelyard.domain.errors import BackendFailed

LIMIT = 10_000


def read(*pieces: bytes, ended: bool = False, limit: int = LIMIT) -> tuple[Response | None, bool]:
    reader = ResponseReader(limit)
    for number, piece in enumerate(pieces):
        if reader.feed(piece):
            assert not b"".join(pieces[number + 1 :])
            break
    if ended:
        reader.end()
    return reader.response, reader.reusable


def pieces_of(whole: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({c % (len(whole) + 1) for c in cuts} | {0, len(whole)})
    return [whole[a:b] for a, b in itertools.pairwise(places)]


def sized(body: bytes, extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (extra, len(body), body)


def chunked(body: bytes, cuts: list[int], extra: bytes = b"", trailers: bytes = b"") -> bytes:
    chunks = b"".join(b"%x;x=1\r\n%b\r\n" % (len(p), p) for p in pieces_of(body, cuts) if p)
    return b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n%b0\r\n%b\r\n" % (extra, chunks, trailers)


CUTS = st.lists(st.integers(0, 2000), max_size=12)


@given(st.binary(max_size=200), CUTS, st.booleans())
def test_a_sized_response_arrives_in_any_pieces(body: bytes, cuts: list[int], interim: bool) -> None:
    whole = (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" if interim else b"") + sized(body)
    response, reusable = read(*pieces_of(whole, cuts))
    assert response is not None
    assert (response.head.status, bytes(response.body), reusable) == (200, body, True)


@given(st.binary(max_size=200), CUTS, CUTS, st.sampled_from([b"", b"Digest: x\r\nOther: y\r\n"]))
def test_a_chunked_response_arrives_in_any_pieces(
    body: bytes, chunks: list[int], cuts: list[int], trailers: bytes
) -> None:
    response, reusable = read(*pieces_of(chunked(body, chunks, trailers=trailers), cuts))
    assert response is not None
    assert (bytes(response.body), reusable) == (body, True)


@given(st.binary(max_size=200), CUTS, st.booleans(), st.booleans())
def test_a_compressed_response_is_decompressed(body: bytes, cuts: list[int], in_chunks: bool, deflate: bool) -> None:
    packed = zlib.compress(body) if deflate else gzip.compress(body)
    extra = b"Content-Encoding: deflate\r\n" if deflate else b"Content-Encoding: gzip\r\n"
    whole = chunked(packed, cuts, extra) if in_chunks else sized(packed, extra)
    response, _ = read(*pieces_of(whole, cuts))
    assert response is not None
    assert response.body == body


def test_without_a_length_the_end_of_the_connection_is_the_end() -> None:
    whole = b"HTTP/1.0 200 OK\r\n\r\nall of it"
    assert read(whole) == (None, False)
    response, reusable = read(whole, ended=True)
    assert response is not None
    assert (response.body, reusable) == (b"all of it", False)


@pytest.mark.parametrize(
    ("whole", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 200\r\ncontent-length:0\r\nCONTENT-LENGTH: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n", False),
        (chunked(b"", []) + b"x", False),
    ],
)
def test_a_connection_is_used_again_only_where_that_is_safe(whole: bytes, reusable: bool) -> None:
    response, got = read(whole)
    assert response is not None
    assert (response.body, got) == (b"", reusable)


BROKEN = [
    b"\x16\x03\x01\x02\x00",
    b"SSH-2.0-OpenSSH\r\n\r\n",
    b"HTTP/2 200\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nname : x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: two\r\nContent-Length: 2\r\n\r\nab",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD_BYTES,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2711\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 5000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * 70_000,
    b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (LIMIT + 1),
    sized(b"plain", b"Content-Encoding: gzip\r\n"),
    sized(gzip.compress(b"x", mtime=0)[:-9], b"Content-Encoding: gzip\r\n"),
    sized(gzip.compress(b"x" * (LIMIT + 1), mtime=0), b"Content-Encoding: gzip\r\n"),
    sized(b"x", b"Content-Encoding: br\r\n"),
]


@pytest.mark.parametrize("whole", BROKEN, ids=range(len(BROKEN)))
def test_what_is_no_response_is_told_at_once(whole: bytes) -> None:
    with pytest.raises(BackendFailed):
        read(whole)


@given(st.lists(st.binary(max_size=80), max_size=6), st.sampled_from([b"", *BROKEN[:22], chunked(b"ab", [1])[:60]]))
def test_junk_is_a_response_or_one_clear_error(junk: list[bytes], start: bytes) -> None:
    reader = ResponseReader(LIMIT)
    with contextlib.suppress(BackendFailed):  # and nothing else
        for piece in [start, *junk]:
            if reader.feed(piece):
                break
        reader.end()
