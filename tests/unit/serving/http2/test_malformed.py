"""The malformed-frame corpus: every mistake has the answer that RFC 9113 asks for, and fuzz breaks nothing."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.serving.grpc.http2 import frames, limits
from modelyard.serving.grpc.http2.frames import Code, frame
from tests.unit.serving.http2.wire import Client, Transport, data, grpc_message, headers

P = frames.PREFACE
S = frames.settings({})


def on(run, **options):
    """Run a function of a client inside an event loop."""

    async def whole():
        client = Client(**options)
        try:
            return run(client)
        finally:
            client.close()

    return asyncio.run(whole())


def block(n: int = 1) -> bytes:
    return b"\x82" * n  # :method GET, n times


FATAL = {
    "http1": (b"GET / HTTP/1.1\r\n\r\n", Code.PROTOCOL_ERROR),
    "preface cut by other bytes": (P[:10] + b"?", Code.PROTOCOL_ERROR),
    "no settings first": (P + frames.ping(b"12345678", ack=False), Code.PROTOCOL_ERROR),
    "frame too large": (P + S + frame(0xEE, 0, 0, bytes(limits.MAX_FRAME_BYTES + 1)), Code.FRAME_SIZE_ERROR),
    "settings on a stream": (P + S + frame(frames.SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
    "settings of 5 bytes": (P + S + frame(frames.SETTINGS, 0, 0, b"12345"), Code.FRAME_SIZE_ERROR),
    "settings ack with content": (P + S + frame(frames.SETTINGS, frames.ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
    "push enabled as 2": (P + frames.settings({frames.ENABLE_PUSH: 2}), Code.PROTOCOL_ERROR),
    "window of 2^31": (P + frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}), Code.FLOW_CONTROL_ERROR),
    "max frame below 16384": (P + frames.settings({frames.MAX_FRAME_SIZE: 16383}), Code.PROTOCOL_ERROR),
    "max frame above 2^24-1": (P + frames.settings({frames.MAX_FRAME_SIZE: 2**24}), Code.PROTOCOL_ERROR),
    "ping on a stream": (P + S + frame(frames.PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "ping of 7 bytes": (P + S + frame(frames.PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "goaway on a stream": (P + S + frame(frames.GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "goaway of 7 bytes": (P + S + frame(frames.GOAWAY, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "push promise": (P + S + frame(frames.PUSH_PROMISE, 4, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "priority on stream 0": (P + S + frame(frames.PRIORITY, 0, 0, bytes(5)), Code.PROTOCOL_ERROR),
    "priority of 4 bytes": (P + S + frame(frames.PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
    "window update of 3 bytes": (P + S + frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)), Code.FRAME_SIZE_ERROR),
    "window update of 0": (P + S + frames.window_update(0, 0), Code.PROTOCOL_ERROR),
    "window overflow": (P + S + frames.window_update(0, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
    "window update on an idle stream": (P + S + frames.window_update(1, 1), Code.PROTOCOL_ERROR),
    "reset of an idle stream": (P + S + frames.rst_stream(1, Code.CANCEL), Code.PROTOCOL_ERROR),
    "reset of stream 0": (P + S + frames.rst_stream(0, Code.CANCEL), Code.PROTOCOL_ERROR),
    "reset of 3 bytes": (P + S + frame(frames.RST_STREAM, 0, 1, bytes(3)), Code.FRAME_SIZE_ERROR),
    "data on stream 0": (P + S + data(0, b""), Code.PROTOCOL_ERROR),
    "data on an idle stream": (P + S + data(1, b"x"), Code.PROTOCOL_ERROR),
    "headers on stream 0": (P + S + frame(frames.HEADERS, 5, 0, block()), Code.PROTOCOL_ERROR),
    "headers on an even stream": (P + S + frame(frames.HEADERS, 5, 2, block()), Code.PROTOCOL_ERROR),
    "headers padded beyond the frame": (P + S + frame(frames.HEADERS, 5 | 8, 1, b"\x05abc"), Code.PROTOCOL_ERROR),
    "headers with padding but no length": (P + S + frame(frames.HEADERS, 5 | 8, 1), Code.PROTOCOL_ERROR),
    "headers too short for priority": (P + S + frame(frames.HEADERS, 5 | 32, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
    "continuation alone": (P + S + frame(frames.CONTINUATION, 4, 1, block()), Code.PROTOCOL_ERROR),
    "header block interrupted": (
        P + S + frame(frames.HEADERS, 0, 1, block()) + frames.ping(bytes(8), ack=False), Code.PROTOCOL_ERROR,
    ),
    "continuation of another stream": (
        P + S + frame(frames.HEADERS, 0, 1, block()) + frame(frames.CONTINUATION, 4, 3, block()), Code.PROTOCOL_ERROR,
    ),
    "continuation flood": (
        P + S + frame(frames.HEADERS, 0, 1, b"") + frame(frames.CONTINUATION, 0, 1, b"") * 20, Code.ENHANCE_YOUR_CALM,
    ),
    "huge header block": (
        P + S + frame(frames.HEADERS, 0, 1, b"") + frame(frames.CONTINUATION, 0, 1, bytes(60_000)) * 2,
        Code.ENHANCE_YOUR_CALM,
    ),
    "hpack index 0": (P + S + frame(frames.HEADERS, 5, 1, b"\x80"), Code.COMPRESSION_ERROR),
    "hpack index beyond the table": (P + S + frame(frames.HEADERS, 5, 1, b"\xff\x20"), Code.COMPRESSION_ERROR),
    "hpack truncated string": (P + S + frame(frames.HEADERS, 5, 1, b"\x00\x05ab"), Code.COMPRESSION_ERROR),
    "hpack truncated integer": (P + S + frame(frames.HEADERS, 5, 1, b"\xff"), Code.COMPRESSION_ERROR),
    "hpack endless integer": (P + S + frame(frames.HEADERS, 5, 1, b"\xff" + b"\xff" * 30), Code.COMPRESSION_ERROR),
    "hpack bad huffman": (P + S + frame(frames.HEADERS, 5, 1, b"\x00\x84\xff\xff\xff\xff\x00"), Code.COMPRESSION_ERROR),
    "hpack table beyond the setting": (P + S + frame(frames.HEADERS, 5, 1, b"\x3f\xe2\x1f"), Code.COMPRESSION_ERROR),
    "hpack bomb": (
        P + S + frame(frames.HEADERS, 5, 1, b"\x40\x01a\x7f\xa1\x1e" + bytes(4000) + b"\xbe" * 10_000),
        Code.ENHANCE_YOUR_CALM,
    ),
    "ping flood": (P + S + frames.ping(bytes(8), ack=False) * 1100, Code.ENHANCE_YOUR_CALM),
    "settings flood": (P + S * 1100, Code.ENHANCE_YOUR_CALM),
    "priority flood": (P + S + frame(frames.PRIORITY, 0, 1, bytes(5)) * 1100, Code.ENHANCE_YOUR_CALM),
    "unknown frame flood": (P + S + frame(0xBE, 0, 0) * 1100, Code.ENHANCE_YOUR_CALM),
}  # fmt: skip


@pytest.mark.parametrize("name", FATAL)
@pytest.mark.parametrize("step", [None, 1000, 7], ids=["whole", "in parts", "in crumbs"])
def test_a_connection_error_is_answered_by_its_goaway(name, step):
    sent, code = FATAL[name]
    if step == 7 and len(sent) > 20_000:
        step = 4096

    def run(client):
        for at in range(0, len(sent), step or len(sent)):
            client.send(sent[at : at + (step or len(sent))])
        assert client.goaway() == code
        assert client.transport.ended, "the client is told that nothing more comes"
        client.send(b"more")  # and what it still sends is dropped
        assert not client.frames()

    on(run, start=False)


BAD_HEADS = {
    "no path": [h for h in headers() if h[0] != ":path"],
    "no method": [h for h in headers() if h[0] != ":method"],
    "no scheme": [h for h in headers() if h[0] != ":scheme"],
    "empty path": headers(""),
    "two paths": [(":path", "/t.S/Infer"), *headers()],
    "a response's field": [(":status", "200"), *headers()],
    "pseudo after regular": [*headers(), (":authority", "b")],
    "upper case": headers("/t.S/Infer", ("X-Big", "1")),
    "space in a name": headers("/t.S/Infer", ("a b", "1")),
    "empty name": headers("/t.S/Infer", ("", "1")),
    "connection": headers("/t.S/Infer", ("connection", "close")),
    "transfer-encoding": headers("/t.S/Infer", ("transfer-encoding", "chunked")),
    "te": [*[h for h in headers() if h[0] != "te"], ("te", "gzip")],
    "newline in a value": headers("/t.S/Infer", ("a", "b\r\nc: d")),
    "content-length": headers("/t.S/Infer", ("content-length", "x")),
}


@pytest.mark.parametrize("name", BAD_HEADS)
def test_a_malformed_request_head_resets_its_stream_only(name):
    def run(client):
        client.send(client.head(1, BAD_HEADS[name]) + data(1, grpc_message(b"x"), end=True) + client.request(3))
        assert client.resets() == {1: Code.PROTOCOL_ERROR}
        assert len(client.executor.works) == 1, "the next call is served"

    on(run)


STREAM_ERRORS = {
    "data after the end": (lambda c: c.request(1) + data(1, b"more"), Code.STREAM_CLOSED),
    "headers after the end": (lambda c: c.request(1) + c.head(1, [("a", "b")], 1), Code.STREAM_CLOSED),
    "trailers without end": (lambda c: c.head(1) + c.head(1, [("a", "b")]), Code.PROTOCOL_ERROR),
    "a second head": (lambda c: c.head(1) + c.head(1, flags=1), Code.PROTOCOL_ERROR),
    "window update of 0": (lambda c: c.head(1) + frames.window_update(1, 0), Code.PROTOCOL_ERROR),
    "window overflow": (lambda c: c.head(1) + frames.window_update(1, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
    "content-length too long": (
        lambda c: c.request(1, "/t.S/Infer", b"x", ("content-length", "99")), Code.PROTOCOL_ERROR,
    ),
    "content-length too short": (
        lambda c: (
            c.head(1, headers("/t.S/Infer", ("content-length", "3"))) + data(1, b"\0\0\0") + data(1, b"\0\1x", end=True)
        ),
        Code.PROTOCOL_ERROR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAM_ERRORS)
def test_a_stream_error_resets_its_stream_only(name):
    def run(client):
        make, code = STREAM_ERRORS[name]
        client.send(make(client))
        assert client.resets() == {1: code}
        client.send(client.request(5))
        assert client.executor.works[-1].rows == 1
        assert list(client.connection.streams) == [5]

    on(run)


def test_padding_beyond_the_frame_ends_the_connection():
    def run(client):
        client.send(client.head(1) + data(1, b"\x05abc", flags=frames.PADDED))
        assert client.goaway() == Code.PROTOCOL_ERROR

    on(run)


def test_padding_and_priority_are_taken_off():
    def run(client):
        block = b"\x03" + bytes(5) + client.block(headers()) + b"pad"
        flags = frames.END_HEADERS | frames.PADDED | frames.HAS_PRIORITY
        client.send(frame(frames.HEADERS, flags, 1, block))
        client.send(data(1, b"\x04" + grpc_message(b"hello") + b"\0\0\0\0", end=True, flags=frames.PADDED))
        assert client.executor.works[0].tensors[0].tobytes() == b"hello"

    on(run)


def test_a_head_in_continuations_of_any_size_is_whole():
    def run(client):
        block = client.block(headers("/t.S/Infer", ("a", "b" * 50)))
        third = len(block) // 3
        client.send(frame(frames.HEADERS, 0, 1, block[:third]))
        client.send(frame(frames.CONTINUATION, 0, 1, block[third:-1]) + frame(frames.CONTINUATION, 4, 1, block[-1:]))
        client.send(data(1, grpc_message(b"x"), end=True))
        assert len(client.executor.works) == 1

    on(run)


def test_empty_data_frames_are_limited():
    def run(client):
        client.send(client.head(1) + data(1, b"") * 1100)
        assert client.goaway() == Code.ENHANCE_YOUR_CALM

    on(run)


def test_rapid_reset_ends_the_connection_and_cancels_what_it_started():
    def run(client):
        number = 1
        while not client.connection.dead and number < 4000:
            client.send(client.request(number) + frames.rst_stream(number, Code.CANCEL))
            number += 2
        assert client.goaway() == Code.ENHANCE_YOUR_CALM
        assert number < 2 * 1010
        assert all(work.cancelled for work in client.executor.works)

    on(run)


def test_requests_pay_for_pings_but_not_for_resets():
    def run(client):
        for number in range(1, 4001, 2):
            client.send(client.request(number) + frames.ping(bytes(8), ack=False))
            client.executor.works.pop().reply([np.frombuffer(b"y", np.uint8)], 0, 1)
        assert not client.connection.dead

    on(run)


def test_more_streams_than_allowed_are_refused():
    def run(client):
        for i in range(limits.MAX_STREAMS + 2):
            client.send(client.head(2 * i + 1))
        refused = {2 * limits.MAX_STREAMS + 1: Code.REFUSED_STREAM, 2 * limits.MAX_STREAMS + 3: Code.REFUSED_STREAM}
        assert client.resets() == refused

    on(run)


def test_more_data_than_a_streams_window_resets_it():
    """The handler takes nothing, so one more window is given, and then nothing."""

    async def whole():
        client = Client()
        client.front.max_body_bytes = 2**26
        client.send(client.head(1, headers("/t.S/Deaf")))
        message = grpc_message(bytes(90_000))
        for _ in range(2 * limits.STREAM_WINDOW // len(message) + 2):
            client.send(data(1, message))
        assert client.resets() == {1: Code.FLOW_CONTROL_ERROR}
        client.close()

    asyncio.run(whole())


def test_a_connections_requests_under_way_are_bounded():
    def run(client):
        part = grpc_message(bytes(99_000))[:90_000]
        for number in (1, 3, 5):
            client.send(client.head(number) + data(number, part))
        assert client.status(5) == 8

    on(run)


# --- fuzz

tame = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255])
random_frame = st.builds(
    frame, tame, st.sampled_from([0, 1, 4, 5, 8, 9, 12, 13, 32, 36, 37, 255]),
    st.sampled_from([0, 1, 2, 3, 5, 2**31 - 1]),
    st.one_of(st.binary(max_size=40), st.just(b"\0\0\0\0"), st.just(bytes(8)), st.just(grpc_message(b"bad"))),
)  # fmt: skip


@st.composite
def conversations(draw):
    """Good and bad frames in any order, cut anywhere."""
    whole = P + S if draw(st.integers(0, 9)) else draw(st.binary(max_size=40))
    client_block = b"\x83\x86\x04%c/t.S/%b\x0f\x10\x10application/grpc"
    for _ in range(draw(st.integers(0, 12))):
        match draw(st.sampled_from(["frame", "frame", "call", "head", "bytes", "twisted"])):
            case "frame":
                whole += draw(random_frame)
            case "call":
                stream = draw(st.sampled_from([1, 3, 5, 7]))
                path = draw(st.sampled_from([b"Infer", b"Hang", b"Chat", b"Echo", b"Deaf", b"No", b"\0"]))
                content = draw(st.sampled_from([b"x", b"bad", b"broken", bytes(300)]))
                whole += frame(frames.HEADERS, 4, stream, client_block % (5 + len(path), path))
                whole += data(stream, grpc_message(content), end=draw(st.booleans()))
            case "head":
                whole += frame(
                    frames.HEADERS,
                    4 | draw(st.sampled_from([0, 1])),
                    draw(st.integers(0, 9)),
                    client_block % (10, b"Infer"),
                )
            case "bytes":
                whole += draw(st.binary(max_size=30))
            case "twisted" if whole:
                at = draw(st.integers(0, len(whole) - 1))
                whole = whole[:at] + bytes((draw(st.integers(0, 255)),)) + whole[at + 1 :]
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@settings(max_examples=300, deadline=None)
@given(conversations(), st.booleans())
def test_no_bytes_raise_or_leave_anything_behind(parts, broken_transport):
    async def whole():
        client = Client(start=False)
        problems = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        for i, part in enumerate(parts):
            if broken_transport and i == 2:
                client.transport.closed = True  # the next write raises, as uvloop's does
            client.send(part)
            for work in client.executor.works:
                work.reply([np.frombuffer(b"answer", np.uint8)], 0, 1)
            client.executor.works.clear()
            await client.settle()
        if not broken_transport:
            client.frames()  # only whole frames were sent
        client.connection.sweep(1e12)
        client.close()
        await client.settle()
        assert not client.connection.streams
        assert not client.front.connections
        assert not client.front._tasks
        assert not problems

    asyncio.run(whole())


def test_bytes_one_by_one_are_the_same_as_at_once():
    def run(client):
        sent = client.request(1) + client.request(3, "/t.S/Infer", bytes(3000)) + frames.ping(b"12345678", ack=False)
        for byte in sent:
            client.send(bytes((byte,)))
        assert [w.tensors[0].size for w in client.executor.works] == [1, 3000]
        assert frames.ping(b"12345678", ack=True) in bytes(client.transport.sent)

    on(run)


def test_the_server_greets_first():
    async def whole():
        client = Client(start=False)
        first, update = client.frames()
        assert first.kind == frames.SETTINGS
        assert dict(frames.read_settings(first.payload))[frames.MAX_CONCURRENT_STREAMS] == limits.MAX_STREAMS
        assert update.kind == frames.WINDOW_UPDATE
        assert isinstance(client.transport, Transport)
        client.close()

    asyncio.run(whole())
