# ruff: noqa: E501 - the table of errors reads best unwrapped
"""The Open Inference Protocol, by real clients: the same answer, bit for bit, over JSON, binary tensors and gRPC."""

from __future__ import annotations

import json

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

from modelyard.domain.tensors import Datatype, Signature
from tests.serving_harness import replica, scripted, tensor

DATATYPES = [str(d) for d in Datatype]
MIXED = Signature(
    (tensor("a", "FP32", "batch", 2), tensor("b", "INT64", "batch"), tensor("c", "BYTES", "batch", 1)),
    (tensor("p", "FP32", "batch", 2), tensor("q", "INT64", "batch"), tensor("r", "BYTES", "batch", 1)),
)
FIXED = Signature((tensor("x", "FP32", 2, 2),), (tensor("y", "FP32", 2, 2),))


def echo(datatype):
    signature = Signature((tensor("x", datatype, "batch", 3),), (tensor("y", datatype, "batch", 3),))
    return scripted("echo", signature, name=f"echo-{datatype.lower()}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    models = [echo(d) for d in DATATYPES]
    models += [
        scripted("echo", MIXED, name="mixed"),
        scripted("echo", FIXED, name="fixed"),
        scripted("echo", name="m", version=1),
        scripted("scale", name="m", version=3),
    ]
    with replica(tmp_path_factory.mktemp("protocol"), *models) as running:
        yield running


@pytest.fixture(scope="module")
def rest(server):
    with triton_http.InferenceServerClient(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def rpc(server):
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        yield client


def sample(datatype, rows=2):
    rng = np.random.default_rng(7)
    dtype = triton_to_np_dtype(datatype)
    if datatype == "BYTES":
        words = ["", "a", 'é\u2028"\\', "longer text", "\x00", "6"]
        return np.array([w.encode() for w in words][: rows * 3], object).reshape(rows, 3)
    if datatype == "BOOL":
        return rng.integers(0, 2, (rows, 3)).astype(bool)
    if datatype in ("FP16", "FP32", "FP64", "BF16"):
        return (rng.standard_normal((rows, 3)) * 1e3).astype(dtype)
    info = np.iinfo(dtype)
    return np.array([info.min, info.max, 0, 1, info.max - 1, 5][: rows * 3], dtype).reshape(rows, 3)


def ask(client, module, model, inputs, outputs, *, binary=True, **more):
    given = []
    for name, array in inputs.items():
        item = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        item.set_data_from_numpy(array, **({"binary_data": binary} if module is triton_http else {}))
        given.append(item)
    wanted = [
        module.InferRequestedOutput(o, **({"binary_data": binary} if module is triton_http else {})) for o in outputs
    ]
    return client.infer(model, given, outputs=wanted, **more)


def same(got, want):
    if want.dtype == object:
        as_bytes = [v.encode() if isinstance(v, str) else v for v in got.ravel().tolist()]
        assert as_bytes == want.ravel().tolist()
    else:
        assert got.dtype == want.dtype
        assert got.tobytes() == want.tobytes()
    assert got.shape == want.shape


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("rows", [1, 2])
def test_every_datatype_is_the_same_over_json_binary_and_grpc(rest, rpc, datatype, rows):
    data, model = sample(datatype, rows), f"echo-{datatype.lower()}"
    same(ask(rest, triton_http, model, {"x": data}, ["y"], binary=True).as_numpy("y"), data)
    same(ask(rpc, triton_grpc, model, {"x": data}, ["y"]).as_numpy("y"), data)
    if datatype not in ("FP16", "BF16"):  # tritonclient refuses them as JSON; the raw request below covers it
        same(ask(rest, triton_http, model, {"x": data}, ["y"], binary=False).as_numpy("y"), data)


@pytest.mark.parametrize(("datatype", "third"), [("FP16", float(np.float16(0.1))), ("BF16", 0.10009765625)])
def test_16_bit_floats_travel_as_json_too(server, datatype, third):
    item = {"name": "x", "datatype": datatype, "shape": [1, 3], "data": [1.5, -2, 0.1]}
    path = f"/v2/models/echo-{datatype.lower()}/infer"
    (out,) = server.request("POST", path, json.dumps({"inputs": [item]}).encode()).json["outputs"]
    assert out["datatype"] == datatype
    assert out["data"] == [1.5, -2.0, third]


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_16_bit_floats_are_refused_as_typed_grpc_contents(server, datatype):
    request = service_pb2.ModelInferRequest(model_name=f"echo-{datatype.lower()}")
    item = request.inputs.add(name="x", datatype=datatype, shape=[1, 3])
    item.contents.fp32_contents.extend([1, 2, 3])
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="unexpected explicit tensor data") as caught:
            stub.ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("datatype", [d for d in DATATYPES if d not in ("FP16", "BF16")])
def test_typed_grpc_contents_are_taken(server, datatype):
    data = sample(datatype)
    request = service_pb2.ModelInferRequest(model_name=f"echo-{datatype.lower()}")
    item = request.inputs.add(name="x", datatype=datatype, shape=data.shape)
    field = {
        "BOOL": "bool", "INT8": "int", "INT16": "int", "INT32": "int", "INT64": "int64", "UINT8": "uint",
        "UINT16": "uint", "UINT32": "uint", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes",
    }[datatype]  # fmt: skip
    getattr(item.contents, f"{field}_contents").extend(data.ravel().tolist())
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    same(triton_grpc.InferResult(answer).as_numpy("y"), data)


@pytest.mark.parametrize("in_binary", [(True, False, True), (False, True, False), (True, True, True)])
@pytest.mark.parametrize("out_binary", [(True, False, True), (False, True, False), (False, False, True)])
def test_json_and_binary_mix_per_tensor(rest, in_binary, out_binary):
    arrays = {
        "a": np.array([[1.5, -2], [3, 0.1]], np.float32),
        "b": np.array([2**62 + 1, -5], np.int64),
        "c": np.array([[b"x"], [b"yz"]], object),
    }
    given = []
    for (name, array), binary in zip(arrays.items(), in_binary, strict=True):
        item = triton_http.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        item.set_data_from_numpy(array, binary_data=binary)
        given.append(item)
    wanted = [triton_http.InferRequestedOutput(n, binary_data=b) for n, b in zip("pqr", out_binary, strict=True)]
    result = rest.infer("mixed", given[::-1], outputs=wanted[::-1])
    for out, array in zip("pqr", arrays.values(), strict=True):
        same(result.as_numpy(out), array)


def test_id_is_echoed_and_outputs_come_as_requested(rest, rpc):
    data = {"a": np.ones((1, 2), np.float32), "b": np.array([3]), "c": np.array([[b"s"]], object)}
    for client, module in ((rest, triton_http), (rpc, triton_grpc)):
        result = ask(client, module, "mixed", data, ["q"], request_id='né"w')
        answer = result.get_response()
        names = [
            o["name"] if isinstance(o, dict) else o.name for o in getattr(answer, "outputs", None) or answer["outputs"]
        ]
        assert names == ["q"]
        assert (answer["id"] if isinstance(answer, dict) else answer.id) == 'né"w'
        assert result.as_numpy("q").tolist() == [3]


def test_all_outputs_may_be_asked_for_as_binary_at_once(server):
    item = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    body = json.dumps({"inputs": [item], "parameters": {"binary_data_output": True}}).encode()
    answer = server.request("POST", "/v2/models/m/versions/1/infer", body)
    cut = int(answer.headers["Inference-Header-Content-Length"])
    assert json.loads(answer.body[:cut])["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert np.frombuffer(answer.body[cut:], np.float32).tolist() == [1, 2, 3, 4]


def test_a_raw_body_is_the_only_input(server):
    data = np.arange(4, dtype=np.float32)
    answer = server.request(
        "POST", "/v2/models/m/versions/1/infer", data.tobytes(), Inference_Header_Content_Length="0"
    )
    cut = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.body[cut:] == data.tobytes()


def test_nested_json_data_is_taken(server):
    assert server.infer([[1, 2, 3, 4], [5, 6, 7, 8]], [2, 4]).json["outputs"][0]["data"] == [
        2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0,
    ]  # fmt: skip


def test_large_json_takes_the_other_parser_and_gives_the_same(server, rest):
    data = np.random.default_rng(0).standard_normal((3000, 4)).astype(np.float32)
    result = ask(rest, triton_http, "m", {"x": data}, ["y"], binary=False, model_version="1")
    same(result.as_numpy("y"), data)
    texts = np.array([[f"é{i}".encode() * 50] * 3 for i in range(40)], object)
    same(ask(rest, triton_http, "echo-bytes", {"x": texts}, ["y"], binary=False).as_numpy("y"), texts)
    big = np.full((1000, 3), 2**64 - 1, np.uint64)
    same(ask(rest, triton_http, "echo-uint64", {"x": big}, ["y"], binary=False).as_numpy("y"), big)


@pytest.mark.parametrize("rows", [1, 2000])
def test_nan_and_infinity_pass_as_binary_and_bare_in_json(server, rest, rows):
    data = np.array([[np.nan, np.inf, -np.inf]] * rows, np.float32)
    same(ask(rest, triton_http, "echo-fp32", {"x": data}, ["y"]).as_numpy("y"), data)
    same(ask(rest, triton_http, "echo-fp32", {"x": data}, ["y"], binary=False).as_numpy("y"), data)
    item = {"name": "x", "datatype": "FP32", "shape": [rows, 3], "data": data.ravel().tolist()}
    answer = server.request("POST", "/v2/models/echo-fp32/infer", json.dumps({"inputs": [item]}).encode())
    assert b'"data":[NaN,Infinity,-Infinity' in answer.body
    np.testing.assert_array_equal(np.float32(answer.json["outputs"][0]["data"]), data.ravel())


def padded(item, pad):
    """A request of more than 4 KiB takes the other parser."""
    return json.dumps({"inputs": [item], "parameters": {"pad": "x" * pad}}).encode()


@pytest.mark.parametrize("pad", [0, 5000])
def test_numbers_beyond_64_bits_are_numbers(server, pad):
    item = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [10**20, 2**64, -(10**30)]}
    for data in (item["data"], [item["data"]]):
        answer = server.request("POST", "/v2/models/echo-fp32/infer", padded({**item, "data": data}, pad))
        assert answer.status == 200, answer.body
        np.testing.assert_array_equal(np.float32(answer.json["outputs"][0]["data"]), np.float32(item["data"]))
    answer = server.request("POST", "/v2/models/echo-fp32/infer", padded(item, pad).replace(b"1" + b"0" * 20, b"1e999"))
    assert answer.json["outputs"][0]["data"][0] == float("inf")
    item = {**item, "datatype": "INT64"}
    for data in ([10**20, 0, 0], [10**400, 0, 0]):
        answer = server.request("POST", "/v2/models/echo-int64/infer", padded({**item, "data": data}, pad))
        assert (answer.status, "unable to parse" in answer.json["error"]) == (400, True)
    for data in ([10**400, 0, 0], [10**20, "a", 0], [10**20, None, 0], [10**20, True, 0]):
        answer = server.request(
            "POST", "/v2/models/echo-fp32/infer", padded({**item, "datatype": "FP32", "data": data}, pad)
        )
        assert answer.status == 400, answer.body


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/v1/models/m:predict", "/v1/models/m:classify", "/v2/logging"])
@pytest.mark.parametrize("depth", [100, 900, 1500, 5000, 50_000])
def test_json_nested_too_deep_is_the_clients_mistake(server, path, depth):
    for opening, inner, closing in (("[", "", "]"), ('{"a":', "1", "}")):
        deep = opening * depth + inner + closing * depth
        item = '{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": DEEP}'
        for shape in (
            "DEEP",
            f'{{"inputs": [{item}]}}',
            '{"inputs": DEEP}',
            '{"instances": [DEEP]}',
            '{"examples": [DEEP], "log_info": DEEP}',
            '{"inputs": [], "parameters": {"p": DEEP}}',
        ):
            assert server.request("POST", path, shape.replace("DEEP", deep).encode()).status == 400


def test_versions_are_addressed_and_the_latest_is_the_default(rest, rpc):
    data = {"x": np.ones((1, 4), np.float32)}
    for client, module in ((rest, triton_http), (rpc, triton_grpc)):
        assert ask(client, module, "m", data, ["y"], model_version="1").as_numpy("y")[0, 0] == 1
        assert ask(client, module, "m", data, ["y"], model_version="3").as_numpy("y")[0, 0] == 2
        assert ask(client, module, "m", data, ["y"]).as_numpy("y")[0, 0] == 2


def test_an_unbatched_model_answers_whole(rest):
    data = np.arange(4, dtype=np.float32).reshape(2, 2)
    same(ask(rest, triton_http, "fixed", {"x": data}, ["y"]).as_numpy("y"), data)


def test_health_readiness_and_metadata_agree(server, rest, rpc):
    for client in (rest, rpc):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("m")
        assert client.is_model_ready("m", "1")
    assert rest.get_server_metadata() == rpc.get_server_metadata(as_json=True)
    assert {"binary_tensor_data", "classification", "system_shared_memory", "statistics"} <= set(
        rest.get_server_metadata()["extensions"]
    )
    metadata = rest.get_model_metadata("mixed")
    assert metadata["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": [-1, 2]}
    assert rest.get_model_metadata("m")["versions"] == ["1", "3"]
    from_rpc = rpc.get_model_metadata("mixed", as_json=True)
    assert [i["name"] for i in from_rpc["outputs"]] == [i["name"] for i in metadata["outputs"]]


def test_statistics_follow_tritons_schema_and_count(rest, rpc):
    before = rest.get_inference_statistics("echo-int8")["model_stats"][0]
    ask(rest, triton_http, "echo-int8", {"x": sample("INT8")}, ["y"])
    after = rest.get_inference_statistics("echo-int8")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert any(b["batch_size"] == 2 for b in after["batch_stats"])
    from_rpc = rpc.get_inference_statistics("echo-int8").model_stats[0]
    assert from_rpc.inference_count == after["inference_count"]
    assert len(rest.get_inference_statistics()["model_stats"]) == len(DATATYPES) + 4


GOOD = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("path", "request_", "status", "text"),
    [
        ("/v2/models/none/infer", {"inputs": [GOOD]}, 404, "Request for unknown model: 'none' is not found"),
        ("/v2/models/m/versions/9/infer", {"inputs": [GOOD]}, 404, "Request for unknown model: 'm' version 9 is not found"),
        ("/v2/models/m/versions/x/infer", {"inputs": [GOOD]}, 400, "failed to get model version from specified version"),
        ("/v2/models/m/infer", {"inputs": [{**GOOD, "name": "z"}]}, 400, "unexpected inference input 'z' for model 'm'"),
        ("/v2/models/m/infer", {"inputs": []}, 400, "expected 1 inputs but got 0 inputs for model 'm'"),
        ("/v2/models/m/infer", {"inputs": [GOOD, GOOD]}, 400, "expected 1 inputs but got 2"),
        ("/v2/models/m/infer", {"inputs": [{**GOOD, "datatype": "INT8"}]}, 400, "data-type is 'INT8', but model 'm' expects 'FP32'"),
        ("/v2/models/m/infer", {"inputs": [{**GOOD, "shape": [1, 5]}]}, 400, "unexpected shape for input 'x' for model 'm'. Expected [-1,4], got [1,5]"),
        ("/v2/models/m/infer", {"inputs": [{**GOOD, "shape": [0, 4], "data": []}]}, 400, "batch dimension"),
        ("/v2/models/m/infer", {"inputs": [{**GOOD, "data": [1]}]}, 400, "has 1 elements"),
        ("/v2/models/m/infer", {"inputs": [{**GOOD, "data": ["a"] * 4}]}, 400, "unable to parse"),
        ("/v2/models/m/infer", {"inputs": [GOOD], "outputs": [{"name": "z"}]}, 400, "unexpected inference output 'z' for model 'm'"),
        ("/v2/models/m/infer", {"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"classification": -1}}]}, 400, "'classification' of output 'y'"),
        ("/v2/models/m/infer", {"inputs": [GOOD], "parameters": {"sequence_id": 3}}, 501, "sequence"),
        ("/v2/models/m/infer", {"input": [GOOD]}, 400, "failed to parse the request JSON buffer"),
        ("/v2/models/m/infer", [], 400, "failed to parse the request JSON buffer"),
        ("/v2/models/m/infer", {"inputs": [{**GOOD, "parameters": {"binary_data_size": 16}}]}, 400, "both 'data' and"),
        ("/v2/models/m/infer", {"inputs": [{**GOOD, "data": None, "parameters": {"binary_data_size": 15}}]}, 400, "Expected 16, got 15"),
        ("/v2/models/m/infer", {"inputs": [{**GOOD, "data": None, "parameters": {"binary_data_size": 16}}]}, 400, "the body has 0"),
        ("/v2/models/m/frobnicate", {}, 404, "no such path"),
        ("/v3", {}, 404, "no such path"),
        ("/v2", {}, 405, "not allowed"),
    ],
)  # fmt: skip
def test_errors_have_tritons_status_and_text(server, path, request_, status, text):
    answer = server.request("POST", path, json.dumps(request_).encode())
    assert answer.status == status, answer.body
    assert text in answer.json["error"]


def test_an_error_names_the_request_only_if_its_client_did(server):
    wrong = {"inputs": [{**GOOD, "name": "z"}]}
    for given, start in (({"id": "r-7"}, "[request id: r-7] unexpected"), ({}, "unexpected inference input")):
        answer = server.request("POST", "/v2/models/m/infer", json.dumps({**given, **wrong}).encode())
        assert answer.json["error"].startswith(start)


def test_grpc_errors_have_the_same_text_and_tritons_code(rpc):
    cases = [
        ("none", np.ones((1, 4), np.float32), "NOT_FOUND", "Request for unknown model: 'none' is not found"),
        ("m", np.ones((1, 5), np.float32), "INVALID_ARGUMENT", "Expected [-1,4], got [1,5]"),
        ("m", np.ones((1, 4), np.int8), "INVALID_ARGUMENT", "expects 'FP32'"),
    ]
    for model, data, code, text in cases:
        with pytest.raises(InferenceServerException) as caught:
            ask(rpc, triton_grpc, model, {"x": data}, ["y"])
        assert caught.value.status() == f"StatusCode.{code}"
        assert text in caught.value.message()


def test_grpc_raw_contents_of_the_wrong_size_are_refused(server):
    request = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[b"123"])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        request.raw_input_contents.append(b"")
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request)
    assert "raw input contents" in caught.value.details()
