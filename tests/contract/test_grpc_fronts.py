"""Both gRPC fronts, our HTTP/2 and grpc.aio, are the same to grpcio's clients: one suite over the two."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import uvloop
from tritonclient.grpc import service_pb2 as pb

from modelyard.domain import errors
from modelyard.domain.errors import InvalidInput, ModelyardError, NotFound, Unavailable
from modelyard.domain.services import GrpcFront, ReplicaSpec
from modelyard.serving.faults import Expired, TooLarge
from modelyard.serving.grpc import fronts
from modelyard.serving.grpc.ports import Method, by_path
from tests.serving_harness import replica, scripted, until

LIMIT = 8 * 2**20
LEAVES = {e.__name__: e for e in (*vars(errors).values(), TooLarge, Expired) if isinstance(e, type)} | {
    "ModelyardError": ModelyardError
}


class Service:
    """Methods whose course a test can follow. Their messages are plain bytes."""

    def __init__(self):
        self.calls = []
        self.works = []
        self.produced = 0
        self.threads = []
        self.ended = threading.Event()
        self.began = threading.Event()
        self.release = threading.Event()

    def methods(self):
        return by_path(
            Method("/t.S/Echo", unary=self.echo),
            Method("/t.S/Fail", unary=self.fail),
            Method("/t.S/Hang", unary=self.hang),
            Method("/t.S/Infer", inference=self),
            Method("/t.S/Chat", stream=self.chat),
            Method("/t.S/Produce", stream=self.produce),
            Method("/t.S/Break", stream=self.break_off),
            Method("/t.S/Deaf", stream=self.deaf),
        )

    async def echo(self, message, call):
        self.calls.append(call)
        return message

    async def fail(self, message, call):
        if message == b"bug":
            raise ZeroDivisionError
        if message == b"busy":
            raise Unavailable("später, 100 %", retry_after_s=1.2)
        raise LEAVES[message.decode()]("what", why="why", hint="hint")

    async def hang(self, message, call):
        self.began.set()
        try:
            while not self.release.is_set():
                await asyncio.sleep(0.005)
        finally:
            self.ended.set()
        return b"released"

    async def chat(self, messages, call):
        self.calls.append(call)
        try:
            async for message in messages:
                yield message
        finally:
            self.ended.set()

    async def produce(self, messages, call):
        try:
            for _ in range(2000):
                self.produced += 1
                yield bytes(64 * 1024)
        finally:
            self.ended.set()

    async def break_off(self, messages, call):
        yield b"first"
        raise NotFound("no more")

    async def deaf(self, messages, call):
        self.began.set()
        try:
            while not self.release.is_set():
                await asyncio.sleep(0.005)
            async for message in messages:
                yield message
        finally:
            self.ended.set()

    # an inference codec whose executor answers at once what is not `hold`

    gone = None

    def decode(self, message):
        if message == b"bad":
            raise InvalidInput("a bad message")
        plan = SimpleNamespace(rows=1, shape_key=(), timeout_s=None, priority=0, id="")
        return self, plan, (np.frombuffer(message, np.uint8),)

    def slow(self, message):
        if message[:10] == b"bad header":
            raise InvalidInput("a bad header")
        if message[:4] != b"slow":
            return None

        def rest():
            self.threads.append(threading.current_thread())
            if message[4:7] == b"bad":
                raise InvalidInput("a bad message")
            if message[4:7] == b"bug":
                raise ZeroDivisionError
            return self.decode(message)

        return rest

    def encode(self, plan, outputs, start, stop):
        if outputs[0][:4].tobytes() == b"slow":
            self.threads.append(threading.current_thread())
        return outputs[0].tobytes()

    def slow_elements(self, plan, outputs, start, stop):
        return outputs[0].size if outputs[0][:4].tobytes() == b"slow" else 0

    def submit(self, work):
        self.works.append(work)
        message = work.tensors[0].tobytes()
        if message == b"full":
            raise Unavailable("full", retry_after_s=3)
        if message != b"hold":
            asyncio.get_running_loop().call_soon(work.reply, list(work.tensors), 0, 1)


class Running:
    """A front in a thread with an event loop of its own."""

    def __init__(self, front, tls=None):
        self.service = Service()
        self.plane = SimpleNamespace(bad_requests=0, refused_requests=0)
        self.pool = ThreadPoolExecutor(1)
        spec = ReplicaSpec("t", (), grpc_front=GrpcFront(front), max_body_bytes=LIMIT, tls=tls)
        self._stop = None
        self._started = threading.Event()
        self.thread = threading.Thread(target=lambda: uvloop.run(self._serve(spec)), daemon=True)
        self.thread.start()
        assert self._started.wait(20)

    async def _serve(self, spec):
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()

        def bind():
            listener = socket.create_server(("127.0.0.1", 0))
            listener.setblocking(False)
            return listener

        self.front = await fronts.start(spec, self.plane, self.service.methods(), self.pool, bind)
        self.address = f"127.0.0.1:{self.front.port}"
        self._started.set()
        await self._stop.wait()
        await self.front.stop(0)

    def stop_gracefully(self, grace):
        return asyncio.run_coroutine_threadsafe(self.front.stop(grace), self.loop)

    def close(self):
        self.service.release.set()
        self.loop.call_soon_threadsafe(self._stop.set)
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.pool.shutdown()


@pytest.fixture(params=["fast", "aio"])
def server(request):
    running = Running(request.param)
    yield running
    running.close()


@pytest.fixture
def channel(server):
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, options=options) as channel:
        yield channel


def call(channel, method, message=b"x", **more):
    return channel.unary_unary(f"/t.S/{method}")(message, timeout=more.pop("timeout", 20), **more)


def refused(channel, method, message=b"x", **more):
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, method, message, **more)
    return caught.value


@pytest.mark.parametrize("method", ["Echo", "Infer"])
@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 65_536, 3_000_000])
def test_a_message_of_any_size_comes_back(channel, method, size):
    message = (b"0123456789" * (size // 10 + 1))[:size]
    assert call(channel, method, message) == message


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


SLOW = b"slow" + bytes(100_000)


def test_what_is_slow_to_decode_or_encode_does_not_hold_the_loop(server, channel):
    assert call(channel, "Infer", SLOW) == SLOW
    assert len(server.service.threads) == 2
    assert server.thread not in server.service.threads


@pytest.mark.parametrize(
    ("message", "code"),
    [(b"slowbad", "INVALID_ARGUMENT"), (b"slowbug", "INTERNAL"), (b"bad header", "INVALID_ARGUMENT")],
)
def test_what_is_wrong_with_a_slow_message_is_told(server, channel, message, code):
    before = server.plane.bad_requests
    assert refused(channel, "Infer", message + bytes(100_000)).code().name == code
    assert server.plane.bad_requests - before == (code == "INVALID_ARGUMENT")


@pytest.mark.parametrize(("method", "message"), [("Echo", b"x"), ("Infer", b"x"), ("Infer", bytes(200_000))])
def test_an_answer_tells_our_span(server, channel, method, message):
    spans = set()
    for _ in range(2):
        _, done = channel.unary_unary(f"/t.S/{method}").with_call(
            message, timeout=20, metadata=(("traceparent", TRACEPARENT), ("tracestate", "a=b"))
        )
        told = dict(done.trailing_metadata())["traceparent"].split("-")
        seen = server.service.works[-1] if method == "Infer" else server.service.calls[-1]
        assert seen.trace.header.split("-") == told
        assert (seen.trace.parent_id, seen.trace.state) == ("b7ad6b7169203331", "a=b")
        assert (told[1], told[3]) == ("0af7651916cd43dd8448eb211c80319c", "01")
        spans.add(told[2])
    assert len(spans) == 2
    _, done = channel.unary_unary(f"/t.S/{method}").with_call(message, timeout=20)
    assert "traceparent" not in dict(done.trailing_metadata())


@pytest.mark.parametrize(("method", "message"), [("Infer", b"bad"), ("Infer", b"full"), ("Fail", b"busy")])
def test_an_error_tells_our_span_too(channel, method, message):
    error = refused(channel, method, message, metadata=(("traceparent", TRACEPARENT),))
    told = dict(error.trailing_metadata())
    assert told["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert ("retry-after" in told) == (message != b"bad")


def test_a_traceparent_that_is_none_is_ignored(channel):
    _, done = channel.unary_unary("/t.S/Infer").with_call(b"x", timeout=20, metadata=(("traceparent", "00-no"),))
    assert "traceparent" not in dict(done.trailing_metadata())


def test_calls_at_the_same_time_get_their_own_answers(server):
    async def run():
        async with grpc.aio.insecure_channel(server.address) as channel:
            calls = [channel.unary_unary(f"/t.S/{m}")(b"%d" % i) for i in range(300) for m in ("Echo", "Infer")]
            assert await asyncio.gather(*calls) == [b"%d" % i for i in range(300) for _ in "ab"]

    asyncio.run(run())


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_error_has_its_code_and_text(channel, leaf):
    codes = {
        "NotFound": "NOT_FOUND", "Conflict": "ALREADY_EXISTS", "InvalidInput": "INVALID_ARGUMENT",
        "Unsupported": "UNIMPLEMENTED", "BackendFailed": "INTERNAL", "Unavailable": "UNAVAILABLE",
        "Rejected": "PERMISSION_DENIED", "TooLarge": "RESOURCE_EXHAUSTED", "Expired": "DEADLINE_EXCEEDED",
        "ModelyardError": "INTERNAL",
    }  # fmt: skip
    error = refused(channel, "Fail", leaf.encode())
    assert (error.code().name, error.details()) == (codes[leaf], "what: why (hint)")


def test_overload_says_when_to_come_back(channel):
    for method, message, text, after in (("Fail", b"busy", "später, 100 %", "2"), ("Infer", b"full", "full", "3")):
        error = refused(channel, method, message)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == text
        assert dict(error.trailing_metadata())["retry-after"] == after


def test_a_bug_is_told_without_its_text_and_logged(channel, caplog):
    with caplog.at_level(logging.ERROR):
        error = refused(channel, "Fail", b"bug")
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "the request could not be served")
    assert "ZeroDivisionError" in caplog.text


def test_a_bad_inference_is_refused_and_counted(server, channel):
    assert refused(channel, "Infer", b"bad").code() is grpc.StatusCode.INVALID_ARGUMENT
    assert server.plane.bad_requests == 1


def test_an_unknown_method_is_unimplemented(channel):
    for path in ("Nothing", "echo"):
        error = refused(channel, path)
        assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


def test_a_message_beyond_the_limit_is_refused(channel):
    assert refused(channel, "Echo", bytes(LIMIT + 1)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call(channel, "Echo", b"next") == b"next"


def test_metadata_and_deadline_reach_the_call(server, channel):
    metadata = (("x-one", "1"), ("x-two-bin", b"\x00\xff"))
    call(channel, "Echo", metadata=metadata, timeout=15)
    list(channel.stream_stream("/t.S/Chat")(iter([]), metadata=metadata, timeout=15))
    for seen in server.service.calls:
        assert seen.metadata["x-one"] == "1"
        assert "user-agent" in seen.metadata
        assert seen.binary == {"x-two-bin": b"\x00\xff"}
        assert 10 < seen.timeout_s < 16  # grpcio's server adds what it rounds


def test_an_inference_is_told_its_deadline(server, channel):
    call(channel, "Infer", timeout=12)
    call(channel, "Infer", timeout=None)
    first, second = server.service.works
    assert 8 < first.timeout_s < 13
    assert second.timeout_s is None


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_taken(channel, compression):
    message = b"compress me " * 1000
    assert call(channel, "Echo", message, compression=compression) == message
    assert call(channel, "Infer", message, compression=compression) == message
    chat = channel.stream_stream("/t.S/Chat")
    assert list(chat(iter([message, b"2"]), compression=compression, timeout=20)) == [message, b"2"]


@pytest.mark.parametrize("method", ["Hang", "Infer"])
def test_a_call_that_outlives_its_deadline_ends(server, channel, method):
    error = refused(channel, method, b"hold", timeout=0.2)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    if method == "Hang":
        assert server.service.ended.wait(10), "its handler ends too"
    else:
        until(lambda: server.service.works[0].cancelled or server.service.works[0].timeout_s < 0.3, "the work knows")


@pytest.mark.parametrize("method", ["Hang", "Infer", "Deaf"])
def test_a_cancelled_call_stops_its_work(server, channel, method):
    if method == "Deaf":
        pending = channel.stream_stream("/t.S/Deaf")(iter([b"x"]), timeout=20)
    else:
        pending = channel.unary_unary(f"/t.S/{method}").future(b"hold", timeout=20)
    service = server.service
    until(lambda: service.works if method == "Infer" else service.began.is_set(), "the call runs")
    pending.cancel()
    if method == "Infer":
        until(lambda: service.works[0].cancelled, "the work is cancelled")
        server.loop.call_soon_threadsafe(service.works[0].reply, list(service.works[0].tensors), 0, 1)
    else:
        assert service.ended.wait(10)
    assert call(channel, "Echo", b"next") == b"next"


def test_a_lost_connection_stops_its_work(server):
    channel = grpc.insecure_channel(server.address)
    pending = channel.unary_unary("/t.S/Infer").future(b"hold", timeout=60)
    until(lambda: server.service.works, "the work is there")
    channel.close()
    assert pending.done()
    until(lambda: server.service.works[0].cancelled, "the work is cancelled")


def test_messages_of_a_stream_come_back_in_order(channel):
    sent = [b"%d" % i * (i % 50) for i in range(500)]
    assert list(channel.stream_stream("/t.S/Chat")(iter(sent), timeout=30)) == sent


def test_large_messages_of_a_stream_pass_the_windows(channel):
    sent = [bytes([i]) * 3_000_000 for i in range(5)]
    assert list(channel.stream_stream("/t.S/Chat")(iter(sent), timeout=30)) == sent


def test_a_stream_that_fails_keeps_the_messages_before(channel):
    answers = channel.stream_stream("/t.S/Break")(iter([]), timeout=20)
    assert next(answers) == b"first"
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "no more")


def test_a_producer_waits_for_a_client_that_does_not_read(server, channel):
    answers = channel.stream_stream("/t.S/Produce")(iter([]), timeout=60)
    next(answers)
    seen = -1

    def at_rest():
        nonlocal seen
        before, seen = seen, server.service.produced
        server.service.release.wait(0.1)
        return before == seen

    until(at_rest, "the producer is held up")
    assert seen < 1900, "of 2000 messages"
    answers.cancel()
    assert server.service.ended.wait(10)


def test_a_sender_waits_for_a_handler_that_does_not_read(server, channel):
    taken = 0

    def messages():
        nonlocal taken
        for _ in range(600):
            taken += 1
            yield bytes(64 * 1024)

    answers = channel.stream_stream("/t.S/Deaf")(messages(), timeout=60)
    seen = -1

    def at_rest():
        nonlocal seen
        before, seen = seen, taken
        server.service.began.wait(10)
        threading.Event().wait(0.1)
        return before == seen > 0

    until(at_rest, "the client is held up")
    assert seen < 550, "of 600 messages"
    server.service.release.set()
    assert sum(len(a) for a in answers) == 600 * 64 * 1024


def test_a_graceful_stop_lets_calls_end(server, channel):
    pending = channel.unary_unary("/t.S/Hang").future(b"x", timeout=20)
    assert server.service.began.wait(10)
    stopping = server.stop_gracefully(15)
    with grpc.insecure_channel(server.address) as late:
        until(lambda: _refuses(late), "new connections are refused")
    assert not pending.done()
    server.service.release.set()
    assert pending.result(timeout=10) == b"released"
    channel.close()
    stopping.result(timeout=15)


def _refuses(channel):
    try:
        channel.unary_unary("/t.S/Echo")(b"x", timeout=1)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


def test_a_stop_without_grace_cuts_calls(server, channel):
    pending = channel.unary_unary("/t.S/Hang").future(b"x", timeout=20)
    assert server.service.began.wait(10)
    server.stop_gracefully(0).result(timeout=10)
    assert pending.exception(timeout=10).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert server.service.ended.wait(10)


# --- the protocol's methods, on real replicas

METHODS = sorted(m.name for m in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods)
VARYING = {"ModelStatistics", "LogSettings"}
"""Methods whose answers have times, or process-wide state, in them."""


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        yield {
            front: stack.enter_context(
                replica(tmp_path_factory.mktemp(front), scripted("scale"), grpc_front=GrpcFront(front))
            )
            for front in ("fast", "aio")
        }


def requests_of(name):
    kind = getattr(pb, pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[name].input_type.name)
    yield kind()
    for field in ("name", "model_name"):
        if field in kind.DESCRIPTOR.fields_by_name:
            yield kind(**{field: "m"})
            yield kind(**{field: "nobody"})
    if name in ("ModelInfer", "ModelStreamInfer"):
        for raw in (bytes(16), bytes(15)):
            request = kind(model_name="m", id="7")
            request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
            request.raw_input_contents.append(raw)
            yield request


def outcome(running, name, request):
    method = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[name]
    path = f"/inference.GRPCInferenceService/{name}"
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        try:
            if name == "ModelStreamInfer":
                answers = list(channel.stream_stream(path)(iter([request.SerializeToString()]), timeout=20))
            else:
                answers = [channel.unary_unary(path)(request.SerializeToString(), timeout=20)]
        except grpc.RpcError as error:
            return error.code(), error.details()
    if name in VARYING:
        return "an answer"
    return [getattr(pb, method.output_type.name).FromString(answer) for answer in answers]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_answers_the_same_on_both_fronts(replicas, name):
    for request in requests_of(name):
        fast, aio = (outcome(replicas[front], name, request) for front in ("fast", "aio"))
        assert fast == aio


# --- grpc.health.v1


def named(service):
    return b"\x0a" + bytes((len(service),)) + service.encode() if service else b""


@pytest.mark.parametrize("front", ["fast", "aio"])
def test_health_checks(replicas, front):
    with grpc.insecure_channel(f"127.0.0.1:{replicas[front].grpc_port}") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        for service in ("", "inference.GRPCInferenceService"):
            assert check(named(service), timeout=20) == b"\x08\x01"
            assert next(watch(named(service), timeout=20)) == b"\x08\x01"
        assert next(watch(named("nobody"), timeout=20)) == b"\x08\x03"
        for message, code in ((named("nobody"), grpc.StatusCode.NOT_FOUND), (b"?", grpc.StatusCode.INVALID_ARGUMENT)):
            with pytest.raises(grpc.RpcError) as caught:
                check(message, timeout=20)
            assert caught.value.code() is code


@pytest.mark.parametrize("front", ["fast", "aio"])
def test_a_watcher_sees_the_drain_and_does_not_hold_it_up(front, tmp_path):
    with replica(tmp_path, scripted("scale"), grpc_front=GrpcFront(front), drain_timeout_s=60.0) as running:
        with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
            seen = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=40)
            assert next(seen) == b"\x08\x01"
            running.terminate()
            told = list(seen)
            # grpcio's stopping server sometimes ends a stream without its last message
            assert told == [b"\x08\x02"] or (front == "aio" and told == [])
        assert running.process.wait(20) == 0
