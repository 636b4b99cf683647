"""One model by every way that leads to it, bit for bit, also while malformed requests (T24) arrive beside."""

from __future__ import annotations

import asyncio
import json
import queue
import secrets
import threading

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype
from tritonclient.utils import shared_memory as shm

from modelyard.domain.tensors import Datatype, Signature
from tests.serving_harness import replica, scripted, tensor

NUMBERS = [d for d in Datatype if d not in (Datatype.BYTES, Datatype.BOOL, Datatype.BF16)]


def doubling(datatype, **more):
    signature = Signature((tensor("x", datatype, "batch", 5),), (tensor("y", datatype, "batch", 5),))
    return scripted("scale", signature, name=f"twice-{datatype.lower()}", **more)


@pytest.fixture(scope="module", params=["fast", "aio"])
def server(request, tmp_path_factory):
    models = [doubling(str(d), batch=16, delay_us=1000) for d in NUMBERS]
    with replica(tmp_path_factory.mktemp("parity"), *models, grpc_front=request.param) as running:
        yield running


def sample(datatype, seed=3):
    rng = np.random.default_rng(seed)
    if datatype.numpy.kind == "f":
        return (rng.standard_normal((3, 5)) * 10).astype(datatype.numpy)
    info = np.iinfo(datatype.numpy)
    return rng.integers(info.min // 2, info.max // 2, (3, 5), dtype=datatype.numpy)


def given(module, data, **more):
    item = module.InferInput("x", list(data.shape), np_to_triton_dtype(data.dtype))
    item.set_data_from_numpy(data, **more)
    return item


def by_http(server, model, data):
    with triton_http.InferenceServerClient(server.address) as client:
        yield "binary", client.infer(model, [given(triton_http, data)]).as_numpy("y")
        for encoding in ("gzip", "deflate"):
            compressed = {"request_compression_algorithm": encoding, "response_compression_algorithm": encoding}
            yield encoding, client.infer(model, [given(triton_http, data)], **compressed).as_numpy("y")
        if data.dtype != np.float16:  # which tritonclient sends only as binary
            wanted = [triton_http.InferRequestedOutput("y", binary_data=False)]
            yield (
                "json",
                client.infer(model, [given(triton_http, data, binary_data=False)], outputs=wanted).as_numpy("y"),
            )
        yield "shared memory", in_shared_memory(client, model, data)
    answer = server.request(
        "POST", f"/v2/models/{model}/infer", data[:1].tobytes(), Inference_Header_Content_Length="0"
    )
    cut = int(answer.headers["Inference-Header-Content-Length"])
    yield "raw body", np.frombuffer(answer.body[cut:], data.dtype).reshape(1, 5)


def in_shared_memory(client, model, data):
    key = f"modelyard-test-{secrets.token_hex(8)}"
    handle = shm.create_shared_memory_region(key, f"/{key}", 2 * data.nbytes)
    try:
        shm.set_shared_memory_region(handle, [data])
        client.register_system_shared_memory(key, f"/{key}", 2 * data.nbytes)
        item = triton_http.InferInput("x", list(data.shape), np_to_triton_dtype(data.dtype))
        item.set_shared_memory(key, data.nbytes)
        wanted = triton_http.InferRequestedOutput("y")
        wanted.set_shared_memory(key, data.nbytes, data.nbytes)
        client.infer(model, [item], outputs=[wanted])
        client.unregister_system_shared_memory(key)
        return shm.get_contents_as_numpy(handle, data.dtype, data.shape, data.nbytes).copy()
    finally:
        shm.destroy_shared_memory_region(handle)


def by_grpc(server, model, data):
    answers = queue.Queue()
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        yield "grpc", client.infer(model, [given(triton_grpc, data)]).as_numpy("y")
        yield "grpc gzip", client.infer(model, [given(triton_grpc, data)], compression_algorithm="gzip").as_numpy("y")
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(model, [given(triton_grpc, data)])
        result, error = answers.get(timeout=20)
        assert error is None
        yield "stream", result.as_numpy("y")
        client.stop_stream()


async def by_asyncio(server, model, data):
    async with triton_http_aio.InferenceServerClient(server.address) as client:
        several = [client.infer(model, [given(triton_http_aio, data)]) for _ in range(5)]
        found = [("http.aio", r.as_numpy("y")) for r in await asyncio.gather(*several)]
    async with triton_grpc_aio.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        several = [client.infer(model, [given(triton_grpc_aio, data)]) for _ in range(5)]
        found += [("grpc.aio", r.as_numpy("y")) for r in await asyncio.gather(*several)]

        async def requests():
            for number in range(5):
                yield {"model_name": model, "inputs": [given(triton_grpc_aio, data)], "request_id": str(number)}

        async for result, error in client.stream_infer(requests()):
            assert error is None
            found.append(("aio stream", result.as_numpy("y")))
    return found


@pytest.mark.parametrize("datatype", NUMBERS, ids=str)
def test_every_way_to_a_model_gives_the_same_bits(server, datatype):
    data = sample(datatype)
    model = f"twice-{datatype.lower()}"
    want = data * datatype.numpy.type(2)
    found = [
        *by_http(server, model, data),
        *by_grpc(server, model, data),
        *asyncio.run(by_asyncio(server, model, data)),
    ]
    assert len(found) >= 23
    for way, got in found:
        rows = len(got)
        assert got.dtype == want.dtype, way
        assert got.tobytes() == want[:rows].tobytes(), way


GOOD = {"name": "x", "datatype": "FP32", "shape": [1, 5], "data": [1, 2, 3, 4, 5]}
POISON = [
    {"inputs": [{**GOOD, "shape": [-1, 5]}]},
    {"inputs": [{**GOOD, "shape": [1, -5]}]},
    {"inputs": [{**GOOD, "shape": [2**62, 5]}]},
    {"inputs": [{**GOOD, "shape": [2**64, 5]}]},
    {"inputs": [{**GOOD, "shape": [0, 5], "data": []}]},
    {"inputs": [{**GOOD, "shape": [1, 5, 1]}]},
    {"inputs": [{**GOOD, "shape": []}]},
    {"inputs": [{**GOOD, "shape": [1.5, 5]}]},
    {"inputs": [{**GOOD, "shape": [True, 5]}]},
    {"inputs": [{**GOOD, "datatype": "FP64"}]},
    {"inputs": [{**GOOD, "datatype": "BYTES", "data": ["a"] * 5}]},
    {"inputs": [{**GOOD, "datatype": None}]},
    {"inputs": [{**GOOD, "data": [1, 2, 3, 4]}]},
    {"inputs": [{**GOOD, "data": [[1, 2], [3, 4, 5]]}]},
    {"inputs": [{**GOOD, "data": [1, 2, 3, 4, None]}]},
    {"inputs": [{**GOOD, "data": [1, 2, 3, 4, {}]}]},
    {"inputs": [{**GOOD, "data": [1, 2, 3, 4, True]}]},
    {"inputs": [{**GOOD, "data": {"0": 1}}]},
    {"inputs": [GOOD, GOOD]},
    {"inputs": [GOOD], "outputs": [{"name": "nope"}]},
    {"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
    {"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"classification": -(2**64)}}]},
    {"inputs": [GOOD], "parameters": {"timeout": "soon"}},
    {"inputs": [GOOD], "parameters": {"priority": -1}},
    {"inputs": [GOOD], "parameters": []},
    {"inputs": "x"},
    {},
    [],
    7,
]
ODD = [
    {"inputs": [{**GOOD, "data": [float("nan"), float("inf"), float("-inf"), 0, -0.0]}]},
    {"inputs": [{**GOOD, "data": [1e300, -1e300, 1e-300, 3, 4]}]},
    {"inputs": [{**GOOD, "data": [[1, 2, 3, 4, 5]]}]},
    {"inputs": [GOOD], "outputs": [{"name": "y"}, {"name": "y"}]},
    {"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"classification": 2**64}}]},
]


def test_malformed_requests_are_client_errors_and_their_batch_mates_are_untouched(server):
    data = [sample(Datatype.FP32, seed) for seed in range(4)]
    wrong, served, stop = [], [0] * len(data), threading.Event()

    def good(me):
        want = (data[me] * np.float32(2)).tobytes()
        with triton_http.InferenceServerClient(server.address) as client:
            item = given(triton_http, data[me])
            while not stop.is_set():
                if client.infer("twice-fp32", [item]).as_numpy("y").tobytes() != want:
                    wrong.append(me)
                served[me] += 1

    threads = [threading.Thread(target=good, args=(me,)) for me in range(len(data))]
    for thread in threads:
        thread.start()
    try:
        for request in POISON:
            answer = server.request("POST", "/v2/models/twice-fp32/infer", json.dumps(request).encode())
            assert answer.status == 400, (request, answer.body)
            assert answer.json["error"]
        for request in ODD:
            answer = server.request("POST", "/v2/models/twice-fp32/infer", json.dumps(request).encode())
            assert answer.status == 200, (request, answer.body)
        poison_by_grpc(server)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert wrong == []
    assert min(served) > 0
    assert server.process.poll() is None


def poison_by_grpc(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for shape in ([-1, 5], [2**62, 5], [0, 5], [1, 5, 1], [], [1, 4], [-(2**63), 5]):
            for raw in ([b"\0" * 20], [], [b"\0" * 19], [b""], [b"\0" * 20] * 2):
                request = pb.ModelInferRequest(model_name="twice-fp32", raw_input_contents=raw)
                request.inputs.add(name="x", datatype="FP32", shape=shape)
                with pytest.raises(grpc.RpcError) as caught:
                    stub.ModelInfer(request, timeout=20)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, (shape, raw)
        for junk in (b"\xff", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0a\x05ab", b"{}"):
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.RpcError) as caught:
                call(junk, timeout=20)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, junk
