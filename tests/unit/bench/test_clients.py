"""The load's results: what counts as failed, and a rate by whole cycles."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.serving.clients import ClientFailed, _h2load_counts, cycles
from bench.serving.messages import Message, WrongAnswer, array_of, array_of_grpc, compare, message
from bench.serving.systems import JsonForm
from bench.serving.systems.ports import BINARY, GRPC, JSON

H2LOAD = """
finished in 1.00s, 90.00 req/s, 10KB/s
requests: 100 total, 100 started, {done} done, {succeeded} succeeded, {failed} failed, {errored} errored, 0 timeout
status codes: 90 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 12.3KB (12600) total, 1.1KB (1100) headers (space savings 95.00%), 8.8KB ({data}) data
"""


def h2load(done: int, succeeded: int, data: int, *, failed: int = 0, errored: int = 0) -> str:
    return H2LOAD.format(done=done, succeeded=succeeded, failed=failed, errored=errored, data=data)


def test_calls_whose_message_is_missing_are_failed() -> None:
    assert _h2load_counts(h2load(100, 100, 100 * 50), 50) == (100, 0)
    assert _h2load_counts(h2load(100, 100, 40 * 50), 50) == (40, 60)


def test_calls_that_h2load_calls_failed_are_failed() -> None:
    assert _h2load_counts(h2load(100, 95, 95 * 50, failed=3, errored=2), 50) == (95, 5)


def test_an_h2load_without_counts_is_no_result() -> None:
    with pytest.raises(ClientFailed):
        _h2load_counts("could not resolve host", 50)


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers every third request with an error where the path says so."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Answers.asked += 1
        status = 500 if self.path == "/third" and Answers.asked % 3 == 0 else 200
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Answers.asked = 0
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_client_of_cycles_counts_what_it_sent(tmp_path: Path, port: int) -> None:
    load = cycles(tmp_path, port, "/", [Message(b"a"), Message(b"b", {"X-Other": "1"})], 2, 0.2)
    assert load.failed == 0
    assert load.count == Answers.asked - 2  # the first request of each connection warms up
    assert load.rate > 0
    assert 0 < load.p50_ms <= load.p99_ms


def test_the_client_of_cycles_counts_errors(tmp_path: Path, port: int) -> None:
    load = cycles(tmp_path, port, "/third", [Message(b"a")], 1, 5)
    assert load.failed > 10  # and it gave up long before the time was over
    assert load.count < 60


@pytest.mark.parametrize("form", list(JsonForm))
def test_json_requests_are_of_their_form(form: JsonForm) -> None:
    sent = message({"x": np.ones((1, 3), np.float32)}, JSON, form, "mlp")
    wanted = b'{"x":[[1.0,1.0,1.0]]}' if form is JsonForm.FIELDS else b'"shape":[1,3]'
    assert wanted in sent.body
    assert sent.headers == {"Content-Type": "application/json"}


def test_a_binary_request_carries_its_header_length() -> None:
    sent = message({"x": np.ones((1, 3), np.float32)}, BINARY, JsonForm.OIP, "mlp")
    length = int(sent.headers["Inference-Header-Content-Length"])
    assert sent.body[length:] == np.ones((1, 3), np.float32).tobytes()


def test_a_grpc_request_asks_for_no_version() -> None:
    from tritonclient.grpc import service_pb2

    sent = message({"x": np.ones((1, 3), np.float32)}, GRPC, JsonForm.OIP, "mlp")
    request = service_pb2.ModelInferRequest.FromString(sent.body)
    assert (request.model_name, request.model_version) == ("mlp", "")


def test_answers_of_all_forms_are_read() -> None:
    wanted = np.array([1.5, -2], np.float32)
    oip = b'{"outputs":[{"name":"y","data":[1.5,-2]}]}'
    assert (array_of(oip, {}, JsonForm.OIP) == wanted).all()
    assert (array_of(b'{"y":[[1.5,-2]]}', {}, JsonForm.FIELDS) == wanted).all()
    assert (array_of(b"[[1.5,-2]]", {}, JsonForm.FIELDS) == wanted).all()
    binary = b"{}" + wanted.tobytes()
    assert (array_of(binary, {"inference-header-content-length": "2"}, JsonForm.OIP) == wanted).all()


def test_grpc_answers_are_read_raw_or_typed() -> None:
    from tritonclient.grpc import service_pb2

    wanted = np.array([1.5, -2], np.float32)
    raw = service_pb2.ModelInferResponse(raw_output_contents=[wanted.tobytes()])
    assert (array_of_grpc(raw.SerializeToString()) == wanted).all()
    typed = service_pb2.ModelInferResponse()
    typed.outputs.add(name="y").contents.fp32_contents.extend([1.5, -2])
    assert (array_of_grpc(typed.SerializeToString()) == wanted).all()


@pytest.mark.parametrize("found", [[1.0, 2.1], [1.0], [1.0, float("nan")]])
def test_a_wrong_answer_is_found(found: list[float]) -> None:
    with pytest.raises(WrongAnswer):
        compare(np.array(found, np.float32), np.array([1, 2], np.float32))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"outputs":[]}', b'{"outputs":[{"data":["a"]}]}'])
def test_an_answer_without_output_is_a_wrong_answer(body: bytes) -> None:
    with pytest.raises(WrongAnswer):
        array_of(body, {}, JsonForm.OIP)


@pytest.mark.parametrize("body", [b"", b"\xff\xff"])
def test_a_grpc_answer_without_output_is_a_wrong_answer(body: bytes) -> None:
    with pytest.raises(WrongAnswer):
        array_of_grpc(body)
