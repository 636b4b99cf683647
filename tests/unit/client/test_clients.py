"""What every client does (blocking, asyncio, asyncio on uvloop), against a server that follows a script."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelyard.client import NO_RETRIES, Client, Refused, RetryPolicy, Timing, Tls, TransportOptions, Unreached
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
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from tests.unit.client.scripted import (
    GOOD,
    HANG_UP,
    RESET,
    SILENCE,
    Asked,
    Server,
    X,
    Y,
    answer,
    body_of,
    echo,
    head_of,
    response,
    serving,
)


class Time:
    """Time and chance by hand: waiting passes at once and is written down."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits: list[float] = []
        self.timing = Timing(clock=lambda: self.now, random=lambda: 0.5, sleep=self._sleep, pause=self._pause)

    def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    async def _pause(self, seconds: float) -> None:
        self._sleep(seconds)


# --- what is asked


def test_an_inference_is_asked_for_in_binary_with_its_deadline(driver: Any, server: Server) -> None:
    server.script = [echo]
    client = driver.client(server.url, headers={"Authorization": "Bearer t"})
    got = client.infer("a model/ü", X, version=3, timeout_s=2.5, priority=1, headers={"traceparent": "00-1"})
    assert got["x"].tolist() == [[1.0, 2.0]]
    [asked] = server.asked
    assert (asked.method, asked.path) == ("POST", "/v2/models/a%20model%2F%C3%BC/versions/3/infer")
    assert asked.json["parameters"] == {"binary_data_output": True, "priority": 1}
    assert asked.headers["x-request-timeout-ms"] == "2500"
    assert asked.headers["content-type"] == "application/octet-stream"
    assert (asked.headers["authorization"], asked.headers["traceparent"]) == ("Bearer t", "00-1")
    assert asked.headers["host"] == server.url.removeprefix("http://")


def test_an_inference_may_be_all_json(driver: Any, server: Server) -> None:
    server.script = [answer(Y, id="7")]
    got = driver.client(server.url).infer("m", X, binary=False, label="stable", request_id="7")
    assert (got["y"].tolist(), got.model, got.version, got.id) == ([0.5], "m", "1", "7")
    [asked] = server.asked
    assert asked.path == "/v2/models/m/labels/stable/infer"
    assert asked.headers["content-type"] == "application/json"
    assert json.loads(asked.body) == {
        "id": "7",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}],
    }


def test_a_large_tensor_travels_both_ways(driver: Any, server: Server) -> None:
    server.script = [echo]
    sent = np.random.default_rng(0).standard_normal((3, 1_000_000)).astype(np.float32)
    client = driver.client(server.url)
    for _ in range(2):
        got = client.infer("m", {"x": sent, "y": sent[:1]})
        np.testing.assert_array_equal(got["x"], sent)
    assert server.connections == 1


def test_bodies_are_compressed_where_asked(driver: Any, server: Server) -> None:
    def packed(asked: Asked) -> bytes:
        plain = echo(Asked(asked.method, asked.path, asked.headers, gzip.decompress(asked.body)))
        length = str(int(asked.headers["inference-header-content-length"]) + 1)
        return response(gzip.compress(body_of(plain)), Content_Encoding="gzip", Inference_Header_Content_Length=length)

    server.script = [packed]
    options = TransportOptions(compress_requests=True, compress_responses=True)
    sent = np.zeros((4, 1000), np.float32)
    got = driver.client(server.url, transport=options).infer("m", {"x": sent})
    np.testing.assert_array_equal(got["x"], sent)
    [asked] = server.asked
    assert (asked.headers["content-encoding"], asked.headers["accept-encoding"]) == ("gzip", "gzip")
    assert len(asked.body) < 500


def test_small_bodies_are_not_compressed(driver: Any, server: Server) -> None:
    driver.client(server.url, transport=TransportOptions(compress_requests=True)).infer("m", X)
    assert "content-encoding" not in server.asked[0].headers


CALLS: list[tuple[Callable[[Any], Any], str, str, object]] = [
    (lambda c: c.live(), "GET", "/v2/health/live", None),
    (lambda c: c.ready(), "GET", "/v2/health/ready", None),
    (lambda c: c.model_ready("m", version=2), "GET", "/v2/models/m/versions/2/ready", None),
    (lambda c: c.load("m"), "POST", "/v2/repository/models/m/load", {}),
    (
        lambda c: c.load("m", parameters={"config": "{}"}),
        "POST",
        "/v2/repository/models/m/load",
        {"parameters": {"config": "{}"}},
    ),
    (lambda c: c.unload("m"), "POST", "/v2/repository/models/m/unload", {}),
    (
        lambda c: c.unload("m", dependents=True),
        "POST",
        "/v2/repository/models/m/unload",
        {"parameters": {"unload_dependents": True}},
    ),
]


@pytest.mark.parametrize(("call", "method", "path", "body"), CALLS)
def test_other_calls_ask_as_the_protocol_says(
    driver: Any, server: Server, call: Callable[[Any], Any], method: str, path: str, body: object
) -> None:
    server.script = [response(b"")]
    assert call(driver.client(server.url)) in (True, None)
    [asked] = server.asked
    assert (asked.method, asked.path) == (method, path)
    assert (json.loads(asked.body) if asked.body else None) == body


def test_a_service_tells_about_itself_and_its_models(driver: Any, server: Server) -> None:
    tensors = [{"name": "ids", "datatype": "INT64", "shape": [-1, -1, 4]}]
    stats = {"name": "m", "version": "1", "inference_count": 5, "inference_stats": {"success": {"count": 5, "ns": 9}}}
    server.script = [
        response(json.dumps(body).encode())
        for body in (
            {"name": "triton", "version": "2.1", "extensions": ["statistics"]},
            {"name": "m", "versions": ["1"], "platform": "onnx", "inputs": tensors, "outputs": tensors},
            {"model_stats": [stats]},
            {"model_stats": []},
            [{"name": "m", "version": "1", "state": "READY", "reason": ""}],
        )
    ]
    client = driver.client(server.url)
    assert client.server_metadata().extensions == ("statistics",)
    spec = TensorSpec("ids", Datatype.INT64, ("batch", "ids_1", 4))
    assert client.metadata("m", version=1).signature == Signature((spec,), (spec,))
    [found] = client.statistics("m")
    assert (found.inference_count, found.inference_stats.success.ns, found.inference_stats.fail.count) == (5, 9, 0)
    assert client.statistics() == ()
    [model] = client.models(ready_only=True)
    assert (model.name, model.version, model.state) == ("m", "1", "READY")
    assert [a.path for a in server.asked] == [
        "/v2", "/v2/models/m/versions/1", "/v2/models/m/stats", "/v2/models/stats", "/v2/repository/index",
    ]  # fmt: skip
    assert json.loads(server.asked[-1].body) == {"ready": True}


@pytest.mark.parametrize("status", [400, 404, 503])
def test_not_ready_is_an_answer_and_asked_for_once(driver: Any, server: Server, status: int) -> None:
    server.script = [response(b'{"error":"no"}', status)]
    client = driver.client(server.url)
    assert (client.live(), client.ready(), client.model_ready("m")) == (False, False, False)
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        lambda c: c.infer("m", X, version=1, label="stable"),
        lambda c: c.infer("", X),
        lambda c: c.infer("m", X, timeout_s=0),
        lambda c: c.infer("m", X, timeout_s=float("inf")),
        lambda c: c.infer("m", X, timeout_s=1e9),
        lambda c: c.infer("m", X, headers={"X": "a\r\nY: b"}),
        lambda c: c.infer("m", X, headers={"a b": "c"}),
        lambda c: c.infer("m", X, headers={"Content-Length": "3"}),
        lambda c: c.load(""),
    ],
)
def test_what_makes_no_request_is_invalid_and_never_sent(driver: Any, server: Server, wrong: Any) -> None:
    client = driver.client(server.url)
    with pytest.raises(InvalidInput):
        wrong(client)
    assert client.live()
    assert len(server.asked) == 1


# --- what comes back


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, InvalidInput),
        (400, InvalidInput),
        (401, Rejected),
        (403, Rejected),
        (404, NotFound),
        (408, Unavailable),
        (409, Conflict),
        (413, InvalidInput),
        (429, Refused),
        (500, BackendFailed),
        (501, Unsupported),
        (502, BackendFailed),
        (503, Refused),
        (504, Unavailable),
    ],
)
def test_a_status_is_an_error_with_the_services_words(
    driver: Any, server: Server, status: int, kind: type[ModelyardError]
) -> None:
    server.script = [response(b'{"error":"its words"}', status)]
    client = driver.client(server.url, retries=NO_RETRIES)
    for call in (lambda: client.infer("m", X), lambda: client.metadata("m"), lambda: client.load("m")):
        with pytest.raises(ModelyardError) as caught:
            call()
        assert type(caught.value) is kind
        assert caught.value.what == "its words" or status == 302
    assert server.connections == 1  # an error is no reason to drop a connection


def test_an_error_that_is_no_json_is_told_as_it_is(driver: Any, server: Server) -> None:
    server.script = [response(b"<h1>Bad Gateway</h1>", 502), response(b"", 500)]
    client = driver.client(server.url)
    with pytest.raises(BackendFailed, match="Bad Gateway"):
        client.infer("m", X)
    with pytest.raises(BackendFailed, match="status 500"):
        client.infer("m", X)


def test_an_unknown_model_is_not_found_in_tritons_words_too(driver: Any, server: Server) -> None:
    server.script = [response(b'{"error":"Request for unknown model: \'m\' is not found"}', 400)]
    with pytest.raises(NotFound):
        driver.client(server.url).infer("m", X)


@pytest.mark.parametrize(("header", "seconds"), [("2", 2.0), ("0.25", 0.25), ("soon", None), ("nan", None)])
def test_retry_after_is_passed_on(driver: Any, server: Server, header: str, seconds: float | None) -> None:
    server.script = [response(b"{}", 429, Retry_After=header)]
    with pytest.raises(Unavailable) as caught:
        driver.client(server.url, retries=NO_RETRIES).infer("m", X)
    assert caught.value.retry_after_s == seconds


BROKEN = {
    "garbage": b"\x00\x01garbage\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no JSON": response(b"hello"),
    "wrong shape": answer({**Y, "shape": [9]}),
    "JSON longer than the body": response(b"{}", Inference_Header_Content_Length="99"),
    "gzip nobody asked for": response(b"hello", Content_Encoding="gzip"),
    "chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "too large": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_answer_that_breaks_the_protocol_is_the_services_failure(driver: Any, server: Server, what: str) -> None:
    server.script = [BROKEN[what], GOOD]
    client = driver.client(server.url, transport=TransportOptions(max_response_bytes=1_000_000))
    with pytest.raises(BackendFailed):
        client.infer("m", X)
    assert client.infer("m", X)["y"].tolist() == [0.5]  # and the next call is not harmed


CUT = {
    "in the head": head_of(GOOD)[:20],
    "after the head": head_of(GOOD),
    "in the body": GOOD[:-5],
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
    "before the last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
}


@pytest.mark.parametrize("what", CUT)
def test_an_answer_that_is_cut_off_is_told_and_not_asked_for_again(driver: Any, server: Server, what: str) -> None:
    server.script, server.close_after = [CUT[what]], True
    with pytest.raises(Unavailable, match="middle of its answer"):
        driver.client(server.url).infer("m", X)
    assert len(server.asked) == 1


@pytest.mark.parametrize("payload", [SILENCE, head_of(GOOD), GOOD[:-5]], ids=["silent", "stuck", "almost"])
def test_a_slow_answer_ends_at_the_deadline(driver: Any, server: Server, payload: bytes) -> None:
    server.script = [payload, GOOD]
    client = driver.client(server.url)
    with pytest.raises(Unavailable, match=r"did not answer within 0\.2 s$"):
        client.infer("m", X, timeout_s=0.2)
    assert client.infer("m", X)["y"].tolist() == [0.5]
    assert server.connections == 2  # the late answer may not be taken for that of the next call


def test_a_deadline_met_by_a_later_attempt_is_told_as_the_callers_time_not_the_rest_of_it(
    driver: Any, server: Server
) -> None:
    server.script = [response(b"{}", 503), SILENCE]
    client = driver.client(server.url, timing=Timing(random=lambda: 0.9), retries=RetryPolicy(base_delay_s=0.2))
    with pytest.raises(Unavailable, match=r"did not answer within 0\.4 s, in 2 attempts$"):
        client.infer("m", X, timeout_s=0.4)
    assert len(server.asked) == 2


def test_silence_may_end_a_call_before_its_deadline(driver: Any, server: Server) -> None:
    server.script = [SILENCE]
    client = driver.client(server.url, timeout_s=60, transport=TransportOptions(read_timeout_s=0.1))
    with pytest.raises(Unavailable, match="did not answer"):
        client.infer("m", X)


def test_an_answer_before_the_request_was_read_is_taken(driver: Any) -> None:
    """413 for a huge body: the server answers and closes, without reading it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1000)
                sock.sendall(response(b'{"error":"too large"}', 413))
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1 << 20):
                    pass

        thread = threading.Thread(target=refuse)
        thread.start()
        client = driver.client(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(InvalidInput, match="too large"):
            client.infer("m", {"x": np.zeros(20_000_000, np.uint8)})
        client.close()
        thread.join(30)
        assert not thread.is_alive()


# --- connections


def test_one_connection_serves_many_calls_and_is_renewed_when_the_service_closed_it(
    driver: Any, server: Server
) -> None:
    client = driver.client(server.url, retries=NO_RETRIES)
    for _ in range(3):
        client.infer("m", X)
    assert server.connections == 1
    server.script = [response(b"{}", 200, Connection="close")]
    client.live()
    client.live()
    assert server.connections == 2
    server.script = [GOOD]
    client.infer("m", X)
    server.drop_connections()
    client.infer("m", X)  # noticed before anything is sent: no retry is needed
    assert len(server.asked) == 7


def test_idle_connections_are_not_used_forever(driver: Any, server: Server) -> None:
    time = Time()
    client = driver.client(server.url, timing=time.timing, transport=TransportOptions(idle_timeout_s=10))
    client.live()
    time.now += 9
    client.live()
    time.now += 11
    client.live()
    assert server.connections == 2


def test_a_unix_socket_is_a_way_too(driver: Any, tmp_path: Path) -> None:
    place = str(tmp_path / "s")
    with serving(socket.AF_UNIX, place) as server:
        server.script = [echo]
        assert driver.client(f"unix://{place}").infer("m", X)["x"].tolist() == [[1.0, 2.0]]
        assert server.asked[0].headers["host"] == "localhost"


def test_a_unix_socket_that_is_not_there_is_unavailable(driver: Any, tmp_path: Path) -> None:
    with pytest.raises(Unreached, match="No such file"):
        driver.client(f"unix://{tmp_path}/none", retries=NO_RETRIES).infer("m", X)


def test_ipv6_is_a_way_too(driver: Any) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback")
    with serving(socket.AF_INET6, ("::1", 0)) as server:
        assert driver.client(server.url).infer("m", X)["y"].tolist() == [0.5]


def test_a_path_before_the_protocols_is_kept(driver: Any, server: Server) -> None:
    driver.client(f"{server.url}/gateway/team-a/").infer("m", X)
    assert server.asked[0].path == "/gateway/team-a/v2/models/m/infer"


def test_a_closed_client_says_so(driver: Any, server: Server) -> None:
    client = driver.client(server.url)
    client.live()
    client.close()
    client.close()
    with pytest.raises(Conflict, match="closed"):
        client.live()


def test_nobody_there_is_unavailable(driver: Any) -> None:
    with pytest.raises(Unreached, match="cannot reach") as caught:
        driver.client("http://127.0.0.1:1", retries=NO_RETRIES).infer("m", X)
    assert not caught.value.sent


def test_a_name_that_nobody_has_is_not_asked_for_again(driver: Any) -> None:
    time = Time()
    with pytest.raises(Unreached):
        driver.client("http://nobody.invalid:1", timing=time.timing).infer("m", X)
    assert time.waits == []


# --- retries


def test_a_busy_service_is_asked_again_after_the_time_it_said(driver: Any, server: Server) -> None:
    server.script = [response(b"{}", 429, Retry_After="2"), response(b"{}", 503), GOOD]
    time = Time()
    client = driver.client(server.url, timing=time.timing, retries=RetryPolicy(base_delay_s=0.1))
    assert client.infer("m", X, timeout_s=10)["y"].tolist() == [0.5]
    assert time.waits == [2 + 0.5 * 0.1, 0.5 * 0.2]
    told = [int(a.headers["x-request-timeout-ms"]) for a in server.asked]
    assert told == [10_000, 7_950, 7_850]  # the service is told what is left


def test_a_time_to_come_back_beyond_the_deadline_is_passed_on_at_once(driver: Any, server: Server) -> None:
    server.script = [response(b'{"error":"full"}', 429, Retry_After="2")]
    time = Time()
    with pytest.raises(Refused, match="full"):
        driver.client(server.url, timing=time.timing).infer("m", X, timeout_s=1.5)
    assert (time.waits, len(server.asked)) == ([], 1)


@pytest.mark.parametrize("ending", [HANG_UP, RESET], ids=["hang up", "reset"])
def test_a_connection_lost_before_an_answer_is_worth_another_try(driver: Any, server: Server, ending: bytes) -> None:
    server.script = [ending, GOOD]
    assert driver.client(server.url).infer("m", X)["y"].tolist() == [0.5]
    assert len(server.asked) == 2


def test_what_may_have_been_done_is_not_done_twice(driver: Any, server: Server) -> None:
    server.script = [HANG_UP, response(b"")]
    client = driver.client(server.url)
    with pytest.raises(Unreached) as caught:
        client.load("m")
    assert caught.value.sent
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 404, 500, 504])
def test_what_will_not_change_is_not_asked_again(driver: Any, server: Server, status: int) -> None:
    server.script = [response(b"{}", status)]
    with pytest.raises(ModelyardError):
        driver.client(server.url).infer("m", X)
    assert len(server.asked) == 1


@pytest.mark.parametrize("outage", [response(b"{}", 503), HANG_UP], ids=["503", "hang up"])
def test_an_outage_is_not_amplified(driver: Any, server: Server, outage: bytes) -> None:
    """T20: every call may be tried four times, yet the service gets at most 1.1 times the calls."""
    server.script = [outage]
    calls = 200
    client = driver.client(server.url, timing=Time().timing, retries=RetryPolicy(max_attempts=4))
    for _ in range(calls):
        with pytest.raises(Unavailable):
            client.infer("m", X)
    assert calls < len(server.asked) <= 1.1 * calls


def test_threads_share_one_budget(server: Server) -> None:
    """T20 with concurrency: 8 threads through one client."""
    server.script = [response(b"{}", 503)]
    failures: list[ModelyardError] = []
    with Client(server.url, timing=Time().timing, retries=RetryPolicy(max_attempts=4)) as client:

        def call() -> None:
            for _ in range(25):
                try:
                    client.infer("m", X)
                except Unavailable as error:
                    failures.append(error)

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(failures) == 200
    assert 200 < len(server.asked) <= 220


# --- TLS


def test_tls_with_both_sides_named(driver: Any, certificates: dict[str, Path]) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates["ca"])
    context.load_cert_chain(certificates["server"], certificates["server-key"])
    context.verify_mode = ssl.CERT_REQUIRED
    with serving(context=context) as server:
        server.script = [echo]
        tls = Tls(certificates["ca"], certificates["client"], certificates["client-key"])
        client = driver.client(server.url, tls=tls)
        sent = np.zeros(1_000_000, np.float32)
        for _ in range(2):
            assert client.infer("m", X)["x"].tolist() == [[1.0, 2.0]]
            assert client.infer("m", {"x": sent})["x"].shape == sent.shape
        assert server.connections == 1


def test_tls_trusts_nobody_unknown(driver: Any, certificates: dict[str, Path]) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates["server"], certificates["server-key"])
    with serving(context=context) as server:
        with pytest.raises(Rejected, match="not trusted"):
            driver.client(server.url).infer("m", X)
        assert driver.client(server.url, tls=Tls(verify=False)).live()
        other = server.url.replace("127.0.0.1", "localhost")
        with pytest.raises(Rejected, match="not trusted"):  # the certificate names 127.0.0.1
            driver.client(other, tls=Tls(certificates["ca"])).live()


def test_tls_against_a_plain_port_is_unavailable(driver: Any, server: Server) -> None:
    with pytest.raises(ModelyardError) as caught:
        driver.client(server.url.replace("http", "https"), retries=NO_RETRIES, timeout_s=5.0).live()
    assert isinstance(caught.value, Unavailable)


def test_tls_files_that_are_none_are_invalid(driver: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="TLS files"):
        driver.client("https://127.0.0.1:1", tls=Tls(tmp_path / "none.pem"))
