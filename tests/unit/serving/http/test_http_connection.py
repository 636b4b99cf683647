"""A connection: any split of the bytes gives the same answers, in order, and garbage never an error of ours."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import threading
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.serving.http.head import NO_HEADER, Head
from modelyard.serving.http.limits import Limits
from modelyard.serving.http.work import HttpWork
from modelyard.serving.scheduling.work import Work
from tests.unit.serving.http.wire import Codec, Held, Plan, chunked, get, post, run

PARENT = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
REQUESTS = [
    post(b"abc"), post(b""), get("/echo"), chunked([b"ab", b"c" * 20]), chunked([]), get("/nothing"),
    post(b"5", "/infer"), post(b"x", "/infer"), post(gzip.compress(b"plain"), extra="Content-Encoding: gzip\r\n"),
    b"\r\n" + post(b"after crlf"),
    post(b"not gzip", extra="Content-Encoding: gzip\r\n"), get("/size/70000"), get("/echo").replace(b"GET", b"HEAD"),
    post(b"x", extra="Content-Encoding: br\r\n"), get("/head", "X-Request-Priority: x\r\n"),
    chunked([b"17"], "/infer", "X-Request-Id: me\r\n" + PARENT),
    get("/echo").replace(b"1.1", b"1.0").replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"),
]  # fmt: skip
ENDS = [
    b"", b"NONSENSE\r\n\r\n", get("/echo", "Connection: close\r\n") + post(b"never"), post(b"z" * 3000),
    b"\x00\xff" * 9,
    chunked([b"q"]).replace(b"1\r\nq", b"1\r\nqq"), get("/v2", "X: " + "y" * 2000 + "\r\n"),
    b"\r\n" * 20 + get("/echo"),
    post(b"ab", extra="Content-Length: 2\r\n"), b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 9999\r\n\r\n",
]  # fmt: skip


def answers(pieces, reverse=False, turn_s=math.inf):
    async def scenario(bench):
        connection, transport = bench.connect()
        for piece in pieces:
            if transport.closed:
                break
            connection.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(200):  # every answer may let the connection read on
            works = len(bench.executor.works)
            bench.answer_all((lambda works: works[::-1]) if reverse else list)
            await bench.settle()
            if not works and not bench.executor.works and not connection._again:
                break
        return transport.text

    return run(scenario, turn_s=turn_s, max_head_bytes=1024, max_body_bytes=1000, big_body_bytes=500, max_pipelined=8)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(REQUESTS), max_size=12),
    st.sampled_from(ENDS),
    st.lists(st.integers(1, 400), min_size=1, max_size=30),
    st.booleans(),
    st.sampled_from([math.inf, 0.0]),
)
def test_any_split_of_any_requests_gives_the_same_answers(requests, end, cuts, reverse, turn_s):
    stream = b"".join(requests) + end
    pieces, at = [], 0
    while at < len(stream):
        step = cuts[len(pieces) % len(cuts)]
        pieces.append(stream[at : at + step])
        at += step
    assert answers(pieces, reverse, turn_s) == answers([stream] if stream else [])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(REQUESTS + ENDS + [b"\r\n", b"\r", b"\n", b" ", b"POST ", b"0\r\n\r\n"]),
            st.binary(max_size=30),
        ),
        max_size=8,
    ),
    st.integers(0, 200),
)
def test_garbage_is_answered_or_refused_but_never_an_error_of_ours(pieces, damage):
    stream = bytearray(b"".join(pieces))
    if stream:
        stream[damage % len(stream)] ^= 1 << (damage % 8)
    text = answers([bytes(stream)])
    for line in text.split("\r\n"):
        assert not line.startswith("HTTP/1.1 5")


def test_answers_keep_the_order_of_requests_when_work_ends_in_another():
    text = answers([b"".join(post(b"%d" % i, "/infer") for i in range(8))], reverse=True)
    assert [part.partition("\r\n")[0] for part in text.split("\r\n\r\n")[1:-1]] == [
        f"{i}HTTP/1.1 200 OK" for i in range(7)
    ]


def test_no_more_than_the_limit_is_in_flight():
    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(b"".join(post(b"%d" % i, "/infer") for i in range(20)))
        assert len(bench.executor.works) == 4
        assert not transport.reading
        for _ in range(20):
            bench.answer_all()
            await bench.settle()
        assert transport.reading
        assert [body for _, _, body in transport.answers] == [b"%d" % i for i in range(20)]

    run(scenario, max_pipelined=4)


def test_after_a_large_body_nothing_is_handled_until_its_answer():
    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(post(b"1" * 600, "/infer") + post(b"2", "/infer"))
        assert len(bench.executor.works) == 1
        assert not transport.reading
        bench.answer_all()
        await bench.settle()
        assert len(bench.executor.works) == 1
        bench.answer_all()
        assert transport.statuses == [200, 200]
        assert transport.reading

    run(scenario, big_body_bytes=500)


@pytest.mark.parametrize("slow", [False, True])
def test_what_is_read_value_by_value_is_decoded_off_the_loop_where_it_is_much(monkeypatch, slow):
    threads = []

    def decode(self, interface, head, body):
        threads.append(threading.current_thread())
        return Plan(), (np.array([len(body)]),)

    monkeypatch.setattr(Codec, "decode", decode)
    monkeypatch.setattr(Codec, "slow_bytes", lambda self, interface, head, body: len(body) if slow else 0)

    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(post(b"s" * 70_000, "/infer"))
        await bench.settle()
        bench.answer_all()
        assert [body for _, _, body in transport.answers] == [b"70000"]
        assert (threads == [threading.main_thread()]) is not slow

    run(scenario)


@pytest.mark.parametrize("slow", [False, True])
def test_a_bug_while_a_large_request_is_queued_costs_its_answer_only(monkeypatch, slow):
    monkeypatch.setattr(Codec, "decode", lambda *_: (Plan(), (np.array([1]),)))
    monkeypatch.setattr(Codec, "slow_bytes", lambda self, interface, head, body: len(body) if slow else 0)

    def submit(self, work):
        raise RuntimeError("a bug")

    async def scenario(bench):
        connection, transport = bench.connect()
        with monkeypatch.context() as broken:
            broken.setattr(Held, "submit", submit)
            connection.data_received(post(b"s" * 70_000, "/infer"))
            await bench.settle()
        assert transport.statuses == [500]
        connection.data_received(post(b"1", "/infer"))
        bench.answer_all()
        assert transport.statuses == [500, 200]

    run(scenario)


def test_header_priority_and_deadline_reach_the_work_and_the_bodys_own_go_first():
    async def scenario(bench):
        connection, _ = bench.connect()
        connection.data_received(post(b"1", "/infer", "X-Request-Timeout-Ms: 500\r\nX-Request-Priority: 3\r\n"))
        (work,) = bench.executor.works
        assert (work.timeout_s, work.priority, work.trace) == (0.5, 3, None)

    run(scenario)


def test_trace_and_request_id_reach_the_work_and_the_answer():
    async def scenario(bench):
        connection, transport = bench.connect()
        for i in range(3):
            connection.data_received(post(b"1", "/infer", f"{PARENT}X-Request-Id: id-{i}\r\n"))
        assert {w.trace.parent_id for w in bench.executor.works} == {"b7ad6b7169203331"}
        assert len({w.trace.span_id for w in bench.executor.works}) == 3
        bench.answer_all()
        assert [h["x-request-id"] for _, h, _ in transport.answers] == ["id-0", "id-1", "id-2"]
        assert all(h["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-") for _, h, _ in transport.answers)
        connection.data_received(post(b"1", "/infer"))
        bench.answer_all()
        assert "x-request-id" not in transport.answers[-1][1]

    run(scenario)


def test_100_continue_waits_for_the_answers_before_it():
    expecting = post(b"2", "/infer", "Expect: 100-continue\r\n")[:-1]

    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(post(b"1", "/infer") + expecting)
        assert transport.sent == b""
        bench.answer_all()
        await bench.settle()
        assert transport.statuses == [200, 100]
        connection.data_received(b"2")
        bench.answer_all()
        assert transport.statuses == [200, 100, 200]

    run(scenario)


def test_the_client_that_left_is_forgotten_and_its_work_cancelled():
    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(post(b"1", "/infer") * 3)
        works = list(bench.executor.works)
        connection.connection_lost(None)
        assert all(w.cancelled for w in works)
        for work in works:
            work.reply([], 0, 1)
        assert transport.sent == b""
        assert not bench.front.connections
        assert bench.plane.connections == 0

    run(scenario)


def test_an_answer_given_twice_reaches_nobody_else():
    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(post(b"1", "/infer"))
        (first,) = bench.executor.works
        bench.answer_all()
        connection.data_received(post(b"2", "/infer"))
        first.reply(list(first.tensors), 0, 1)
        assert len(transport.answers) == 1
        bench.answer_all()
        assert [body for _, _, body in transport.answers] == [b"1", b"2"]

    run(scenario)


def closed_at(sent, seconds, **limits):
    """What a client has that sent this and then nothing for so long; sweeps come every second."""

    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(sent)
        now = perf_counter()
        for second in range(seconds + 1):
            bench.front.sweep(now + second)
            await bench.settle()
        return transport

    return run(scenario, **limits)


@pytest.mark.parametrize(
    ("sent", "deadline"), [(b"GET /echo HTTP/1.1\r\nHost:", 10), (post(b"ab")[:-1], 60), (chunked([b"ab"])[:-1], 60)]
)
def test_slow_heads_and_bodies_are_refused_by_their_deadline_and_not_before(sent, deadline):
    assert closed_at(sent, deadline - 3).sent == b""
    transport = closed_at(sent, deadline)
    assert transport.statuses == [408]
    assert transport.eof


def test_a_byte_now_and_then_does_not_move_the_deadline():
    async def scenario(bench):
        connection, transport = bench.connect()
        start = perf_counter()
        for second in range(10):
            connection.data_received(b"G")
            bench.front.sweep(start + second)
        bench.front.sweep(start + 10)
        assert transport.statuses == [408]
        bench.front.sweep(start + 13)
        assert transport.aborted

    run(scenario)


def test_a_request_that_the_replica_takes_long_for_is_not_the_clients_fault():
    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(post(b"1" * 600, "/infer") + b"POST /echo HTTP")
        now = perf_counter()
        for second in range(200):
            bench.front.sweep(now + second)
        bench.answer_all()
        await bench.settle()
        bench.front.sweep(perf_counter())
        assert transport.statuses == [200]
        assert not transport.closed

    run(scenario, big_body_bytes=500)


def test_a_drain_answers_every_request_that_was_taken_and_then_ends_the_connection():
    async def scenario(bench):
        connection, transport = bench.connect()
        one = b"POST /infer HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"
        connection.data_received(one + b"1" + one + b"2" + one + b"3" + one)
        bench.plane.draining = True
        bench.executor.works[0].reply(list(bench.executor.works.pop(0).tensors), 0, 1)
        connection.data_received(b"4" + one + b"5")
        assert len(bench.executor.works) == 2
        bench.answer_all(reversed)
        assert [body for _, _, body in transport.answers] == [b"1", b"2", b"3"]
        assert [headers.get("connection") for _, headers, _ in transport.answers] == [None, None, "close"]
        assert transport.closed
        assert not transport.aborted

    run(scenario)


def test_what_follows_a_request_that_closes_the_connection_is_neither_answered_nor_run():
    async def scenario(bench):
        connection, transport = bench.connect()
        one = b"POST /infer HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n"
        connection.data_received(one + b"Connection: close\r\n\r\n1" + one + b"\r\n2")
        first, second = bench.executor.works
        first.reply(list(first.tensors), 0, 1)
        assert second.cancelled
        second.reply(list(second.tensors), 0, 1)  # it ran at that moment
        assert [body for _, _, body in transport.answers] == [b"1"]
        assert not transport.aborted

    run(scenario)


def test_idle_connections_are_closed_and_sooner_in_a_drain():
    assert not closed_at(post(b"a"), 290).closed
    assert closed_at(post(b"a"), 302).closed

    async def scenario(bench):
        _, transport = bench.connect()
        bench.plane.draining = True
        bench.front.sweep(perf_counter() + 1)
        assert transport.closed

    run(scenario)


def test_the_limits_of_a_replica():
    limits = Limits()
    assert (limits.head_s, limits.body_s, limits.slow_reader_s, limits.idle_s) == (10, 60, 30, 300)
    assert (limits.max_head_bytes, limits.max_body_bytes) == (16 * 1024, 64 * 1024 * 1024)
    assert limits.max_unsent_bytes == 48 * 1024 * 1024


def test_errors_are_json_and_end_the_connection_only_where_framing_is_lost():
    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(get("/nothing") + post(b"x", "/infer") + get("/echo") + b"NONSENSE\r\n\r\n")
        assert transport.statuses == [404, 400, 200, 400]
        for status, headers, body in transport.answers:
            if status >= 400:
                assert set(json.loads(body)) == {"error"}
                assert headers["content-type"] == "application/json"
        assert ["connection" in h for _, h, _ in transport.answers] == [False, False, False, True]
        assert transport.eof

    run(scenario)


def test_a_bug_in_taking_a_request_costs_its_answer_and_not_the_connection(monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("nobody thought of it")

    async def scenario(bench):
        connection, transport = bench.connect()
        monkeypatch.setattr("tests.unit.serving.http.wire.Codec.decode", broken)
        connection.data_received(post(b"5", "/infer") + get("/echo"))
        assert transport.statuses == [500, 200]
        assert not transport.closed
        assert "nobody thought of it" in caplog.text

    run(scenario)


def test_a_request_by_http_begins_as_any_work():
    plan = Plan(rows=2, shape_key=("k",), timeout_s=0.5, priority=2)
    head = Head("POST", (), 0, True, False, False, NO_HEADER)
    own = HttpWork(plan, (), 1.0, 1.0, None, head, None, None)
    plain = Work(plan, (), 1.0)
    assert {name: getattr(own, name) for name in Work.__slots__} == {
        name: getattr(plain, name) for name in Work.__slots__
    }
