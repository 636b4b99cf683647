"""HTTP/1.1 by raw sockets: framing, order, limits, bad input, clients that leave."""

from __future__ import annotations

import json
import time

import pytest

from modelyard.domain.configuration import QueuePolicy
from tests.serving_harness import replica, scripted, until

BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}).encode()
PATH = "/v2/models/m/infer"


def post(body=BODY, path=PATH, extra=""):
    return f"POST {path} HTTP/1.1\r\nHost: h\r\n{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(parts, path=PATH):
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


class Wire:
    """A raw connection that reads whole responses."""

    def __init__(self, server):
        self.socket = server.connect()
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def response(self):
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        status = int(lines[0].split()[1])
        length = int(headers.get("content-length", 0))
        while len(self.buffer) < length:
            self._more()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return status, headers, body

    def _more(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(self.buffer)
        self.buffer += data

    @property
    def closed(self):
        try:
            return self.socket.recv(65536) == b""
        except ConnectionResetError:
            return True


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("http")
    (directory / "gate").touch()  # open while the models warm up
    models = (
        scripted("scale"),
        scripted("poison", name="poison"),
        scripted("short", name="short"),
        scripted("gate", name="gate", gate=directory / "gate", batch=4, journal=directory / "journal"),
    )
    with replica(directory, *models, max_body_bytes=1_000_000) as running:
        running.files |= {"gate": directory / "gate", "journal": directory / "journal"}
        yield running
        running.files["gate"].touch()


@pytest.fixture
def wire(server):
    with Wire(server) as connection:
        yield connection


def doubled(response):
    status, _, body = response
    assert status == 200, body
    return json.loads(body)["outputs"][0]["data"]


def test_a_connection_serves_many_requests(wire):
    for _ in range(3):
        wire.send(post())
        assert doubled(wire.response()) == [2, 4, 6, 8]


def test_pipelined_requests_are_answered_in_order(wire):
    bodies = [BODY.replace(b"[1, 2, 3, 4]", b"[%d, 0, 0, 0]" % i) for i in range(200)]
    kinds = [post(b) if i % 3 else chunked([b[:7], b[7:]]) for i, b in enumerate(bodies)]
    kinds[5] = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"
    wire.send(b"".join(kinds))
    for i in range(200):
        if i == 5:
            assert wire.response()[0] == 200
        else:
            assert doubled(wire.response())[0] == 2 * i


def test_order_holds_when_a_later_request_is_ready_first(server, wire):
    large = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [5000, 4], "data": [1.5] * 20000}]}
    ).encode()
    wire.send(post(large) + post())
    status, _, body = wire.response()
    assert status == 200
    assert len(json.loads(body)["outputs"][0]["data"]) == 20000
    assert doubled(wire.response()) == [2, 4, 6, 8]


@pytest.mark.parametrize("step", [1, 7, 50])
def test_a_request_may_come_in_pieces(wire, step):
    data = post() + chunked([BODY[:3], BODY[3:]])
    for i in range(0, len(data), step):
        wire.send(data[i : i + step])
    assert doubled(wire.response()) == [2, 4, 6, 8]
    assert doubled(wire.response()) == [2, 4, 6, 8]


def test_expect_100_continue_is_answered_before_the_body(wire):
    head, _, body = post(extra="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    wire.send(head + b"\r\n\r\n")
    assert wire.response()[0] == 100
    wire.send(body)
    assert doubled(wire.response()) == [2, 4, 6, 8]


def test_a_body_over_the_limit_is_refused_before_it_is_sent(wire):
    wire.send(b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 10737418240\r\n\r\n" % PATH.encode())
    status, headers, body = wire.response()
    assert status == 413
    assert headers["connection"] == "close"
    error = json.loads(body)["error"]
    assert "1000000 bytes (0.954 MiB)" in error
    assert "fewer rows per request" in error
    assert "max_body_bytes" not in error


def test_a_chunked_body_over_the_limit_is_refused(wire):
    wire.send(b"POST %b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH.encode())
    sent = 0
    try:
        while sent < 4_000_000:
            wire.send(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
            sent += 0x8000
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert wire.response()[0] == 413


def test_a_million_tiny_chunks_cost_little_memory(server, wire):
    def resident():
        lines = server.get("/metrics").body.decode().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("modelyard_process_resident")))

    before = resident()
    wire.send(b"POST %b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH.encode())
    wire.send(b"1\r\nx\r\n" * 300_000)
    wire.send(b"0\r\n\r\n")
    assert wire.response()[0] == 400
    assert resident() - before < 8 * 1024 * 1024


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v2 HTTP/9.9\r\nHost: h\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost : h\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nHost: h\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n",
    ],
)
def test_malformed_requests_are_refused_and_the_connection_closed(server, wire, data):
    wire.send(data)
    status, headers, body = wire.response()
    assert status == 400
    assert headers["connection"] == "close"
    assert "error" in json.loads(body)
    assert wire.closed
    assert server.get("/v2/health/live").status == 200


def test_a_huge_head_is_refused(wire):
    wire.send(b"GET /v2 HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 4000)
    assert wire.response()[0] == 431


def test_answers_before_a_malformed_request_are_still_sent(wire):
    wire.send(post() + b"NONSENSE\r\n\r\n")
    assert doubled(wire.response()) == [2, 4, 6, 8]
    assert wire.response()[0] == 400


@pytest.mark.parametrize(
    ("extra", "status", "word"),
    [
        ("Content-Encoding: br\r\n", 415, "br"),
        ("Content-Encoding: gzip, gzip\r\n", 415, "gzip"),
        ("Content-Encoding: gzip\r\n", 400, "gzip"),
        ("Expect: miracles\r\n", 417, "miracles"),
        ("Inference-Header-Content-Length: x\r\n", 400, "Inference-Header-Content-Length"),
        ("X-Request-Timeout-Ms: soon\r\n", 400, "X-Request-Timeout-Ms"),
        ("X-Request-Priority: -1\r\n", 400, "X-Request-Priority"),
    ],
)
def test_a_well_framed_request_that_cannot_be_served_leaves_the_connection_usable(wire, extra, status, word):
    wire.send(post(extra=extra) + post())
    answer = wire.response()
    assert answer[0] == status
    assert word in json.loads(answer[2])["error"]
    assert doubled(wire.response()) == [2, 4, 6, 8]


def test_an_expectation_that_cannot_be_met_is_answered_without_the_body(wire):
    wire.send(post(extra="Expect: miracles\r\n").partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    assert wire.response()[0] == 417


def test_http_10_and_connection_close(server):
    with Wire(server) as wire:
        wire.send(b"GET /v2 HTTP/1.0\r\n\r\n")
        status, headers, _ = wire.response()
        assert (status, headers["connection"]) == (200, "close")
        assert wire.closed
    with Wire(server) as wire:
        wire.send(b"GET /v2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
        assert [wire.response()[1]["connection"] for _ in range(2)] == ["keep-alive"] * 2
    with Wire(server) as wire:
        wire.send(post(extra="Connection: close\r\n"))
        assert wire.response()[1]["connection"] == "close"
        assert wire.closed


def test_head_options_and_absolute_targets(wire):
    wire.send(b"OPTIONS /v2 HTTP/1.1\r\nHost: h\r\n\r\nGET http://h/v2 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert wire.response()[1]["allow"] == "GET, HEAD, OPTIONS"
    assert json.loads(wire.response()[2])["name"] == "modelyard"
    wire.send(b"HEAD /v2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    until(lambda: wire.closed, "the response to HEAD ends")


def test_clients_that_leave_harm_no_batch_mate_and_do_not_reach_the_model(server):
    gate, journal = server.files["gate"], server.files["journal"]
    path = "/v2/models/gate/infer"
    gate.unlink()
    journal.unlink()
    with Wire(server) as running, Wire(server) as staying:
        running.send(post(path=path))
        until(lambda: journal.exists() and journal.read_text(), "the first request runs")
        leaving = [Wire(server) for _ in range(3)]
        for one in leaving:
            one.send(post(path=path))
        staying.send(post(path=path))
        until(lambda: server.held("gate") == 5, "all requests are held")
        for one in leaving:
            one.socket.close()
        until(lambda: "modelyard_connections 3" in server.get("/metrics").body.decode(), "the leavers are noticed")
        gate.touch()
        assert running.response()[0] == 200
        assert staying.response()[0] == 200
    assert sum(map(int, journal.read_text().split())) == 2


def test_a_poison_request_hurts_only_itself_over_http(server):
    connections = [Wire(server) for _ in range(6)]
    for i, connection in enumerate(connections):
        value = b"666" if i == 3 else b"%d" % i
        connection.send(post(BODY.replace(b"[1, 2, 3, 4]", b"[%b, 0, 0, 0]" % value), "/v2/models/poison/infer"))
    answers = [c.response() for c in connections]
    assert [status for status, _, _ in answers] == [200, 200, 200, 500, 200, 200]
    assert "poisoned" in json.loads(answers[3][2])["error"]
    assert [doubled(a)[0] for i, a in enumerate(answers) if i != 3] == [0, 1, 2, 4, 5]


def test_a_model_that_loses_rows_is_an_error_for_that_request_only(server):
    assert server.infer([1] * 8, [2, 4], model="short").status == 500
    assert server.infer([1] * 4, model="short").status == 200


def test_a_full_queue_answers_429_with_a_time_and_recovers(tmp_path):
    gate = tmp_path / "gate"
    model = scripted("gate", gate=gate, batch=1, queue=QueuePolicy(max_requests=2))
    gate.touch()
    with replica(tmp_path / "r", model) as server:
        gate.unlink()
        accepted = [Wire(server) for _ in range(3)]
        for i, connection in enumerate(accepted):
            connection.send(post())
            until(lambda n=i + 1: server.held() == n, "the request is held")
        answer = server.infer([1, 2, 3, 4])
        assert answer.status == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert "overloaded" in answer.json["error"]
        gate.touch()
        assert [c.response()[0] for c in accepted] == [200] * 3
        assert server.infer([1, 2, 3, 4]).status == 200
        refused = server.get("/stats").json["models"][0]["refused"]
        assert refused["queue-full"] == 1


def test_slow_heads_and_bodies_are_closed_and_others_served(tmp_path):
    with replica(tmp_path, scripted("scale")) as server, Wire(server) as slow:
        slow.send(b"GET /v2 HTTP/1.1\r\nHost:")
        started = time.monotonic()
        assert server.infer([1, 2, 3, 4]).status == 200
        assert slow.response()[0] == 408
        assert time.monotonic() - started < 14
        assert slow.closed
