"""What clients together can make a front hold: connections, large bodies, answers that nobody reads."""

from __future__ import annotations

import gzip
import json
from time import perf_counter

from modelyard.serving.http import limits as limits_module
from modelyard.serving.http.connection import _TURN_S
from modelyard.serving.http.limits import connection_ends
from tests.unit.serving.http.wire import get, post, run

MIB = 1024 * 1024


def stuck(connection, transport, size):
    transport.stuck = size
    connection.pause_writing()


def test_connections_above_the_limit_get_503_and_then_a_reset():
    async def scenario(bench):
        kept = [bench.connect()[1] for _ in range(3)]
        turned = [bench.connect()[1] for _ in range(70)]
        assert all(t.statuses == [503] and t.eof for t in turned[:64])
        assert turned[0].answers[0][1]["retry-after"] == "1"
        assert all(t.aborted and not t.sent for t in turned[64:])
        assert not any(t.sent or t.closed for t in kept)
        bench.front.sweep(perf_counter() + 3)
        await bench.settle()
        assert bench.plane.connections == 3
        kept[0].close()
        await bench.settle()
        connection, transport = bench.connect()
        connection.data_received(get("/echo"))
        assert transport.statuses == [200]

    run(scenario, max_connections=3)


def test_the_limit_leaves_descriptors_for_everything_else(monkeypatch):
    for soft, allowed in ((1024, 720), (20_000, 14_952), (1_000_000, 16_384), (10, 1)):
        monkeypatch.setattr(limits_module.resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert limits_module.connections_possible() == allowed


def test_a_client_that_does_not_read_is_given_no_further_answers():
    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(get("/size/100"))
        stuck(connection, transport, 100_000)
        assert not transport.reading
        connection.data_received(get("/size/100"))
        assert len(transport.answers) == 1
        connection.resume_writing()
        await bench.settle()
        assert transport.reading
        assert len(transport.answers) == 2
        assert bench.front.unsent.bytes == 0

    run(scenario)


def test_nothing_is_read_while_the_buffer_holds_whole_requests():
    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(post(b"1" * 600, "/infer") * 4 + b"POST")
        for _ in range(4):
            assert not transport.reading
            assert len(bench.executor.works) == 1
            bench.answer_all()
            assert not transport.reading
            await bench.settle()
        assert transport.reading

    run(scenario, big_body_bytes=500)


def test_a_client_that_pipelines_dear_requests_shares_the_loop():
    async def scenario(bench):
        greedy, answers = bench.connect()
        other, answer = bench.connect()
        greedy.data_received(get("/spin/2") * 10)
        assert len(answers.answers) == 1
        assert not answers.reading
        other.data_received(get("/echo"))
        assert answer.statuses == [200]
        for _ in range(12):
            await bench.settle()
        assert answers.statuses == [200] * 10
        assert answers.reading

    run(scenario, turn_s=_TURN_S)


def test_a_client_that_does_not_read_is_closed_by_its_deadline():
    async def scenario(bench):
        connection, transport = bench.connect()
        stuck(connection, transport, 100_000)
        now = perf_counter()
        for second in range(28):
            bench.front.sweep(now + second)
        assert not transport.closed
        for second in range(28, 31):
            bench.front.sweep(now + second)
        assert transport.aborted

    run(scenario)


def test_a_large_answer_has_more_time():
    async def scenario(bench):
        connection, transport = bench.connect()
        stuck(connection, transport, 20 * MIB)
        bench.front.sweep(perf_counter() + 80)
        assert not transport.closed
        bench.front.sweep(perf_counter() + 91)
        assert transport.aborted

    run(scenario)


def test_of_too_many_unread_bytes_the_connection_stuck_longest_goes():
    async def scenario(bench):
        clients = [bench.connect() for _ in range(4)]
        for connection, transport in clients[:3]:
            stuck(connection, transport, 30)
        assert bench.front.unsent.bytes == 90
        stuck(*clients[3], 30)
        assert clients[0][1].aborted
        assert [t.aborted for _, t in clients[1:]] == [False] * 3
        assert bench.front.unsent.bytes == 90

    run(scenario, max_unsent_bytes=100, unsent_grace_s=0.0)


def test_a_burst_may_exceed_the_bound_for_a_moment_but_not_four_times():
    async def scenario(bench):
        clients = [bench.connect() for _ in range(20)]
        for connection, transport in clients:
            stuck(connection, transport, 30)
        assert bench.front.unsent.bytes <= 400
        assert sum(t.aborted for _, t in clients) == 7

    run(scenario, max_unsent_bytes=100, unsent_grace_s=60.0)


def test_one_answer_larger_than_the_bound_is_sent():
    async def scenario(bench):
        connection, transport = bench.connect()
        stuck(connection, transport, 5000)
        assert not transport.aborted

    run(scenario, max_unsent_bytes=100, unsent_grace_s=0.0)


def test_large_bodies_are_bounded_together_and_freed_with_their_answers():
    part = post(b"1" * 900, "/infer")[:-100]

    async def scenario(bench):
        clients = [bench.connect() for _ in range(3)]
        for connection, _ in clients:
            connection.data_received(part)
        assert [t.statuses for _, t in clients] == [[], [], [429]]
        assert "retry-after" in clients[2][1].answers[0][1]
        assert (bench.plane.refused_requests, bench.plane.bad_requests) == (1, 0)
        for connection, _ in clients[:2]:
            connection.data_received(b"1" * 100)
        assert bench.front.held_bytes > 1000
        bench.answer_all()
        await bench.settle()
        assert [t.statuses for _, t in clients[:2]] == [[200], [200]]
        assert bench.front.held_bytes == 0
        connection, transport = bench.connect()
        connection.data_received(part)
        assert bench.front.held_bytes > 0
        connection.connection_lost(None)
        assert bench.front.held_bytes == 0
        assert transport.sent == b""

    run(scenario, big_body_bytes=500, max_held_bytes=2000)


def test_what_a_compressed_body_unfolds_to_counts_too():
    async def scenario(bench):
        connection, transport = bench.connect()
        connection.data_received(post(gzip.compress(bytes(300_000)), extra="Content-Encoding: gzip\r\n"))
        await bench.settle()
        (answer,) = transport.answers
        assert answer[0] == 429
        assert "large request bodies" in json.loads(answer[2])["error"]
        assert (bench.plane.refused_requests, bench.plane.bad_requests) == (1, 0)
        assert bench.front.held_bytes == 0
        connection.data_received(post(b"usable"))
        assert transport.answers[1][2] == b"usable"

    run(scenario, max_held_bytes=100_000, big_body_bytes=50_000)


def test_an_old_connection_of_a_shared_port_ends_with_an_answer_that_nothing_is_behind():
    async def scenario(bench):
        connection, transport = bench.connect()
        bench.front.sweep(perf_counter() + 4)
        connection.data_received(post(b"1", "/infer"))
        bench.answer_all()
        assert "Connection: close" not in transport.text
        bench.front.sweep(perf_counter() + 16)
        assert not transport.closed  # idle: its client may be sending now
        connection.data_received(post(b"2", "/infer") + post(b"3", "/infer"))
        bench.answer_all()
        assert transport.statuses == [200, 200, 200]
        head, _, last = transport.text.rpartition("HTTP/1.1 200")
        assert "Connection: close" in last
        assert "Connection: close" not in head
        assert transport.closed

    run(scenario, shared_s=10.0)


def test_a_connection_of_a_port_that_is_not_shared_lives_on():
    async def scenario(bench):
        connection, transport = bench.connect()
        bench.front.sweep(perf_counter() + 250)
        connection.data_received(post(b"1", "/infer"))
        bench.answer_all()
        assert transport.statuses == [200]
        assert "Connection: close" not in transport.text
        assert not transport.closed

    run(scenario)


def test_of_very_many_connections_few_end_per_second():
    ends = [connection_ends(7.0, 10.0, 5000) - 7.0 for _ in range(200)]
    assert 50 <= min(ends) < max(ends) <= 150
