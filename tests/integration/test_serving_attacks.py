"""Rows T13-T16 of the fault table, small enough for every test run; `bench/attacks.py` has them at full size."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import zlib
from pathlib import Path

import pytest

from tests.integration.test_serving_http import PATH, Wire, doubled, post
from tests.serving_harness import replica, scripted, until

MIB = 1024 * 1024
CHUNKED = b"POST %b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH.encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with replica(tmp_path_factory.mktemp("attacks"), scripted("scale"), grpc_port=None) as running:
        assert running.infer([1, 2, 3, 4]).status == 200
        yield running


def resident(server):
    text = Path(f"/proc/{server.process.pid}/statm").read_text()
    return int(text.split()[1]) * resource.getpagesize()


def connections(server):
    lines = server.get("/metrics").body.decode().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("modelyard_connections ")))


@contextlib.contextmanager
def many(server, number):
    wires = [Wire(server) for _ in range(number)]
    try:
        yield wires
    finally:
        for wire in wires:
            wire.socket.close()


def test_half_sent_requests_take_nothing_from_honest_clients(server):
    with many(server, 200) as slow:
        for i, wire in enumerate(slow):
            wire.send(post()[: 10 + i] if i % 2 else post()[:-1])
        assert connections(server) == 201
        for _ in range(50):
            assert server.infer([1, 2, 3, 4]).json["outputs"][0]["data"] == [2, 4, 6, 8]
    until(lambda: connections(server) == 1, "the slow ones are gone")


def test_clients_that_never_read_hold_a_bounded_amount(server):
    before = resident(server)
    with many(server, 50) as stuck:
        for wire in stuck:
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.socket.setblocking(False)
            sent = 0
            while sent < MIB:
                try:
                    sent += wire.socket.send(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n" * 100)
                except BlockingIOError:
                    break
        assert server.infer([1, 2, 3, 4]).status == 200
        assert resident(server) - before < 64 * MIB
    until(lambda: connections(server) == 1, "they are gone")


def test_ten_gib_declared_are_refused_before_any_of_them_is_read(server):
    with Wire(server) as wire:
        wire.send(b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 10737418240\r\n\r\n" % PATH.encode())
        assert wire.response()[0] == 413


def test_bodies_of_very_many_tiny_chunks_are_refused_early(server):
    before = resident(server)
    with many(server, 20) as wires:
        for wire in wires:
            wire.send(CHUNKED)
            with contextlib.suppress(OSError):
                wire.send(b"1\r\n1\r\n" * 20_000)
        for wire in wires:
            status, _, body = wire.response()
            assert status == 400
            assert "chunks" in json.loads(body)["error"]
    assert resident(server) - before < 8 * MIB


def test_a_bomb_is_refused_and_the_connection_goes_on(server):
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(stream.compress(bytes(MIB)) for _ in range(256)) + stream.flush()
    server.request("POST", PATH, bomb[:1000], Content_Encoding="gzip")
    before = resident(server)
    with Wire(server) as wire:
        wire.send(post(bomb, extra="Content-Encoding: gzip\r\n") + post())
        status, _, body = wire.response()
        assert status == 413
        assert "unfolds" in json.loads(body)["error"]
        assert doubled(wire.response()) == [2, 4, 6, 8]
    assert resident(server) - before < 32 * MIB


def test_running_out_of_descriptors_ends_nothing(tmp_path):
    with replica(tmp_path, scripted("scale"), grpc_port=None) as server, Wire(server) as kept:
        kept.send(post())
        assert doubled(kept.response()) == [2, 4, 6, 8]
        fds = sum(1 for _ in Path(f"/proc/{server.process.pid}/fd").iterdir())
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (fds + 5, hard))
        crowd = []
        try:
            for _ in range(60):
                with contextlib.suppress(OSError):
                    crowd.append(socket.create_connection(("127.0.0.1", server.http_port), timeout=5))
            kept.send(post())
            assert doubled(kept.response()) == [2, 4, 6, 8]
        finally:
            for one in crowd:
                one.close()

        def served():
            with contextlib.suppress(OSError):
                return server.infer([1, 2, 3, 4]).status == 200

        until(served, "new connections are taken again")
        assert server.process.poll() is None
