"""Compressed bodies: every split of formats decodes, bombs cost little, answers are compressed where it pays."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.domain.errors import InvalidInput
from modelyard.serving.faults import TooLarge
from modelyard.serving.http.compression import INLINE_BYTES, Inflation, compress, pays
from modelyard.serving.http.limits import Limits
from modelyard.serving.http.router import response
from tests.unit.serving.http.wire import get, post, run

MIB = 1024 * 1024
LIMITS = Limits()


def raw_deflate(data):
    stream = zlib.compressobj(6, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush()


def inflate(coding, body, limits=LIMITS):
    inflation = Inflation(coding, body, limits)
    plain = inflation.start()
    return inflation.finish() if plain is None else plain


@given(st.binary(max_size=3000), st.integers(1, 200))
def test_whatever_was_compressed_comes_back(data, times):
    data *= times
    for coding, packed in (
        ("gzip", gzip.compress(data)),
        ("deflate", zlib.compress(data)),
        ("deflate", raw_deflate(data)),
    ):
        assert inflate(coding, packed) == data


@given(st.binary(max_size=200))
def test_any_bytes_unfold_or_are_refused(body):
    for coding in ("gzip", "deflate"):
        try:
            inflate(coding, body)
        except InvalidInput:
            continue


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-5], lambda b: b + b"x", lambda b: b * 2, lambda b: b[:9], lambda b: b""]
)
def test_truncated_and_continued_streams_are_refused(spoil):
    with pytest.raises(InvalidInput):
        inflate("gzip", spoil(gzip.compress(b"a" * 1000)))


def bomb(size):
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(stream.compress(bytes(MIB)) for _ in range(size // MIB)) + stream.flush()


def test_a_bomb_is_refused_after_the_free_part():
    inflation = Inflation("gzip", bomb(128 * MIB), LIMITS)
    assert inflation.start() is None
    with pytest.raises(TooLarge, match="256 times"):
        inflation.finish()
    assert len(inflation._done) <= LIMITS.free_inflation_bytes + MIB


def test_a_body_that_unfolds_above_the_limit_is_refused_whatever_its_ratio():
    body = gzip.compress(bytes(range(256)) * 8000, 0)
    with pytest.raises(TooLarge, match="1000000 bytes"):
        inflate("gzip", body, Limits(max_body_bytes=1_000_000))


def test_zeros_within_the_limits_are_taken():
    assert inflate("gzip", gzip.compress(bytes(6 * MIB))) == bytes(6 * MIB)


@pytest.mark.parametrize("size", [10, INLINE_BYTES, INLINE_BYTES + 1, 3 * MIB])
@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate"])
def test_compressed_requests_are_answered_in_order(size, coding):
    data = b"7" * size
    packed = zlib.compress(data) if coding == "deflate" else gzip.compress(data)

    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(post(packed, extra=f"Content-Encoding: {coding}\r\n") + post(b"next"))
        await bench.settle()
        assert [len(body) for _, _, body in transport.answers] == [size, 4]

    run(scenario)


def test_a_bomb_over_http_is_413_and_the_connection_goes_on():
    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(post(bomb(32 * MIB), extra="Content-Encoding: gzip\r\n") + post(b"next"))
        await bench.settle()
        assert transport.statuses == [413, 200]
        assert "256 times" in json.loads(transport.answers[0][2])["error"]

    run(scenario)


TEXT = json.dumps({"data": list(range(20_000))}).encode()


@pytest.mark.parametrize(("coding", "bits"), [("gzip", 31), ("deflate", 15)])
def test_large_text_is_compressed(coding, bits):
    reply = response(200, TEXT)
    assert pays(reply, coding)
    packed = compress(reply, coding)
    lines, _, body = packed.rest.partition(b"\r\n\r\n")
    assert zlib.decompress(body, bits) == TEXT
    assert lines.count(b"Content-Length") == 1
    assert b"Content-Encoding: " + coding.encode() in lines
    assert b"Vary: Accept-Encoding" in lines
    assert not pays(packed, coding)


def test_small_and_binary_answers_and_those_for_other_clients_stay_plain():
    assert not pays(response(200, TEXT[:1000]), "gzip")
    assert not pays(response(200, TEXT, "application/octet-stream"), "gzip")
    assert not pays(response(200, TEXT), "")


def test_answers_are_compressed_on_the_wire_where_asked_for_and_keep_their_order():
    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(get("/size/50000", "Accept-Encoding: gzip\r\n") + get("/size/50000") + get("/echo"))
        await bench.settle()
        first, second, third = transport.answers
        assert gzip.decompress(first[2]) == b"x" * 50000
        assert second[2] == b"x" * 50000
        assert "content-encoding" not in second[1]
        assert third[0] == 200

    run(scenario)


def test_head_tells_the_plain_length():
    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(get("/size/50000", "Accept-Encoding: gzip\r\n").replace(b"GET", b"HEAD"))
        await bench.settle()
        assert b"Content-Length: 50000" in transport.sent

    run(scenario)
