"""Calls over HTTP/2 by hand: what is answered, when, in which frames, and what is given up."""

from __future__ import annotations

import asyncio
import gc
import gzip
import threading
import weakref
import zlib
from time import perf_counter

import numpy as np
import pytest
from hpack import Encoder

from modelyard.domain.errors import BackendFailed, InvalidInput, Unavailable
from modelyard.serving.grpc.http2 import frames, limits
from modelyard.serving.grpc.http2.answers import Status, trailers
from modelyard.serving.grpc.http2.frames import Code
from modelyard.serving.grpc.ports import LARGE_BYTES, LARGE_ELEMENTS
from tests.unit.serving.http2.wire import MAX_BODY, Client, Transport, data, grpc_message, headers

BEGUN = {":status": "200", "content-type": "application/grpc"}


def on(run, **options):
    """Run a coroutine function of a client."""

    async def whole():
        client = Client(**options)
        try:
            await run(client)
        finally:
            client.close()

    asyncio.run(whole())


def test_an_inference_is_answered_by_headers_one_message_and_trailers():
    async def run(client):
        client.send(client.request(1, content=b"hello"))
        (work,) = client.executor.works
        assert work.tensors[0].tobytes() == b"hello"
        assert client.frames() == []
        work.reply([np.frombuffer(b"answer", np.uint8)], 0, 1)
        got = client.frames()
        assert [(f.kind, f.flags) for f in got] == [(frames.HEADERS, 4), (frames.DATA, 0), (frames.HEADERS, 5)]
        content, fields = client.answer(1, got)
        assert content == grpc_message(b"answer")
        assert fields == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}
        assert client.connection.streams == {}

    on(run)


@pytest.mark.parametrize("table", [None, 0, 100])
def test_header_fields_are_the_same_for_every_answer_whatever_the_peers_table(table):
    async def run(client):
        for number in (1, 3, 5, 7):
            client.send(client.request(number))
            client.executor.works.pop().reply([np.frombuffer(b"y", np.uint8)], 0, 1)
            got = client.frames()
            assert client.answer(number, got)[1] == {
                ":status": "200", "content-type": "application/grpc", "grpc-status": "0",
            }  # fmt: skip
            if table is not None:
                assert len(got[0].payload) > 10, "fields are spelled out"
            elif number > 1:
                assert len(got[0].payload) == 2, "fields are in the peer's table"

    settings = None if table is None else {frames.HEADER_TABLE_SIZE: table}
    on(run, settings=settings)


def test_answers_come_in_the_order_of_the_work_not_of_the_requests():
    async def run(client):
        client.send(client.request(1) + client.request(3))
        first, second = client.executor.works
        second.reply([np.frombuffer(b"2", np.uint8)], 0, 1)
        assert client.answer(3)[0] == grpc_message(b"2")
        first.reply([np.frombuffer(b"1", np.uint8)], 0, 1)
        assert client.answer(1)[0] == grpc_message(b"1")

    on(run)


def test_an_error_is_one_header_block_with_text_and_retry_after():
    async def run(client):
        client.send(client.request(1))
        client.executor.works[0].fail(Unavailable("zu viel: 100 %\n", why="später", retry_after_s=1.2))
        got = client.frames()
        assert [(f.kind, f.flags) for f in got] == [(frames.HEADERS, 5)]
        fields = client.answer(1, got)[1]
        assert fields["grpc-status"] == str(Status.RESOURCE_EXHAUSTED.value)
        assert fields["grpc-message"] == "zu viel: 100 %25%0A: sp%C3%A4ter"
        assert fields["retry-after"] == "2"

    on(run)


def test_a_long_error_text_is_cut_between_characters():
    block = trailers(Status.INTERNAL, "ä" * 5000)
    assert len(block) < 2200
    assert block.endswith(b"...")
    assert not block.removesuffix(b"...")[-1:].isspace()
    assert block.removesuffix(b"...")[-3:-2] == b"%"


@pytest.mark.parametrize(
    ("content", "status", "counted"),
    [(b"bad", Status.INVALID_ARGUMENT, 1), (b"broken", Status.INTERNAL, 0)],
)
def test_a_request_that_cannot_be_decoded_is_answered(content, status, counted):
    async def run(client):
        client.send(client.request(1, content=content))
        assert client.status(1) == status
        assert client.plane.bad_requests == counted

    on(run)


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        (headers("/t.S/Nothing"), {"grpc-status": "12"}),
        (headers(method="GET"), {":status": "405"}),
        ([*headers()[:-1], ("content-type", "text/plain")], {":status": "415"}),
        (headers()[:-1], {":status": "415"}),
        (headers("/t.S/Infer", ("grpc-encoding", "zstd")), {"grpc-status": "12"}),
        (headers("/t.S/Infer", ("grpc-timeout", "1x")), {"grpc-status": "13"}),
        (headers("/t.S/Infer", ("a-bin", "!")), {"grpc-status": "13"}),
        (headers("/t.S/Infer", ("a", "b" * 20_000)), {"grpc-status": "8"}),
    ],
)
def test_what_a_head_rules_out_is_answered_before_any_message(fields, want):
    async def run(client):
        client.send(client.head(1, fields))
        got = client.frames()
        assert want.items() <= client.answer(1, got[:1])[1].items()
        assert got[0].flags & frames.END_STREAM
        assert got[1] == (frames.RST_STREAM, 0, 1, bytes(4)), "the client need not send the rest"
        client.send(data(1, b"rest", end=True))  # was under way
        assert client.frames() == []

    on(run)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\0\0\0", grpc_message(b"a") + grpc_message(b"b"), grpc_message(b"abc")[:-1], grpc_message(b"a", 7)],
)
@pytest.mark.parametrize("cut", [None, 2])
def test_a_unary_request_is_exactly_one_message(payload, cut):
    async def run(client):
        parts = [data(1, payload, end=True)]
        if cut:
            parts = [data(1, payload[:cut]), data(1, payload[cut:]), data(1, b"", end=True)]
        client.send(client.head(1) + b"".join(parts))
        assert client.status(1) == Status.INTERNAL
        assert client.executor.works == []

    on(run)


def test_a_call_without_data_has_no_message():
    async def run(client):
        client.send(client.head(1, flags=frames.END_STREAM))
        assert client.status(1) == Status.INTERNAL

    on(run)


def test_a_request_may_end_by_trailers():
    async def run(client):
        client.send(client.head(1) + data(1, grpc_message(b"x")) + client.head(1, [("a", "b")], frames.END_STREAM))
        assert len(client.executor.works) == 1

    on(run)


@pytest.mark.parametrize("whole", [True, False])
def test_a_message_beyond_the_limit_is_refused_by_its_prefix(whole):
    async def run(client):
        start = grpc_message(bytes(MAX_BODY + 1))
        client.send(client.head(1) + data(1, start if whole else start[:6], end=whole))
        fields = client.answer(1)[1]
        assert fields["grpc-status"] == str(Status.RESOURCE_EXHAUSTED.value)
        assert str(MAX_BODY) in fields["grpc-message"]

    on(run)


def test_windows_are_given_back_while_a_large_message_comes():
    async def run(client):
        client.front.max_body_bytes = 4 * limits.STREAM_WINDOW
        message = grpc_message(bytes(3 * limits.STREAM_WINDOW))
        client.send(client.head(1))
        for at in range(0, len(message), 100_000):
            client.send(data(1, message[at : at + 100_000], end=at + 100_000 >= len(message)))
        given = [f for f in client.frames() if f.kind == frames.WINDOW_UPDATE]
        back = sum(int.from_bytes(f.payload, "big") for f in given if f.stream == 1)
        assert back > 2 * limits.STREAM_WINDOW
        assert client.executor.works[0].tensors[0].size == 3 * limits.STREAM_WINDOW
        assert client.connection._partial == 0

    on(run)


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_message_is_unpacked(name, pack):
    async def run(client):
        client.send(client.head(1, headers("/t.S/Infer", ("grpc-encoding", name))))
        client.send(data(1, grpc_message(pack(b"hello"), 1), end=True))
        client.send(client.head(3, headers("/t.S/Chat", ("grpc-encoding", name))))
        client.send(data(3, grpc_message(pack(b"on"), 1) + grpc_message(b"plain"), end=True))
        await client.done(3)
        assert client.answer(3)[0] == grpc_message(b"on") + grpc_message(b"plain")
        assert client.executor.works[0].tensors[0].tobytes() == b"hello"

    on(run)


@pytest.mark.parametrize(
    ("encoding", "content", "status"),
    [
        ("gzip", gzip.compress(bytes(MAX_BODY + 1), mtime=0), Status.RESOURCE_EXHAUSTED),
        ("gzip", b"no gzip", Status.INVALID_ARGUMENT),
        ("gzip", gzip.compress(b"abc", mtime=0)[:-3], Status.INVALID_ARGUMENT),
        ("gzip", gzip.compress(b"abc", mtime=0) + b"more", Status.INVALID_ARGUMENT),
        ("identity", b"abc", Status.INVALID_ARGUMENT),
    ],
)
def test_a_compressed_message_that_cannot_be_unpacked_is_refused(encoding, content, status):
    async def run(client):
        client.send(client.head(1, headers("/t.S/Infer", ("grpc-encoding", encoding))))
        client.send(data(1, grpc_message(content, 1), end=True))
        await client.done(1)
        assert client.status(1) == status

    on(run)


def test_metadata_timeout_and_trace_reach_the_call():
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    more = (("x-one", "1"), ("b-bin", "AP8"), ("grpc-timeout", "1500m"), ("traceparent", trace))

    async def run(client):
        client.send(client.request(1, "/t.S/Look", b"x", *more) + client.request(3, "/t.S/Infer", b"x", *more))
        await client.done(1)
        (call,) = client.calls
        assert call.metadata == {"x-one": "1", "traceparent": trace}
        assert call.binary == {"b-bin": b"\x00\xff"}
        assert call.timeout_s == 1.5
        (work,) = client.executor.works
        assert work.timeout_s == 1.5
        assert work.trace.trace_id == "0af7651916cd43dd8448eb211c80319c"

    on(run)


@pytest.mark.parametrize("path", ["/t.S/Hang", "/t.S/Deaf"])
def test_a_call_ends_at_its_deadline(path):
    async def run(client):
        client.send(client.request(1, path, b"x", ("grpc-timeout", "1m")))
        await client.done(1)
        assert client.status(1) == Status.DEADLINE_EXCEEDED

    on(run)


def test_heads_are_known_by_their_bytes_until_the_table_changes():
    async def run(client):
        client.send(client.request(1))
        client.send(client.request(3))
        assert len(client.connection._heads.known) == 1
        client.send(client.request(5, "/t.S/Infer", b"x", ("new", "field")))
        assert client.connection._heads.known == {}
        client.send(client.request(7, "/t.S/Look", b"x", ("new", "field")))
        client.send(client.request(9, "/t.S/Look", b"x", ("new", "field")))
        await client.done(7, 9)
        assert [c.metadata for c in client.calls] == [{"new": "field"}] * 2
        assert len(client.executor.works) == 3

    on(run)


async def idle(client):
    """Until the pool has done what it was given, and the loop has taken it."""
    await asyncio.get_running_loop().run_in_executor(client.pool, int)
    await asyncio.sleep(0)


def test_a_message_that_is_slow_to_decode_is_decoded_in_the_pool():
    async def run(client):
        gate = threading.Event()
        client.pool.submit(gate.wait, 10)
        client.send(client.request(1, content=b"slow" + bytes(LARGE_BYTES)))
        client.send(client.request(3, content=b"slow" + bytes(LARGE_BYTES)))
        client.send(client.request(5, content=b"quick" + bytes(LARGE_BYTES)))
        assert [w.tensors[0].size for w in client.executor.works] == [LARGE_BYTES + 5]
        client.send(frames.rst_stream(3, Code.CANCEL))
        gate.set()
        await idle(client)
        assert [w.tensors[0].size for w in client.executor.works] == [LARGE_BYTES + 5, LARGE_BYTES + 4]

    on(run)


def test_an_answer_that_is_slow_to_encode_is_encoded_in_the_pool_and_told_when_it_is_sent():
    async def run(client):
        client.send(client.request(1) + client.request(3))
        told = []
        slow = np.frombuffer(b"slow" + bytes(LARGE_ELEMENTS), np.uint8)
        began = perf_counter()
        for work in client.executor.works:
            assert work.reply([slow], 0, 1) is None
            work.later(told.append)
        client.send(frames.rst_stream(3, Code.CANCEL))
        assert told == []
        await idle(client)
        assert client.answer(1)[0] == grpc_message(slow.tobytes())
        (rendered,) = told
        assert began < rendered < perf_counter()

    on(run)


def test_a_reset_or_a_lost_connection_cancels_the_work():
    async def run(client):
        client.send(client.request(1) + client.request(3) + client.request(5, "/t.S/Hang"))
        first, second = client.executor.works
        client.send(frames.rst_stream(1, Code.CANCEL))
        assert first.cancelled
        assert not second.cancelled
        first.reply([np.frombuffer(b"too late", np.uint8)], 0, 1)
        first.fail(BackendFailed("too late"))
        assert client.frames() == []
        client.connection.connection_lost(None)
        await client.settle()
        assert second.cancelled
        assert client.front._tasks == set()
        second.reply([np.frombuffer(b"too late", np.uint8)], 0, 1)

    on(run)


def test_a_large_answer_is_sent_as_the_windows_allow():
    async def run(client):
        client.send(client.request(1) + client.request(3))
        first, second = client.executor.works
        first.reply([np.frombuffer(bytes(100), np.uint8)], 0, 1)
        assert client.answer(1) == (grpc_message(bytes(100))[:10], BEGUN)
        second.reply([np.frombuffer(b"z", np.uint8)], 0, 1)
        assert client.answer(3) == (grpc_message(b"z"), {"grpc-status": "0", **BEGUN}), "others are not held up"
        client.send(frames.window_update(1, 5))
        (frame,) = client.frames()
        assert (frame.stream, len(frame.payload)) == (1, 5)
        client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 1000}))
        got = client.frames()
        assert sum(len(f.payload) for f in got if f.kind == frames.DATA) == 90
        assert got[-1].flags == frames.END_STREAM | frames.END_HEADERS
        assert client.connection.streams == {}
        assert client.connection.out.held == 0

    on(run, settings={frames.INITIAL_WINDOW_SIZE: 10})


def test_the_connections_window_is_kept_too():
    async def run(client):
        for number in (1, 3):
            client.send(client.request(number))
            client.executor.works.pop().reply([np.frombuffer(bytes(60_000), np.uint8)], 0, 1)
        sent = sum(len(f.payload) for f in client.frames() if f.kind == frames.DATA)
        assert sent == frames.DEFAULT_WINDOW
        client.send(frames.window_update(0, 1_000_000))
        sent += sum(len(f.payload) for f in client.frames() if f.kind == frames.DATA)
        assert sent == 120_010

    on(run, settings={frames.INITIAL_WINDOW_SIZE: 2**31 - 1})


def test_frames_are_no_larger_than_the_peer_takes():
    async def run(client):
        client.send(client.request(1))
        client.executor.works[0].reply([np.frombuffer(bytes(40_000), np.uint8)], 0, 1)
        sizes = [len(f.payload) for f in client.frames() if f.kind == frames.DATA]
        assert sizes == [16384, 16384, 40_005 - 2 * 16384]

    on(run)


def test_a_client_that_does_not_read_is_not_read_from_and_then_cut_off():
    async def run(client):
        client.send(client.request(1))
        client.connection.pause_writing()
        assert not client.transport.reading
        client.executor.works[0].reply([np.frombuffer(b"y", np.uint8)], 0, 1)
        assert [f for f in client.frames() if f.kind == frames.DATA] == []
        client.connection.resume_writing()
        assert client.transport.reading
        assert client.answer(1)[0] == grpc_message(b"y")
        client.connection.pause_writing()
        client.connection.sweep(perf_counter() + limits.STALLED_S + 1)
        assert client.transport.aborted

    on(run)


def test_an_output_without_window_is_given_up_after_a_while():
    async def run(client):
        client.send(client.request(1))
        client.executor.works[0].reply([np.frombuffer(b"y", np.uint8)], 0, 1)
        client.connection.sweep(perf_counter() + limits.STALLED_S - 1)
        assert not client.transport.aborted
        client.connection.sweep(perf_counter() + limits.STALLED_S + 1)
        assert client.transport.aborted

    on(run, settings={frames.INITIAL_WINDOW_SIZE: 0})


def test_a_streaming_handler_waits_for_the_clients_window():
    async def run(client):
        client.send(client.head(1, headers("/t.S/Chat")))
        client.send(data(1, grpc_message(b"1234567") + grpc_message(b"2"), end=True))
        await client.settle()
        assert client.answer(1)[0] == grpc_message(b"1234567")[:10]
        client.send(frames.window_update(1, 100))
        await client.done(1)
        content, fields = client.answer(1)
        assert content == grpc_message(b"1234567")[10:] + grpc_message(b"2")
        assert fields["grpc-status"] == "0"

    on(run, settings={frames.INITIAL_WINDOW_SIZE: 10})


def test_a_stream_answers_while_the_client_still_sends():
    async def run(client):
        client.send(client.head(1, headers("/t.S/Chat")))
        for i in range(3):
            message = grpc_message(b"%d" % i)
            client.send(data(1, message[:3]))
            client.send(data(1, message[3:]))
            await client.settle()
            assert client.answer(1)[0] == message
        client.send(data(1, b"", end=True))
        await client.done(1)
        assert client.status(1) == Status.OK

    on(run)


def test_a_stream_that_ends_within_a_message_fails():
    async def run(client):
        client.send(client.head(1, headers("/t.S/Chat")) + data(1, grpc_message(b"abc")[:-1], end=True))
        await client.done(1)
        assert client.status(1) == Status.INVALID_ARGUMENT

    on(run)


def test_an_old_connection_of_a_shared_port_is_drained():
    async def run(client):
        client.send(client.request(1))
        client.connection.sweep(perf_counter() + 4)
        assert client.frames() == []
        client.connection.sweep(perf_counter() + 16)
        got = client.frames()
        assert [f.kind for f in got] == [frames.GOAWAY, frames.PING]
        client.connection.sweep(perf_counter() + 16)
        client.send(frames.ping(got[1].payload, ack=True))
        assert [f.kind for f in client.frames()] == [frames.GOAWAY]
        assert not client.transport.closed
        client.executor.works[0].reply([np.frombuffer(b"y", np.uint8)], 0, 1)
        assert client.transport.closed

    on(run, shared_s=10.0)


@pytest.mark.parametrize("silent", [True, False])
def test_a_drain_lets_open_calls_end_and_refuses_new_ones(silent):
    async def run(client):
        client.send(client.request(1))
        stopping = asyncio.get_running_loop().create_task(client.front.stop(10))
        await client.settle()
        got = client.frames()
        assert [f.kind for f in got] == [frames.GOAWAY, frames.PING]
        assert got[0].payload[:4] == b"\x7f\xff\xff\xff"
        client.send(client.request(3))  # was under way
        assert len(client.executor.works) == 2
        if silent:
            client.connection.sweep(perf_counter() + limits.DRAIN_PING_S + 1)
        else:
            client.send(frames.ping(got[1].payload, ack=True))
        (last,) = client.frames()
        assert last.payload == (3).to_bytes(4, "big") + bytes(4)
        client.send(client.request(5))
        assert client.resets() == {5: Code.REFUSED_STREAM}
        for work in client.executor.works:
            assert not client.transport.closed
            work.reply([np.frombuffer(b"y", np.uint8)], 0, 1)
        assert client.transport.closed
        client.connection.connection_lost(None)
        await stopping
        client.front.connections.add(client.connection)

    on(run)


def test_deadlines_of_a_connection():
    async def whole():
        late = perf_counter() + limits.SETUP_DEADLINE_S + 1
        silent = Client(start=False)
        silent.connection.sweep(late)
        assert silent.goaway() == Code.SETTINGS_TIMEOUT
        headless = Client()
        headless.send(frames.frame(frames.HEADERS, 0, 1, b"\x83"))
        headless.connection.sweep(late)
        assert headless.goaway() == Code.ENHANCE_YOUR_CALM
        framed = Client()
        framed.send(frames.ping(bytes(8), ack=False)[:5])
        framed.connection.sweep(perf_counter() + limits.BODY_DEADLINE_S + 1)
        assert framed.goaway() == Code.ENHANCE_YOUR_CALM
        slow = Client()
        slow.send(slow.head(1) + data(1, b"\0"))
        slow.connection.sweep(perf_counter() + limits.BODY_DEADLINE_S + 1)
        assert slow.status(1) == Status.DEADLINE_EXCEEDED
        idle = Client()
        idle.connection.sweep(perf_counter() + limits.IDLE_S - 1)
        assert not idle.connection.dead
        idle.connection.sweep(perf_counter() + limits.IDLE_S + 1)
        assert idle.goaway() == Code.NO_ERROR
        for client in (silent, headless, framed, slow, idle):
            client.connection.sweep(perf_counter() + 1e6)
            client.close()

    asyncio.run(whole())


def test_a_peer_that_vanished_under_open_calls_is_noticed():
    async def run(client):
        client.send(client.request(1))
        quiet = perf_counter() + limits.KEEPALIVE_S + 1
        client.connection.sweep(quiet)
        assert [f.kind for f in client.frames()] == [frames.PING]
        client.connection.sweep(quiet + limits.KEEPALIVE_ANSWER_S + 1)
        assert client.transport.aborted

    on(run)


def test_only_the_requests_own_mistakes_count_as_bad():
    async def run(client):
        client.send(client.request(1))
        client.executor.works[0].fail(InvalidInput("the model says so"))
        assert client.status(1) == Status.INVALID_ARGUMENT
        assert client.plane.bad_requests == 0

    on(run)


def test_too_many_connections_are_told_and_many_more_are_cut():
    async def run(client):
        client.front.max_connections = 1
        others = []
        for _ in range(70):
            transport = Transport()
            client.front.connection().connection_made(transport)
            others.append(transport)
        assert all(frames.goaway(0, Code.ENHANCE_YOUR_CALM, "too many connections") in t.sent for t in others)
        assert [t.aborted for t in others] == [i >= 64 for i in range(70)]
        client.send(client.request(1))
        assert len(client.executor.works) == 1, "the first is served"

    on(run)


def test_requests_being_received_are_bounded_over_all_connections(monkeypatch):
    async def run(client):
        monkeypatch.setattr(limits, "MAX_PARTIAL_BYTES", 100_000)
        client.send(client.head(1) + data(1, grpc_message(bytes(90_000))[:60_000]))
        client.front.partial += 50_000  # another connection's
        client.send(client.head(3) + data(3, grpc_message(b"x")[:3]))
        assert client.status(3) == Status.RESOURCE_EXHAUSTED
        client.send(frames.rst_stream(1, Code.CANCEL))
        assert client.front.partial == 50_000
        assert (client.plane.refused_requests, client.plane.bad_requests) == (1, 0)

    on(run)


def test_answers_that_wait_are_bounded_over_all_connections(monkeypatch):
    """Those that are stuck longest go first, and no more than needed."""

    async def run(client):
        stuck = []
        for _ in range(3):
            connection, transport = client.front.connection(), Transport()
            connection.connection_made(transport)
            connection.data_received(frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
            client.encoder = Encoder()
            connection.data_received(client.request(1))
            client.executor.works[-1].reply([np.frombuffer(bytes(1000), np.uint8)], 0, 1)
            stuck.append(transport)
        monkeypatch.setattr(limits, "MAX_UNSENT_BYTES", 2500)
        client.front.sweep(perf_counter())
        assert [t.aborted for t in stuck] == [True, False, False]
        assert not client.transport.aborted

    on(run)


def test_an_inference_leaves_nothing_to_the_garbage_collector():
    """Answered, failed, taken back: no reference cycle remains, so that memory is freed at once."""

    async def run(client):
        gc.collect()
        gc.disable()
        try:
            for number in range(1, 600, 6):
                client.send(client.request(number) + client.request(number + 2) + client.request(number + 4))
                first, second, _ = client.executor.works
                first.reply([np.frombuffer(b"y", np.uint8)], 0, 1)
                second.fail(BackendFailed("no"))
                client.send(frames.rst_stream(number + 4, Code.CANCEL))
                client.executor.works.clear()
                client.transport.sent.clear()
            del first, second, _
            assert gc.collect() < 50, "of 300 calls"
        finally:
            gc.enable()

    on(run)


def test_a_connection_leaves_nothing_to_the_garbage_collector():
    async def run(client):
        connection = client.front.connection()
        connection.connection_made(Transport())
        connection.data_received(frames.PREFACE + frames.settings({}))
        client.encoder = Encoder()
        connection.data_received(client.request(1) + client.request(3, "/t.S/Chat"))
        await client.settle()
        gone = weakref.ref(connection.transport)
        gc.collect()
        gc.disable()
        try:
            connection.connection_lost(None)
            client.executor.works.clear()
            await client.settle()
            del connection
            assert gone() is None
        finally:
            gc.enable()

    on(run)


def test_messages_that_streams_hold_are_bounded():
    """Parts of messages and messages that no handler takes count alike, and stop counting when they are taken."""

    async def run(client):
        part = grpc_message(bytes(90_000))
        for number in (1, 3):
            client.send(client.head(number, headers("/t.S/Deaf")) + data(number, part))
        client.send(client.head(5, headers("/t.S/Chat")) + data(5, part[:1000]))
        assert client.front.partial == 2 * len(part) + 1000
        client.send(data(5, part[1000:-1]))
        await client.done(5)
        assert client.answer(5)[1]["grpc-status"] == str(Status.RESOURCE_EXHAUSTED.value)
        assert client.front.partial == 2 * len(part)
        client.send(frames.rst_stream(1, Code.CANCEL))
        client.send(client.head(7, headers("/t.S/Chat")) + data(7, grpc_message(b"x"), end=True))
        await client.done(7)
        assert client.status(7) == Status.OK
        assert client.front.partial == len(part)

    on(run)
