"""When a request's bytes came and its answer left: what the fronts note, and what becomes of late answers."""

from __future__ import annotations

import asyncio
import socket
from time import perf_counter

import numpy as np
import pytest
import uvloop

from modelyard.serving.grpc.http2 import frames
from modelyard.serving.http.router import response
from modelyard.serving.observe.stages import Recorder
from tests.unit.serving.http import wire as http
from tests.unit.serving.http2.wire import Client
from tests.unit.serving.scheduling.executor_bench import Answer, Bench, drive, rows


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_is_written_is_with_the_kernel_at_once(loop):
    """On this rests that an answer counts as sent when `write` returns."""

    async def scenario():
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
            theirs.setblocking(False)
            transport.write(b"answer")
            assert theirs.recv(100) == b"answer"
            transport.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


def test_a_request_in_one_read_was_whole_when_it_came():
    async def scenario(bench):
        connection, _ = bench.connect()
        connection.data_received(http.post(b"1", "/infer"))
        (work,) = bench.executor.works
        assert work.whole == work.received
        assert work.reply([np.array([1])], 0, 1) >= work.whole

    http.run(scenario)


@pytest.mark.parametrize("request_", [http.post(b"12345", "/infer"), http.chunked([b"123", b"45"], "/infer")])
def test_a_request_in_parts_was_whole_with_its_last_byte(request_):
    async def scenario(bench):
        connection, _ = bench.connect()
        before = perf_counter()
        connection.data_received(request_[:20])
        between = perf_counter()
        connection.data_received(request_[20:-1])
        late = perf_counter()
        connection.data_received(request_[-1:])
        (work,) = bench.executor.works
        assert before <= work.received <= between < late <= work.whole

    http.run(scenario)


def test_an_answer_behind_another_is_sent_with_it():
    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(http.post(b"1", "/infer") + http.post(b"2", "/infer"))
        first, second = bench.executor.works
        assert second.reply([np.array([2])], 0, 1) is None
        told = []
        second.later(lambda rendered: told.append((rendered, len(transport.answers))))
        assert told == []
        between = perf_counter()
        assert first.reply([np.array([1])], 0, 1) >= between
        ((rendered, answers),) = told
        assert rendered < between
        assert answers == 2

    http.run(scenario)


def test_a_compressed_answer_is_sent_when_the_pool_is_done():
    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(http.post(b"1", "/infer", "Accept-Encoding: gzip\r\n"))
        (work,) = bench.executor.works
        work._codec.render = lambda *_: response(200, b"text " * 10_000).rest
        assert work.reply([np.array([1])], 0, 1) is None
        told = []
        work.later(lambda rendered: told.append((rendered, len(transport.answers))))
        await bench.settle()
        ((rendered, answers),) = told
        assert work.received < rendered < perf_counter()
        assert answers == 1

    http.run(scenario)


def test_an_answer_whose_client_left_is_sent_to_nobody():
    async def scenario(bench):
        connection, _ = bench.connect()
        connection.data_received(http.post(b"1", "/infer") + http.post(b"2", "/infer"))
        _, second = bench.executor.works
        assert second.reply([np.array([2])], 0, 1) is None
        told = []
        second.later(told.append)
        connection.connection_lost(None)
        await bench.settle()
        assert told == []

    http.run(scenario)


def test_an_http2_answer_that_waits_for_the_clients_window_is_sent_when_it_opens():
    async def scenario():
        client = Client(settings={frames.INITIAL_WINDOW_SIZE: 10})
        before = perf_counter()
        client.send(client.request(1, content=b"x"))
        (work,) = client.executor.works
        assert before <= work.received <= work.whole <= perf_counter()
        assert work.reply([np.zeros(100_000, np.uint8)], 0, 1) is None
        told = []
        work.later(told.append)
        assert told == []
        opened = perf_counter()
        client.send(frames.window_update(1, 1_000_000) + frames.window_update(0, 1_000_000))
        (rendered,) = told
        assert work.whole < rendered < opened
        client.send(client.request(3, content=b"x"))
        assert client.executor.works[-1].reply([np.zeros(1, np.uint8)], 0, 1) > opened
        client.close()

    asyncio.run(scenario())


class Late(Answer):
    """Its answer leaves when the test says so."""

    __slots__ = ("told",)

    def reply(self, outputs, start, stop):
        super().reply(outputs, start, stop)

    def later(self, sent):
        self.told = sent


def test_a_late_answer_is_in_the_ring_and_the_ledger_once_it_is_sent():
    async def scenario():
        bench = Bench(lambda x: x)
        executor = bench.executor
        executor.recorder = recorder = Recorder()
        plain, given = bench.work(rows(1)), bench.work(rows(1))
        late = Late(given.plan, given.tensors, given.received)
        late.future = given.future
        executor.submit(plain)
        executor.submit(late)
        await asyncio.gather(plain.future, late.future)
        (seen,) = executor.ledger.by_rows.values()
        assert (seen.requests, sum(executor.ledger.duration_counts), len(recorder.recent())) == (2, 1, 1)
        encode_s, send_s = seen.encode_s, seen.send_s
        rendered = perf_counter()
        late.told(rendered)
        assert (seen.requests, sum(executor.ledger.duration_counts)) == (2, 2)
        shown = recorder.recent()[0]
        assert seen.encode_s > encode_s
        assert seen.send_s > send_s
        assert shown.batch_rows == 2
        assert shown.send_us == pytest.approx(1e6 * (seen.send_s - send_s), abs=0.1)
        bench.close()

    drive(scenario)


@pytest.mark.parametrize("how", ["left", "unwritable"])
def test_who_got_no_answer_is_in_the_ring_with_the_reason(how):
    async def scenario():
        def leave(x):
            work.cancelled = how == "left"
            return x

        bench = Bench(leave)
        bench.executor.recorder = recorder = Recorder()
        work = bench.work(rows(1))
        if how == "unwritable":
            work.future.cancel()  # an answer to it raises
        bench.executor.submit(work)
        await bench.submit(rows(1))
        errors = sorted(stages.error for stages in recorder.recent())
        assert errors[0] == ""
        assert ("client left" if how == "left" else "could not be written") in errors[1]
        bench.close()

    drive(scenario)
