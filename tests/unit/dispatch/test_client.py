"""The inference client against a scripted HTTP server, and the codec against itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from modelyard.dispatch import InferenceClient, infer, metadata, v2
from modelyard.domain.errors import (
    BackendFailed,
    Conflict,
    InvalidInput,
    ModelyardError,
    NotFound,
    Rejected,
    Unavailable,
    Unsupported,
)
from modelyard.domain.tensors import Datatype, Signature, Tensor, TensorSpec

X = {"x": np.array([[1.0, 2.0]], np.float32)}


@dataclass
class Script:
    """What the server answers, and what it was asked."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    hang_up: bool = False
    echo: bool = False
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)
    url: str = ""


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.asked.append((self.command, self.path, dict(self.headers), body))
            script.connections.add(self.client_address)
            content, headers = script.body, dict(script.headers)
            if script.echo:  # a request's body is a response's, but for one word
                content = body.replace(b'{"inputs"', b'{"outputs"', 1)
                if v2.HEADER_LENGTH in self.headers:
                    headers[v2.HEADER_LENGTH] = str(int(self.headers[v2.HEADER_LENGTH]) + 1)
            self.send_response(script.status)
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            if script.hang_up:
                self.close_connection = True

        do_GET = do_POST = handle_any  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield script
    server.shutdown()
    server.server_close()
    thread.join()


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from(list(Datatype)))
    shape = draw(npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    if datatype is Datatype.BYTES:
        array = np.empty(shape, np.object_)
        for index in np.ndindex(*shape):
            array[index] = draw(st.binary(max_size=8))
        return array
    return draw(npst.arrays(datatype.numpy, shape))


def as_response(body: bytes, head_length: int | None) -> dict[str, Tensor]:
    grown = None if head_length is None else head_length + 1
    return v2.decode_response(body.replace(b'{"inputs"', b'{"outputs"', 1), grown)


@given(st.dictionaries(st.text(min_size=1, max_size=3), tensors(), min_size=1, max_size=3))
def test_binary_tensors_come_back_bit_for_bit(sent: dict[str, Tensor]) -> None:
    got = as_response(*v2.encode_request(sent))
    assert list(got) == list(sent)
    for name, tensor in sent.items():
        assert got[name].dtype == tensor.dtype
        assert got[name].shape == tensor.shape
        assert (
            got[name].tolist() == tensor.tolist()
            if tensor.dtype == object
            else (got[name].tobytes() == np.ascontiguousarray(tensor).tobytes())
        )


@given(npst.arrays(np.float32, (2, 3), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_json_tensors_come_back_bit_for_bit(sent: Tensor) -> None:
    got = as_response(*v2.encode_request({"x": sent}, binary=False))["x"]
    assert got.tobytes() == sent.tobytes()


def test_strings_travel_as_utf8_bytes() -> None:
    sent = {"text": np.array([["grün", "b"]])}
    for binary in (True, False):
        assert as_response(*v2.encode_request(sent, binary=binary))["text"].tolist() == [["grün".encode(), b"b"]]


def test_json_refuses_what_it_cannot_carry() -> None:
    for tensor in (np.array([np.nan]), np.array([b"\xff"], object)):
        with pytest.raises(InvalidInput):
            v2.encode_request({"x": tensor}, binary=False)


@pytest.mark.parametrize(
    ("body", "head_length"),
    [
        (b"not json", None),
        (b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1.0]}]}', None),
        (b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1]}]}', None),
        (b'{"outputs":[{"name":"y","datatype":"FP99","shape":[1],"data":[1]}]}', None),
        (b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}ab', 86),
        (
            b'{"outputs":[{"name":"y","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":4}}]}'
            b"\x09\x00\x00\x00",
            88,
        ),
    ],
)
def test_a_broken_answer_is_the_services_failure(body: bytes, head_length: int | None) -> None:
    if head_length:
        head_length = body.index(b"]}", body.index(b"}")) + 2
    with pytest.raises(BackendFailed, match="breaks the protocol"):
        v2.decode_response(body, head_length)


def test_infer_asks_for_a_version_and_reads_binary_tensors(script: Script) -> None:
    script.echo = True
    assert infer(script.url, "a model", X, version=3)["x"].tolist() == [[1.0, 2.0]]
    method, path, headers, body = script.asked[0]
    assert (method, path) == ("POST", "/v2/models/a%20model/versions/3/infer")
    head = json.loads(body[: int(headers[v2.HEADER_LENGTH])])
    assert head["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]
    assert head["parameters"] == {"binary_data_output": True}


def test_infer_reads_json_tensors_too(script: Script) -> None:
    script.body = b'{"outputs":[{"name":"y","datatype":"INT64","shape":[2,1],"data":[[7],[8]]}]}'
    answer = infer(script.url, "m", X)["y"]
    assert (answer.dtype, answer.tolist()) == (np.int64, [[7], [8]])


def test_one_connection_serves_many_calls_and_is_renewed_when_the_service_closed_it(script: Script) -> None:
    script.echo = True
    with InferenceClient(script.url) as client:
        for _ in range(3):
            client.infer("m", X)
        assert len(script.connections) == 1
        script.hang_up = True
        for _ in range(3):
            client.infer("m", X)
    assert len(script.asked) == 6
    assert len(script.connections) > 1


def test_metadata_becomes_a_signature(script: Script) -> None:
    tensors = [{"name": "ids", "datatype": "INT64", "shape": [-1, -1, 4]}]
    script.body = json.dumps({"name": "m", "versions": ["1"], "inputs": tensors, "outputs": tensors}).encode()
    spec = TensorSpec("ids", Datatype.INT64, ("batch", "ids_1", 4))
    assert metadata(script.url, "m") == Signature((spec,), (spec,))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidInput),
        (401, Rejected),
        (404, NotFound),
        (409, Conflict),
        (413, InvalidInput),
        (429, Unavailable),
        (500, BackendFailed),
        (501, Unsupported),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
def test_a_status_is_an_error_with_the_services_words(script: Script, status: int, kind: type[ModelyardError]) -> None:
    script.status, script.body = status, b'{"error":"its words"}'
    with pytest.raises(ModelyardError) as caught:
        infer(script.url, "m", X)
    assert (type(caught.value), caught.value.what) == (kind, "its words")


def test_an_unknown_model_is_not_found_in_tritons_words_too(script: Script) -> None:
    script.status, script.body = 400, b'{"error":"Request for unknown model: \'m\' is not found"}'
    with pytest.raises(NotFound):
        infer(script.url, "m", X)


@pytest.mark.parametrize(("header", "seconds"), [("2", 2.0), ("0.25", 0.25), ("soon", None), ("nan", None)])
def test_retry_after_is_passed_on(script: Script, header: str, seconds: float | None) -> None:
    script.status, script.headers = 429, {"Retry-After": header}
    with pytest.raises(Unavailable) as caught:
        infer(script.url, "m", X)
    assert caught.value.retry_after_s == seconds


def test_an_endpoint_nobody_listens_at_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="cannot reach"):
        infer("http://127.0.0.1:1", "m", X)


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://h", "http://h:port", "http://"])
def test_what_is_no_url_is_invalid(url: str) -> None:
    with pytest.raises(InvalidInput, match="not an endpoint"):
        InferenceClient(url)
