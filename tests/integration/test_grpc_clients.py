"""gRPC by the clients that people use, against real replicas: tritonclient (sync, aio), grpcio over TLS, h2load, curl.

KServe's client is in tests/contract/test_foreign_clients.py.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import shutil
import signal
import subprocess

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from modelyard.domain.configuration import QueuePolicy
from modelyard.domain.services import GrpcFront, Tls
from tests.integration.test_serving_http_transports import Authority
from tests.serving_harness import replica, scripted, until

FRONTS = ["fast", "aio"]
INFER = "/inference.GRPCInferenceService/ModelInfer"


def address(running):
    return f"127.0.0.1:{running.grpc_port}"


def tensor(rows=1, value=1.0, module=triton):
    item = module.InferInput("x", [rows, 4], "FP32")
    item.set_data_from_numpy(np.full((rows, 4), value, np.float32))
    return item


def message(rows=1, request_id=""):
    request = pb.ModelInferRequest(model_name="m", id=request_id)
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 4])
    request.raw_input_contents.append(np.ones((rows, 4), np.float32).tobytes())
    return request.SerializeToString()


@pytest.fixture(params=FRONTS)
def running(request, tmp_path):
    models = (scripted("scale"), scripted("sleep", name="slow", seconds=0.3, batch=1))
    with replica(tmp_path, *models, grpc_front=GrpcFront(request.param)) as running:
        yield running


def test_tritonclient(running):
    with triton.InferenceServerClient(address(running)) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("m")
        assert client.get_server_metadata().name == "modelyard"
        assert client.get_model_metadata("m").inputs[0].name == "x"
        for rows in (1, 2, 3, 50_000):
            answer = client.infer("m", [tensor(rows)], request_id=f"r{rows}", headers={"x-any": "1"})
            assert answer.get_response().id == f"r{rows}"
            assert (answer.as_numpy("y") == 2).all()
            assert answer.as_numpy("y").shape == (rows, 4)
        packed = client.infer("m", [tensor(100)], compression_algorithm="gzip")
        assert packed.as_numpy("y").shape == (100, 4)
        with pytest.raises(InferenceServerException) as caught:
            client.infer("nobody", [tensor()])
        assert caught.value.status() == "StatusCode.NOT_FOUND"
        with pytest.raises(InferenceServerException) as caught:
            client.infer("slow", [tensor()], client_timeout=0.05)
        assert "DEADLINE_EXCEEDED" in caught.value.status()


def test_tritonclient_with_callbacks(running):
    done = []
    with triton.InferenceServerClient(address(running)) as client:
        for i in range(50):
            client.async_infer("m", [tensor(value=i)], lambda result, error, i=i: done.append((i, result, error)))
        until(lambda: len(done) == 50, "all are answered")
    for i, result, error in done:
        assert error is None
        assert (result.as_numpy("y") == 2 * i).all()


def test_tritonclient_streams(running):
    done = []
    with triton.InferenceServerClient(address(running)) as client:
        client.start_stream(lambda result, error: done.append((result, error)))
        for i in range(100):
            client.async_stream_infer("m", [tensor(value=i)], request_id=str(i))
        until(lambda: len(done) == 100, "all are answered")
        client.stop_stream()
    for result, error in done:
        assert error is None
        assert (result.as_numpy("y") == 2 * int(result.get_response().id)).all()


def test_tritonclient_aio(running):
    async def run():
        async with triton_aio.InferenceServerClient(address(running)) as client:
            assert await client.is_server_ready()
            calls = [client.infer("m", [tensor(value=i, module=triton_aio)]) for i in range(100)]
            for i, answer in enumerate(await asyncio.gather(*calls)):
                assert (answer.as_numpy("y") == 2 * i).all()
            with pytest.raises(InferenceServerException):
                await client.infer("m", [tensor()], model_version="9")

    asyncio.run(run())


def test_a_client_that_gives_up_frees_the_queue(running):
    with grpc.insecure_channel(address(running)) as channel:
        infer = channel.unary_unary(INFER)
        request = pb.ModelInferRequest.FromString(message())
        request.model_name = "slow"
        pending = [infer.future(request.SerializeToString(), timeout=30) for _ in range(20)]
        until(lambda: running.held("slow") >= 19, "they wait")
        for call in pending:
            call.cancel()
        until(lambda: running.held("slow") == 0, "nothing is held any more", 5.0)


@pytest.mark.parametrize("front", FRONTS)
def test_overload_is_told_with_the_time_to_come_back(front, tmp_path):
    gate = opened(tmp_path / "gate")
    model = scripted("gate", batch=1, queue=QueuePolicy(max_requests=1), gate=gate)
    with (
        replica(tmp_path, model, grpc_front=GrpcFront(front)) as running,
        grpc.insecure_channel(address(running)) as channel,
    ):
        gate.unlink()
        infer = channel.unary_unary(INFER)
        held = [infer.future(message(), timeout=30) for _ in range(8)]
        refused = until(lambda: [c for c in held if c.done()], "some are refused")
        for call in refused:
            assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert int(dict(call.trailing_metadata())["retry-after"]) >= 1
        gate.touch()
        assert any(call.exception(timeout=20) is None for call in held)


def opened(gate):
    """A gate that the model's warm-up may pass."""
    gate.touch()
    return gate


@pytest.mark.parametrize("front", FRONTS)
def test_calls_under_way_survive_a_drain(front, tmp_path):
    gate = opened(tmp_path / "gate")
    with replica(tmp_path, scripted("gate", gate=gate), grpc_front=GrpcFront(front)) as running:
        gate.unlink()
        with grpc.insecure_channel(address(running)) as channel:
            pending = channel.unary_unary(INFER).future(message(), timeout=30)
            until(lambda: running.held() == 1, "the call runs")
            running.process.send_signal(signal.SIGTERM)
            until(lambda: '"draining"' in running.log, "the replica drains")
            assert not pending.done()
            gate.touch()
            assert pb.ModelInferResponse.FromString(pending.result(timeout=20)).model_name == "m"
        assert running.process.wait(20) == 0


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual tls"])
def test_tls(front, mutual, tmp_path):
    server, client = Authority(tmp_path, "server"), Authority(tmp_path, "client")
    tls = Tls(str(server.certificate), str(server.key), client_ca=str(client.certificate) if mutual else "")
    with replica(tmp_path, scripted("scale"), grpc_front=GrpcFront(front), tls=tls) as running:
        root = server.certificate.read_bytes()
        own = {"private_key": client.key.read_bytes(), "certificate_chain": client.certificate.read_bytes()}
        credentials = grpc.ssl_channel_credentials(root, **(own if mutual else {}))
        with grpc.secure_channel(address(running), credentials) as channel:
            answer = pb.ModelInferResponse.FromString(channel.unary_unary(INFER)(message(2000), timeout=20))
            assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2.0] * 8000
        stranger = grpc.ssl_channel_credentials(root if mutual else client.certificate.read_bytes())
        for channel in (grpc.secure_channel(address(running), stranger), grpc.insecure_channel(address(running))):
            with channel, pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(INFER)(message(), timeout=20)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("front", FRONTS)
def test_a_renewed_certificate_is_used_after_sighup(front, tmp_path):
    server = Authority(tmp_path, "server")
    tls = Tls(str(server.certificate), str(server.key))
    with replica(tmp_path, scripted("scale"), grpc_front=GrpcFront(front), tls=tls) as running:
        server.issue()
        running.process.send_signal(signal.SIGHUP)
        until(lambda: "TLS files read again" in running.log, "the files are read")
        credentials = grpc.ssl_channel_credentials(server.certificate.read_bytes())
        with grpc.secure_channel(address(running), credentials) as channel:
            assert channel.unary_unary(INFER)(message(), timeout=20)


def tool(name):
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize(("connections", "streams"), [(1, 1), (8, 1), (1, 100), (4, 32)])
def test_h2load(running, tmp_path, connections, streams):
    body = message()
    file = tmp_path / "body"
    file.write_bytes(b"\0" + len(body).to_bytes(4, "big") + body)
    command = [
        tool("h2load"), "-n", "2000", "-c", str(connections), "-m", str(streams), "-d", str(file),
        "-H", "content-type: application/grpc", "-H", "te: trailers", f"http://{address(running)}{INFER}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert re.search(r"requests: 2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored", done.stdout)
    stats = running.get("/stats").json["models"]
    assert sum(b["requests"] for m in stats if m["model"] == "m" for b in m["batches"]) >= 2000


def test_curl_sees_why_it_is_no_client(tmp_path):
    """Somebody who tries the port by hand: HTTP/1.1 gets no answer in HTTP/1.1, HTTP/2 without gRPC gets a 415."""
    with replica(tmp_path, scripted("scale")) as running:
        url = f"http://{address(running)}/v2/health/live"
        command = [tool("curl"), "-s", "-o", str(tmp_path / "out"), "-w", "%{http_code}", "--max-time", "10"]
        old = subprocess.run([*command, url], capture_output=True, text=True, check=False)
        assert old.returncode != 0
        new = [*command, "--http2-prior-knowledge", "-d", "x", url]
        assert subprocess.run(new, capture_output=True, text=True, check=True).stdout == "415"


def test_compressed_bombs_cost_no_more_than_the_limit(tmp_path):
    """64 MiB of zeros in 64 KiB, unpacked only as far as the limit allows."""
    with replica(tmp_path, scripted("scale"), max_body_bytes=2**20) as running:
        bomb = gzip.compress(bytes(64 * 2**20))
        framed = b"\x01" + len(bomb).to_bytes(4, "big") + bomb
        file = tmp_path / "bomb"
        file.write_bytes(framed)
        command = [
            tool("curl"), "-s", "--http2-prior-knowledge", "--data-binary", f"@{file}", "-D", "-", "--max-time", "20",
            "-H", "content-type: application/grpc", "-H", "te: trailers", "-H", "grpc-encoding: gzip",
            f"http://{address(running)}{INFER}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "grpc-status: 8" in done.stdout


def test_two_replicas_share_a_port(tmp_path):
    """With SO_REUSEPORT the kernel spreads connections over both."""
    journals = [tmp_path / "a.journal", tmp_path / "b.journal"]
    with replica(tmp_path / "a", scripted("scale", journal=journals[0]), reuse_port=True) as first:
        ports = {"http_port": first.http_port, "grpc_port": first.grpc_port}
        with replica(tmp_path / "b", scripted("scale", journal=journals[1]), reuse_port=True, **ports):
            warm = [journal.stat().st_size for journal in journals]

            def both_served():
                with grpc.insecure_channel(address(first), options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                    assert channel.unary_unary(INFER)(message(), timeout=20)
                return all(j.stat().st_size > w for j, w in zip(journals, warm, strict=True))

            until(both_served, "both serve")
