"""Triton's extensions of the Open Inference Protocol, by tritonclient's HTTP and gRPC clients."""

from __future__ import annotations

import json
import queue
from dataclasses import replace

import grpc
import msgspec
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from modelyard.domain.configuration import QueuePolicy
from modelyard.domain.tensors import Signature
from tests.serving_harness import replica, scripted, tensor, until

SCORES = Signature((tensor("x", "FP32", "batch", 4),), (tensor("y", "FP32", "batch", 4),))
FIXED = Signature((tensor("x", "INT32", 3),), (tensor("y", "INT32", 3),))
WORDS = Signature((tensor("x", "BYTES", "batch", 1),), (tensor("y", "BYTES", "batch", 1),))
HALF = Signature((tensor("x", "FP16", "batch", 4),), (tensor("y", "FP16", "batch", 4),))


def repository(directory, *models):
    for model in models:
        folder = directory / model.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{model.version}.json").write_bytes(msgspec.json.encode(model))
    return str(directory)


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="module")
def server(tmp_path_factory, gate):
    directory = tmp_path_factory.mktemp("extensions")
    gate.touch()
    models = (
        replace(scripted("echo", SCORES, name="scores"), classes=("cat", "dog", "eel", "fox")),
        scripted("echo", SCORES, name="bare"),
        scripted("echo", SCORES, name="named", classes='["ant", "bee", "cow", "doe"]'),
        scripted("echo", FIXED, name="fixed"),
        scripted("echo", WORDS, name="words"),
        scripted("echo", HALF, name="half"),
        scripted("poison", SCORES, name="poison"),
        replace(scripted("echo", SCORES, name="kept"), cache_bytes=10_000),
        scripted("gate", SCORES, name="gate", gate=gate),
        replace(
            scripted("echo", SCORES, name="tuned", version=4, batch=16, delay_us=500, queue=QueuePolicy(99, 2.5, 3, 2)),
            threads=1,
        ),
    )
    held = repository(
        directory / "models", scripted("echo", name="loadable"), scripted("scale", name="loadable", version=2)
    )
    with replica(directory / "r", *models, repository=held) as running:
        yield running


@pytest.fixture(scope="module")
def rest(server):
    with triton_http.InferenceServerClient(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def rpc(server):
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        yield client


@pytest.fixture(scope="module")
def raw(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def given(module, data, datatype):
    item = module.InferInput("x", list(data.shape), datatype)
    item.set_data_from_numpy(data)
    return item


def post(server, path, body=None):
    return server.request("POST", path, json.dumps(body or {}).encode())


# --- classification

ROWS = np.array([[0.25, -1, 3, 2], [5, 5, 0.125, 7]], np.float32)
BEST = [[b"3.000000:2:eel", b"2.000000:3:fox"], [b"7.000000:3:fox", b"5.000000:0:cat"]]


@pytest.mark.parametrize("binary", [True, False])
def test_the_best_classes_by_http(rest, binary):
    wanted = triton_http.InferRequestedOutput("y", binary_data=binary, class_count=2)
    got = rest.infer("scores", [given(triton_http, ROWS, "FP32")], outputs=[wanted])
    assert got.get_output("y")["datatype"] == "BYTES"
    texts = got.as_numpy("y")
    assert [[v if isinstance(v, bytes) else v.encode() for v in row] for row in texts.tolist()] == BEST


def test_the_best_classes_by_grpc(rpc):
    wanted = triton_grpc.InferRequestedOutput("y", class_count=2)
    got = rpc.infer("scores", [given(triton_grpc, ROWS, "FP32")], outputs=[wanted])
    assert got.get_output("y").datatype == "BYTES"
    assert got.as_numpy("y").tolist() == BEST


def test_more_classes_than_there_are_gives_all_and_labels_are_optional(rest):
    wanted = triton_http.InferRequestedOutput("y", class_count=100)
    got = rest.infer("bare", [given(triton_http, ROWS[:1], "FP32")], outputs=[wanted]).as_numpy("y")
    assert got.tolist() == [[b"3.000000:2", b"2.000000:3", b"0.250000:0", b"-1.000000:1"]]


def test_labels_may_come_with_the_models_files(rest):
    wanted = triton_http.InferRequestedOutput("y", class_count=1)
    got = rest.infer("named", [given(triton_http, ROWS, "FP32")], outputs=[wanted]).as_numpy("y")
    assert got.tolist() == [[b"3.000000:2:cow"], [b"7.000000:3:doe"]]


def test_nan_is_the_worst_class(rest):
    rows = np.array([[np.nan, -np.inf, 1, np.inf]], np.float32)
    wanted = triton_http.InferRequestedOutput("y", class_count=2)
    got = rest.infer("bare", [given(triton_http, rows, "FP32")], outputs=[wanted]).as_numpy("y")
    assert got.tolist() == [[b"inf:3", b"1.000000:2"]]


def test_classes_of_a_model_that_is_not_batched_and_of_integers(rest, rpc):
    data = np.array([7, 9, 8], np.int32)
    for client, module in ((rest, triton_http), (rpc, triton_grpc)):
        wanted = module.InferRequestedOutput("y", class_count=2)
        got = client.infer("fixed", [given(module, data, "INT32")], outputs=[wanted]).as_numpy("y")
        assert got.tolist() == [b"9:1", b"8:2"]


def test_16_bit_floats_have_classes_too(rest):
    wanted = triton_http.InferRequestedOutput("y", class_count=1)
    got = rest.infer("half", [given(triton_http, ROWS.astype(np.float16), "FP16")], outputs=[wanted])
    assert got.as_numpy("y").tolist() == [[b"3.000000:2"], [b"7.000000:3"]]


def test_strings_have_no_classes(rest, rpc):
    data = np.array([[b"a"]], object)
    for client, module in ((rest, triton_http), (rpc, triton_grpc)):
        wanted = module.InferRequestedOutput("y", class_count=1)
        with pytest.raises(InferenceServerException, match="class result not available for output due to unsupported"):
            client.infer("words", [given(module, data, "BYTES")], outputs=[wanted])


# --- configuration and statistics


def test_the_configuration_is_tritons_and_the_same_by_both_protocols(rest, rpc):
    config = rest.get_model_config("tuned")
    by_rpc = rpc.get_model_config("tuned", as_json=True)["config"]
    assert config["max_batch_size"] == by_rpc["max_batch_size"] == 16
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]
    assert by_rpc["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["4"]}]
    batching = config["dynamic_batching"]
    assert batching["max_queue_delay_microseconds"] == 500
    assert (batching["priority_levels"], batching["default_priority_level"]) == (3, 2)
    assert batching["default_queue_policy"]["max_queue_size"] == 99
    assert batching["default_queue_policy"]["default_timeout_microseconds"] == 2_500_000
    assert by_rpc["dynamic_batching"]["default_queue_policy"]["default_timeout_microseconds"] == "2500000"
    assert config["instance_group"][0]["kind"] == "KIND_CPU"
    assert config["version_policy"] == {"specific": {"versions": [4]}}
    assert rest.get_model_config("tuned", "4") == config
    assert rest.get_model_config("fixed")["max_batch_size"] == 0
    assert rest.get_model_config("fixed")["input"][0]["dims"] == [3]
    assert rest.get_model_config("words")["input"][0]["data_type"] == "TYPE_STRING"
    for client in (rest, rpc):
        with pytest.raises(InferenceServerException, match="Request for unknown model: 'none' is not found"):
            client.get_model_config("none")


def test_statistics_count_failures_and_their_time_and_agree(server, rest, rpc):
    before = rest.get_inference_statistics("poison")["model_stats"][0]["inference_stats"]["fail"]
    with pytest.raises(InferenceServerException):
        rest.infer("poison", [given(triton_http, np.full((1, 4), 666, np.float32), "FP32")])
    stats = rest.get_inference_statistics("poison")["model_stats"][0]
    assert stats["inference_stats"]["fail"]["count"] == before["count"] + 1
    by_rpc = rpc.get_inference_statistics("poison").model_stats[0]
    assert by_rpc.inference_stats.fail.count == stats["inference_stats"]["fail"]["count"]
    assert by_rpc.response_stats["0"].fail.count == stats["response_stats"]["0"]["fail"]["count"]
    assert stats["inference_stats"]["fail"]["ns"] > before["ns"]
    everything = [m["name"] for m in rest.get_inference_statistics()["model_stats"]]
    assert {"scores", "loadable"} <= set(everything)


def test_statistics_count_what_the_cache_answered(rest):
    for _ in range(3):
        rest.infer("kept", [given(triton_http, ROWS, "FP32")])
    stats = rest.get_inference_statistics("kept")["model_stats"][0]
    counts = {name: value["count"] for name, value in stats["inference_stats"].items()}
    assert (counts["cache_hit"], counts["cache_miss"], counts["success"]) == (2, 1, 3)
    assert (stats["execution_count"], stats["inference_count"]) == (1, 2)


# --- repository


def test_the_index_shows_every_version_and_its_state(rest, rpc):
    index = rest.get_model_repository_index()
    states = {(m["name"], m["version"]): m.get("state") for m in index}
    assert states["scores", "1"] == states["loadable", "2"] == "READY"
    assert len(rpc.get_model_repository_index().models) == len(index)


def test_loading_with_a_configuration_changes_what_is_allowed(server, rest, rpc):
    changed = {"max_batch_size": 3, "parameters": {"weight": {"string_value": "2.5"}}}
    whole = rest.get_model_config("loadable")
    rest.load_model(
        "loadable",
        config=json.dumps({**whole, **changed, "parameters": {**whole["parameters"], **changed["parameters"]}}),
    )
    config = rest.get_model_config("loadable")
    assert config["max_batch_size"] == 3
    assert config["parameters"]["weight"] == {"string_value": "2.5"}
    rpc.load_model("loadable")  # without an override: what the repository says
    assert rpc.get_model_config("loadable").config.max_batch_size == 8


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"backend": "python"}, "'backend' cannot be changed"),
        ({"max_batch_size": -1}, "'max_batch_size' is -1, and must be a whole number from 0 on"),
        ({"instance_group": [{"count": -1}]}, "'count' is -1, and must be a whole number from 1 on"),
        ({"instance_group": [{"count": 10**9}]}, "it needs instances from 1 to 1024"),
        (
            {"dynamic_batching": {"default_queue_policy": {"max_queue_size": "x"}}},
            "'max_queue_size' is \"x\", and must",
        ),
        ({"dynamic_batching": {"priority_levels": 10**9}}, "priorities from 1 to 1000"),
        ({"instance_group": [{"count": 1, "kind": "KIND_GPU"}]}, "'instance_group' of 'config'"),
        ({"dynamic_batching": {"preserve_ordering": True}}, "'dynamic_batching' of 'config'"),
        ({"parameters": {"precision": {"string_value": "fp16"}}}, "'parameters' of 'config'"),
        ({"parameters": {"threads": {"string_value": "many"}}}, "'parameters' of 'config'"),
        ({"version_policy": {"latest": {"num_versions": 1}}}, "'version_policy' of 'config'"),
        ({"version_policy": {"specific": {"versions": [9]}}}, "version 9"),
        ({"nonsense": 1}, "'nonsense' cannot be changed"),
    ],
)
def test_what_a_load_cannot_change_is_refused_and_the_model_serves_on(rest, rpc, config, text):
    for client in (rest, rpc):
        with pytest.raises(InferenceServerException, match="failed to load 'loadable'") as caught:
            client.load_model("loadable", config=json.dumps(config))
        assert text in str(caught.value)
    assert rest.is_model_ready("loadable")


@pytest.mark.parametrize(
    ("parameters", "status", "text"),
    [
        ({"config": "{"}, 400, "is not JSON"),
        ({"config": "[]"}, 400, "ModelConfig"),
        ({"config": 3}, 400, "ModelConfig"),
        ({"file:1/model.onnx": "AAAA"}, 501, "models in the request"),
        ({"other": True}, 400, "unrecognized load parameter"),
    ],
)
def test_load_parameters_that_are_wrong(server, parameters, status, text):
    answer = post(server, "/v2/repository/models/loadable/load", {"parameters": parameters})
    assert answer.status == status
    assert text in answer.json["error"]


def test_an_unloaded_model_is_gone_until_it_is_loaded_again(rest, rpc):
    for client, module in ((rest, triton_http), (rpc, triton_grpc)):
        client.unload_model("loadable")
        with pytest.raises(InferenceServerException):
            client.infer("loadable", [given(module, ROWS, "FP32")])
        client.load_model("loadable", config=json.dumps({"name": "loadable", "max_batch_size": 5}))
        assert client.infer("loadable", [given(module, ROWS, "FP32")]).as_numpy("y").shape == (2, 4)
        assert rest.get_model_config("loadable")["max_batch_size"] == 5
    with pytest.raises(InferenceServerException, match="failed to load 'none', failed to poll"):
        rest.load_model("none")


def test_a_replica_without_a_repository_is_not_controlled_by_clients(tmp_path):
    with replica(tmp_path, scripted("echo")) as server:
        for verb in ("load", "unload"):
            answer = post(server, f"/v2/repository/models/m/{verb}")
            assert answer.status == 503
            assert "explicit model load / unload is not allowed" in answer.json["error"]
        assert [m["state"] for m in post(server, "/v2/repository/index", {"ready": True}).json] == ["READY"]
        assert post(server, "/v2/models/m/infer", {"inputs": []}).status == 400


# --- settings


def test_log_settings_change_what_is_logged(server, rest, rpc):
    def loads():
        rest.load_model("loadable", config=json.dumps({"max_batch_size": 7}))
        rest.load_model("loadable")
        return server.log.count('"loaded loadable')

    assert rest.get_log_settings()["log_info"] is True
    before = loads()
    assert rest.update_log_settings({"log_info": False})["log_info"] is False
    silent = loads()
    assert rpc.get_log_settings(as_json=True)["settings"]["log_info"] == {"bool_param": False}
    rpc.update_log_settings({"log_info": True, "log_verbose_level": 1})
    assert rest.get_log_settings()["log_verbose_level"] == 1
    again = loads()
    rpc.update_log_settings({"log_verbose_level": 0})
    assert silent == before
    assert again > silent


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"log_file": "/tmp/x"}, "log file location can not be updated through network protocol"),
        ({"log_info": 1}, "log_info must be true or false"),
        ({"log_verbose_level": -1}, "log_verbose_level must be a non-negative integer"),
        ({"log_format": "x"}, "log_format can not be updated"),
        ({"other": 1}, "unknown log setting: 'other'"),
    ],
)
def test_wrong_log_settings_are_refused_whole(server, settings, text):
    answer = post(server, "/v2/logging", {"log_error": False, **settings})
    assert answer.status == 400
    assert text in answer.json["error"]
    assert server.get("/v2/logging").json["log_error"] is True


def test_trace_settings_are_shown_and_checked(server, rest, rpc):
    shown = rest.get_trace_settings()
    assert shown["trace_level"] == ["OFF"]
    assert {k: list(v.value) for k, v in rpc.get_trace_settings().settings.items()} == {
        k: v if isinstance(v, list) else [v] for k, v in shown.items()
    }
    assert rest.update_trace_settings("scores", {"trace_rate": "5"})["trace_rate"] == "5"
    assert rpc.get_trace_settings("scores", as_json=True)["settings"]["trace_rate"] == {"value": ["5"]}
    assert rest.get_trace_settings()["trace_rate"] == shown["trace_rate"]
    rpc.update_trace_settings("scores", {"trace_rate": None})
    assert rest.get_trace_settings("scores")["trace_rate"] == shown["trace_rate"]
    for client in (rest, rpc):
        with pytest.raises(InferenceServerException, match="unknown trace setting"):
            client.update_trace_settings(settings={"nonsense": "1"})
        with pytest.raises(InferenceServerException, match="unknown model: 'none'"):
            client.get_trace_settings("none")


# --- streaming


@pytest.fixture
def stream(server):
    answers = queue.Queue()
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        yield client, answers
        client.stop_stream(cancel_requests=True)


def test_requests_of_a_stream_run_at_once_and_failures_do_not_end_it(stream, gate):
    client, answers = stream
    gate.unlink()
    client.async_stream_infer("gate", [given(triton_grpc, ROWS, "FP32")], request_id="slow")
    client.async_stream_infer("none", [given(triton_grpc, ROWS, "FP32")], request_id="lost")
    client.async_stream_infer("bare", [given(triton_grpc, ROWS, "FP32")], request_id="quick")
    early = [answers.get(timeout=15) for _ in range(2)]
    gate.touch()
    late, error = answers.get(timeout=15)
    assert error is None
    assert late.get_response().id == "slow"
    (failed,) = [e for _, e in early if e is not None]
    assert "Request for unknown model: 'none' is not found" in str(failed)
    (quick,) = [r for r, e in early if e is None]
    assert quick.get_response().id == "quick"
    assert quick.get_response().parameters["triton_final_response"].bool_param is True
    np.testing.assert_array_equal(quick.as_numpy("y"), ROWS)


def test_many_requests_of_one_stream_are_all_answered_with_their_ids(stream):
    client, answers = stream
    for number in range(600):  # more than a stream may hold at a time
        data = np.full((1, 4), number, np.float32)
        client.async_stream_infer("bare", [given(triton_grpc, data, "FP32")], request_id=str(number))
    seen = {}
    for _ in range(600):
        result, error = answers.get(timeout=20)
        assert error is None
        seen[result.get_response().id] = float(result.as_numpy("y")[0, 0])
    assert seen == {str(number): float(number) for number in range(600)}


def test_an_error_on_a_stream_carries_the_requests_id(raw):
    requests = [pb.ModelInferRequest(model_name="none", id="a"), pb.ModelInferRequest(model_name="bare", id="b")]
    answers = list(raw.ModelStreamInfer(iter(requests), timeout=20))
    assert {a.infer_response.id: a.error_message.split("'")[0] for a in answers} == {
        "a": "Request for unknown model: ",
        "b": "[request id: b] expected 1 inputs but got 0 inputs for model ",
    }


def test_a_client_that_leaves_its_stream_leaves_nothing_behind(server, raw, gate):
    gate.unlink()
    request = pb.ModelInferRequest(model_name="gate", raw_input_contents=[ROWS.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=ROWS.shape)
    call = raw.ModelStreamInfer(iter([request] * 20))
    until(lambda: server.held("gate") >= 20, "the requests are held")
    call.cancel()
    gate.touch()
    until(lambda: server.held("gate") == 0, "nothing is held")


# --- paths


def test_health_by_the_names_of_kubernetes_and_head(server):
    for path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/v2/models/bare/versions/1/ready"):
        assert server.get(path).status == 200
        assert server.request("HEAD", path).status == 200
    for path in (
        "/v2/models/bare/config",
        "/v2/models/bare/versions/1/config",
        "/v2/models/bare/versions/1/stats",
        "/v2",
    ):
        answer = server.request("HEAD", path)
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["Content-Length"]) == len(server.get(path).body)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/bare/config", 405),
        ("GET", "/v2/repository/index", 405),
        ("GET", "/v2/repository/models/bare/load", 405),
        ("PUT", "/v2/logging", 405),
        ("DELETE", "/v2/trace/setting", 405),
        ("GET", "/v2/systemsharedmemory/region/r/register", 405),
        ("POST", "/v2/repository/nonsense", 404),
        ("POST", "/v2/systemsharedmemory/nonsense", 404),
        ("POST", "/v2/cudasharedmemory/nonsense", 404),
        ("GET", "/v2/models/none/trace/setting", 404),
        ("GET", "/v2/models/bare/versions/9/config", 404),
        ("GET", "/v2/cudasharedmemory/region/r/status", 404),
    ],
)
def test_paths_and_methods_that_do_not_exist(server, method, path, status):
    answer = server.request(method, path, b"{}" if method != "GET" else None)
    assert answer.status == status
    assert answer.json["error"]


@pytest.mark.parametrize("body", [b"[]", b"{", b"\xff", b"1" * 5000, b"[" * 5000])
@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/index",
        "/v2/repository/models/bare/load",
        "/v2/repository/models/bare/unload",
        "/v2/logging",
        "/v2/trace/setting",
        "/v2/systemsharedmemory/region/r/register",
    ],
)
def test_bodies_that_are_not_what_a_path_takes(server, path, body):
    answer = server.request("POST", path, body)
    assert answer.status == 400
    assert "failed to parse the request JSON buffer" in answer.json["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/repository/index", {"ready": "yes"}),
        ("/v2/repository/models/bare/load", {"parameters": 3}),
        ("/v2/repository/models/bare/unload", {"parameters": {"unload_dependents": 1}}),
        ("/v2/systemsharedmemory/region/r/register", {"key": 3, "byte_size": 8}),
        ("/v2/systemsharedmemory/region/r/register", {"key": "x"}),
    ],
)
def test_fields_of_the_wrong_type(server, path, body):
    assert post(server, path, body).status == 400
