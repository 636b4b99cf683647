"""TF Serving's protocol: its documentation's examples, the real stubs' bytes, parity with the other protocol."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelyard.domain.services import VersionPolicy
from modelyard.domain.tensors import Datatype, Signature, from_bf16, to_bf16
from modelyard.serving.oip import wire
from modelyard.serving.tfs import messages as pb
from modelyard.serving.tfs.tensors import DATATYPES as BY_NUMBER
from modelyard.serving.tfs.tensors import from_proto, into_proto
from tests.serving_harness import replica, scripted, tensor

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tf_serving.json").read_text())
DATATYPES = [str(d) for d in Datatype]
VECTOR = Signature((tensor("x", "FP32", "batch"),), (tensor("y", "FP32", "batch"),))
PAIR = Signature(
    (tensor("a", "FP32", "batch", 2), tensor("b", "BYTES", "batch")),
    (tensor("p", "FP32", "batch", 2), tensor("q_bytes", "BYTES", "batch")),
)
LABELLED = Signature(
    (tensor("s", "FP32", "batch", 2), tensor("l", "BYTES", "batch", 2)),
    (tensor("scores", "FP32", "batch", 2), tensor("classes", "BYTES", "batch", 2)),
)
FIXED = Signature((tensor("x", "FP32", 2, 2),), (tensor("y", "FP32", 2, 2),))
COLUMN = Signature((tensor("x", "FP32", "batch", 1),), (tensor("y", "FP32", "batch", 1),))


def golden(name, datatype=""):
    return base64.b64decode(GOLDEN[name][datatype] if datatype else GOLDEN[name])


def echo(datatype):
    signature = Signature((tensor("x", datatype, "batch", 2),), (tensor("y", datatype, "batch", 2),))
    return scripted("echo", signature, name=f"echo-{datatype.lower()}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    models = [
        *map(echo, DATATYPES),
        scripted("scale", VECTOR, name="double"),
        scripted("echo", PAIR, name="pair"),
        scripted("echo", LABELLED, name="labelled"),
        scripted("echo", FIXED, name="fixed"),
        scripted("echo", COLUMN, name="column"),
        scripted("poison", COLUMN, name="poison", delay_us=50_000),
        scripted("echo", name="m", version=1),
        scripted("scale", name="m", version=3),
        scripted("echo", name="shared", version=1),
        scripted("scale", name="shared", version=2),
    ]
    policies = {
        "m": VersionPolicy(labels={"stable": 1, "next": 3}),
        "shared": VersionPolicy(canary={2: 0.5}),
    }
    with replica(tmp_path_factory.mktemp("tfs"), *models, policies=policies) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


def call(channel, method, message, service="PredictionService"):
    payload = message if isinstance(message, bytes) else message.SerializeToString()
    return channel.unary_unary(f"/tensorflow.serving.{service}/{method}")(payload, timeout=15)


def post(server, path, body):
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.request("POST", f"/v1/models/{path}", payload)


# --- REST, by the documentation


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.0, 4.0, 10.0]}),
        ({"instances": [{"x": 1.0}, {"x": 2}]}, {"predictions": [2.0, 4.0]}),
        ({"inputs": [1.0, 2.0]}, {"outputs": [2.0, 4.0]}),
        ({"inputs": {"x": [1.0, 2.0]}}, {"outputs": [2.0, 4.0]}),
        ({"signature_name": "serving_default", "instances": [3]}, {"predictions": [6.0]}),
    ],
)
def test_one_input_by_row_and_by_column(server, body, answer):
    got = post(server, "double:predict", body)
    assert got.status == 200
    assert got.json == answer


def test_several_inputs_by_row_and_by_column(server):
    binary = base64.b64encode(b"\xff\x00").decode()
    row = {"instances": [{"a": [1, 2], "b": "text"}, {"a": [3, 4], "b": {"b64": binary}}]}
    text = base64.b64encode(b"text").decode()
    assert post(server, "pair:predict", row).json == {
        "predictions": [{"p": [1, 2], "q_bytes": {"b64": text}}, {"p": [3, 4], "q_bytes": {"b64": binary}}]
    }
    column = {"inputs": {"a": [[1, 2], [3, 4]], "b": ["text", {"b64": binary}]}}
    assert post(server, "pair:predict", column).json == {
        "outputs": {"p": [[1, 2], [3, 4]], "q_bytes": [{"b64": text}, {"b64": binary}]}
    }


def test_numbers_that_json_has_no_words_for(server):
    got = post(server, "double:predict", b'{"instances": [NaN, Infinity, -Infinity, 1.5]}')
    assert got.status == 200
    assert got.body == b'{"predictions":[NaN,Infinity,-Infinity,3.0]}'


@pytest.mark.parametrize("pad", [0, 5000])
def test_numbers_beyond_64_bits_are_numbers(server, pad):
    body = json.dumps({"instances": [2**70, -(2**64), 1.5], "pad": "x" * pad}).encode()
    assert post(server, "double:predict", body).json == {"predictions": [2.0**71, -(2.0**65), 3.0]}


@pytest.mark.parametrize("large", [False, True])
def test_a_model_without_a_batch_and_large_bodies(server, large):
    assert post(server, "fixed:predict", {"inputs": [[1, 2], [3, 4]]}).json == {"outputs": [[1, 2], [3, 4]]}
    rows = np.random.default_rng(0).standard_normal((3000 if large else 100, 2)).astype(np.float32)
    got = post(server, "echo-fp32:predict", {"instances": rows.tolist()})
    assert got.json == {"predictions": rows.tolist()}


@pytest.mark.parametrize("filler", [0, 2000])  # msgspec and simdjson
@pytest.mark.parametrize(
    "wrong",
    [
        "[1, [2]]",
        "[1]",
        "[1, 2, 3]",
        "[[1], [2]]",
        "[1, null]",
        '[1, "2"]',
        "[1, {}]",
        "[]",
        "1",
    ],
)
def test_rows_that_do_not_fit_are_refused(server, filler, wrong):
    body = '{{"instances": [[1, 2], {}{}]}}'.format(wrong, ", [3, 4]" * filler)
    got = post(server, "echo-fp32:predict", body.encode())
    assert got.status == 400
    assert got.json["error"]


def test_lengths_that_add_up_do_not_make_a_rectangle(server):
    rows = "[1], [2, 3, 4], " + "[1, 2], " * 2000
    assert post(server, "echo-fp32:predict", f'{{"instances": [{rows}[1, 2]]}}'.encode()).status == 400


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("double:predict", b"{", 400, "JSON Parse error"),
        ("double:predict", b"[1]", 400, "not an object"),
        ("double:predict", b"{}", 400, "Missing 'inputs' or 'instances'"),
        ("double:predict", b'{"inputs": [1], "instances": [1]}', 400, "Both 'inputs'"),
        ("double:predict", b'{"instances": []}', 400, "non-empty"),
        ("double:predict", b'{"instances": 5}', 400, "non-empty"),
        ("double:predict", b'{"instances": [{"x": 1}, {"z": 1}]}', 400, "same keys"),
        ("double:predict", b'{"instances": [{"z": 1}]}', 400, "Send extra: {z}. Missing but required: {x}."),
        ("double:predict", b'{"signature_name": 5, "instances": [1]}', 400, "signature_name"),
        ("double:predict", b'{"signature_name": "other", "instances": [1]}', 400, "not found"),
        ("pair:predict", b'{"instances": [1]}', 400, "has 2 inputs"),
        ("pair:predict", b'{"instances": [{"a": [1, 2], "b": {"b64": "!"}}]}', 400, "base64"),
        ("pair:predict", b'{"instances": [{"a": [1, 2], "b": 5}]}', 400, "takes strings"),
        ("echo-int8:predict", b'{"instances": [[1, 200]]}', 400, "does not fit INT8"),
        ("echo-int8:predict", b'{"instances": [[1, 1.5]]}', 400, "INT8"),
        ("echo-bytes:predict", b'{"instances": [["a", {"b64": "/w=="}]]}', 400, "not UTF-8"),
        ("poison:predict", b'{"instances": [[666]]}', 500, "failed"),
        ("nope:predict", b'{"instances": [1]}', 404, "Servable not found for request: Latest(nope)"),
        ("m/versions/2:predict", b'{"instances": [1]}', 404, "Servable not found for request: Specific(m, 2)"),
        ("m/labels/x:predict", b'{"instances": [1]}', 400, "Unrecognized servable version label: x"),
        ("m:guess", b"{}", 404, "Malformed request"),
        ("m/versions/1/more:predict", b"{}", 404, "Malformed request"),
        ("double:classify", b'{"examples": [{"x": 1}]}', 400, "cannot classify"),
        ("labelled:regress", b'{"examples": [{"x": 1}]}', 400, "cannot regress"),
        ("column:regress", b'{"examples": [{"z": 1}]}', 400, "has no feature 'x'"),
        ("column:regress", b'{"examples": []}', 400, "empty"),
        ("column:regress", b'{"examples": 5}', 400, "must be a list"),
        ("column:regress", b'{"examples": [5]}', 400, "must be a JSON object"),
        ("column:regress", b'{"examples": [{"x": [1, 2]}]}', 400, "has 2 values"),
        ("column:regress", b'{"examples": [{"x": "text"}]}', 400, "must be numbers"),
    ],
)
def test_bad_requests_say_what_is_wrong(server, path, body, status, text):
    got = post(server, path, body)
    assert got.status == status
    assert text in got.json["error"]


def test_versions_and_labels(server):
    for path, factor in (
        ("m", 2),
        ("m/versions/1", 1),
        ("m/versions/3", 2),
        ("m/labels/stable", 1),
        ("m/labels/next", 2),
    ):
        got = post(server, f"{path}:predict", {"instances": [[1, 2, 3, 4]]})
        assert got.json == {"predictions": [[factor * v for v in (1, 2, 3, 4)]]}


def test_classification_names_classes_by_number_or_by_the_models_labels(server):
    unnamed = post(server, "m/versions/1:classify", {"examples": [{"x": [0.5, 1, 2, 4]}]}).json
    assert unnamed == {"result": [[["0", 0.5], ["1", 1.0], ["2", 2.0], ["3", 4.0]]]}
    body = {"context": {"l": ["cat", "dog"]}, "examples": [{"s": [0.25, 0.75]}, {"s": [1, 0]}]}
    assert post(server, "labelled:classify", body).json == {
        "result": [[["cat", 0.25], ["dog", 0.75]], [["cat", 1.0], ["dog", 0.0]]]
    }


def test_regression(server):
    assert post(server, "column:regress", {"examples": [{"x": 1.5}, {"x": [2]}]}).json == {"result": [1.5, 2.0]}


def test_status_and_metadata(server):
    states = server.get("/v1/models/m").json["model_version_status"]
    ok = {"error_code": "OK", "error_message": ""}
    assert states == [{"version": v, "state": "AVAILABLE", "status": ok} for v in ("3", "1")]
    assert len(server.get("/v1/models/m/versions/1").json["model_version_status"]) == 1
    assert server.get("/v1/models/m/labels/next").json["model_version_status"][0]["version"] == "3"
    for path in ("nope", "m/versions/2", "nope/metadata", "m/versions/2/metadata"):
        assert server.get(f"/v1/models/{path}").status == 404
    shown = server.get("/v1/models/m/metadata").json
    assert shown["model_spec"] == {"name": "m", "signature_name": "", "version": "3"}
    definition = shown["metadata"]["signature_def"]["signature_def"]["serving_default"]
    dims = [{"size": "-1", "name": ""}, {"size": "4", "name": ""}]
    assert definition["inputs"]["x"]["tensor_shape"] == {"dim": dims, "unknown_rank": False}
    assert definition["method_name"] == "tensorflow/serving/predict"
    assert server.request("POST", "/v1/models/m", b"{}").status == 405
    assert server.get("/v1/models/m:predict").status == 405
    assert b"modelyard_ready 1" in server.get("/monitoring/prometheus/metrics").body


# --- gRPC, by the bytes of the real stubs


@pytest.mark.parametrize("datatype", DATATYPES)
def test_a_tensor_of_the_real_stubs_comes_back_bit_for_bit(channel, datatype):
    answer = pb.PredictResponse.FromString(call(channel, "Predict", golden("predict", datatype)))
    assert answer.outputs["y"].SerializeToString(deterministic=True) == golden("tensor", datatype)
    assert (answer.model_spec.name, answer.model_spec.version.value) == (f"echo-{datatype.lower()}", 1)
    assert answer.model_spec.signature_name == "serving_default"


@pytest.mark.parametrize("datatype", DATATYPES)
def test_typed_fields_are_taken_as_well_as_content(channel, datatype):
    request = pb.PredictRequest()
    request.model_spec.name = f"echo-{datatype.lower()}"
    request.inputs["x"].ParseFromString(golden("tensor", datatype))
    answer = pb.PredictResponse.FromString(call(channel, "Predict", request))
    assert answer.outputs["y"] == request.inputs["x"]


def test_version_and_label_of_the_real_stubs(channel):
    third = pb.PredictResponse.FromString(call(channel, "Predict", golden("predict_version")))
    first = pb.PredictResponse.FromString(call(channel, "Predict", golden("predict_label")))
    assert (third.model_spec.version.value, list(third.outputs["y"].float_val)) == (3, [1.0] * 8)
    assert (first.model_spec.version.value, list(first.outputs["y"].float_val)) == (1, [0.5] * 8)


def test_one_value_stands_for_all(channel):
    request = pb.PredictRequest.FromString(golden("predict_splat"))
    request.model_spec.name = "m"
    proto = request.inputs["x"]
    proto.ClearField("tensor_content")
    proto.ClearField("float_val")
    proto.float_val.append(0.5)
    assert list(pb.PredictResponse.FromString(call(channel, "Predict", request)).outputs["y"].float_val) == [1.0] * 8
    proto.float_val.append(0.25)
    with pytest.raises(grpc.RpcError, match="2 values in float_val, its shape needs 8"):
        call(channel, "Predict", request)


def test_classify_regress_and_multi_inference(channel):
    answer = pb.ClassificationResponse.FromString(call(channel, "Classify", golden("classify")))
    rows = [[(c.label, c.score) for c in row.classes] for row in answer.result.classifications]
    assert rows == [[("0", 2), ("1", 4), ("2", 6), ("3", 8)], [("0", 10), ("1", 12), ("2", 14), ("3", 16)]]
    request = pb.RegressionRequest.FromString(golden("regress"))
    request.model_spec.name = "column"
    regressed = pb.RegressionResponse.FromString(call(channel, "Regress", request))
    assert [r.value for r in regressed.result.regressions] == [1.0, 2.0]
    multi = pb.MultiInferenceResponse.FromString(call(channel, "MultiInference", golden("multi")))
    assert len(multi.results) == 2
    for result in multi.results:
        (row,) = result.classification_result.classifications
        assert [c.score for c in row.classes] == [2, 4, 6, 8]


def test_all_tasks_of_one_call_are_answered_by_one_version(channel):
    request = pb.MultiInferenceRequest.FromString(golden("multi"))
    for task in request.tasks:
        task.model_spec.name = "shared"
        task.model_spec.ClearField("version_choice")
    seen = set()
    for _ in range(6):
        multi = pb.MultiInferenceResponse.FromString(call(channel, "MultiInference", request))
        (version,) = {result.model_spec.version.value for result in multi.results}
        seen.add(version)
    assert seen == {1, 2}
    request.tasks[0].model_spec.version.value = 1
    multi = pb.MultiInferenceResponse.FromString(call(channel, "MultiInference", request))
    assert {result.model_spec.version.value for result in multi.results} == {1}
    request.tasks[1].model_spec.version.value = 2
    with pytest.raises(grpc.RpcError, match="same version"):
        call(channel, "MultiInference", request)


def test_multi_inference_refuses_what_it_cannot(channel):
    request = pb.MultiInferenceRequest.FromString(golden("multi"))
    request.tasks[1].method_name = "tensorflow/serving/predict"
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "MultiInference", request)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    request.tasks[1].model_spec.name = "column"
    with pytest.raises(grpc.RpcError, match="same model"):
        call(channel, "MultiInference", request)


def test_metadata_and_status_have_the_real_stubs_bytes(channel):
    got = pb.GetModelMetadataResponse.FromString(call(channel, "GetModelMetadata", golden("metadata")))
    want = pb.GetModelMetadataResponse.FromString(golden("metadata_answer"))
    ours, theirs = (pb.SignatureDefMap.FromString(m.metadata["signature_def"].value) for m in (got, want))
    assert ours == theirs
    assert got.metadata["signature_def"].type_url == want.metadata["signature_def"].type_url
    answer = call(channel, "GetModelStatus", golden("status"), "ModelService")
    states = pb.GetModelStatusResponse.FromString(answer).model_version_status
    assert [(s.version, s.state) for s in states] == [(3, pb.STATES["AVAILABLE"]), (1, pb.STATES["AVAILABLE"])]
    one = pb.GetModelStatusRequest.FromString(golden("status"))
    one.model_spec.version.value = 1
    answer = pb.GetModelStatusResponse.FromString(call(channel, "GetModelStatus", one, "ModelService"))
    want_state = pb.GetModelStatusResponse.FromString(golden("status_answer"))
    assert [(s.version, s.state) for s in answer.model_version_status] == [
        (s.version, s.state) for s in want_state.model_version_status
    ]


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (lambda r: setattr(r.model_spec, "name", ""), "INVALID_ARGUMENT", "Missing model name"),
        (
            lambda r: setattr(r.model_spec, "name", "nope"),
            "NOT_FOUND",
            "Servable not found for request: Specific(nope, 3)",
        ),
        (lambda r: setattr(r.model_spec.version, "value", 9), "NOT_FOUND", "Specific(m, 9)"),
        (lambda r: setattr(r.model_spec, "version_label", "zz"), "INVALID_ARGUMENT", "Unrecognized servable version"),
        (lambda r: setattr(r.model_spec, "signature_name", "zz"), "INVALID_ARGUMENT", "not found"),
        (lambda r: r.output_filter.append("zz"), "INVALID_ARGUMENT", "output tensor alias not found"),
        (lambda r: r.inputs["zz"].Clear(), "INVALID_ARGUMENT", "Send extra: {zz}"),
        (lambda r: setattr(r.inputs["x"], "dtype", 9), "INVALID_ARGUMENT", "DT_INT64"),
        (lambda r: setattr(r.inputs["x"].tensor_shape, "unknown_rank", True), "INVALID_ARGUMENT", "unknown"),
        (lambda r: setattr(r.inputs["x"].tensor_shape.dim[0], "size", -1), "INVALID_ARGUMENT", "negative"),
        (lambda r: setattr(r.inputs["x"].tensor_shape.dim[0], "size", 2**62), "INVALID_ARGUMENT", "more elements"),
        (lambda r: setattr(r.inputs["x"], "tensor_content", b"123"), "INVALID_ARGUMENT", "byte size mismatch"),
    ],
)
def test_bad_messages_say_what_is_wrong(channel, change, code, text):
    request = pb.PredictRequest.FromString(golden("predict_version"))
    change(request)
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "Predict", request)
    assert caught.value.code().name == code
    assert text in caught.value.details()


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_an_invalid_argument(channel, payload):
    for path in ("PredictionService/Predict", "PredictionService/Classify", "ModelService/GetModelStatus"):
        service, method = path.split("/")
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, method, payload, service)
        assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


def test_clients_control_no_models_without_a_repository(channel, server):
    answer = pb.ReloadConfigResponse.FromString(
        call(channel, "HandleReloadConfigRequest", golden("reload"), "ModelService")
    )
    assert answer.status.error_code == pb.ERROR_CODES["PERMISSION_DENIED"]
    assert len(server.get("/v1/models/m").json["model_version_status"]) == 2


# --- parity


@pytest.mark.parametrize("datatype", [d for d in DATATYPES if d not in ("BYTES", "BOOL", "BF16", "FP16")])
def test_the_same_numbers_over_all_four_protocols(server, channel, datatype):
    dtype = Datatype(datatype).numpy
    rng = np.random.default_rng(3)
    if dtype.kind == "f":
        data = rng.standard_normal((3, 2)).astype(dtype)
    else:
        data = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (3, 2), dtype)
    name = f"echo-{datatype.lower()}"
    row = np.array(post(server, f"{name}:predict", {"instances": data.tolist()}).json["predictions"], dtype)
    item = {"name": "x", "datatype": datatype, "shape": [3, 2], "data": data.tolist()}
    oip = server.request("POST", f"/v2/models/{name}/infer", json.dumps({"inputs": [item]}).encode())
    request = pb.PredictRequest()
    request.model_spec.name = name
    into_proto(request.inputs["x"], Datatype(datatype), data)
    answer = pb.PredictResponse.FromString(call(channel, "Predict", request))
    rpc = from_proto(tensor("y", datatype, "batch", 2), answer.outputs["y"])
    want = data.tobytes()
    assert row.tobytes() == want
    assert np.array(oip.json["outputs"][0]["data"], dtype).tobytes() == want
    assert rpc.tobytes() == want


@st.composite
def arrays(draw):
    datatype = draw(st.sampled_from([d for d in Datatype if d is not Datatype.BYTES]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4))
    return datatype, draw(hnp.arrays(datatype.numpy, shape))


@given(arrays())
def test_any_tensor_survives_a_proto(case):
    datatype, array = case
    if datatype is Datatype.BF16:
        array = from_bf16(to_bf16(array)).reshape(array.shape)
    proto = pb.TensorProto()
    into_proto(proto, datatype, array)
    back = from_proto(tensor("x", str(datatype), *array.shape), pb.TensorProto.FromString(proto.SerializeToString()))
    assert BY_NUMBER[proto.dtype] is datatype
    assert (back.shape, back.dtype, back.tobytes()) == (array.shape, array.dtype, array.tobytes())


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_any_strings_survive_a_proto(values):
    proto = pb.TensorProto()
    into_proto(proto, Datatype.BYTES, wire.object_array(values))
    assert from_proto(tensor("x", "BYTES", "n"), proto).tolist() == values


def test_a_process_may_also_hold_tensorflows_messages():
    """TensorFlow registers files of its own names in the default pool; ours are elsewhere, and stay what they are."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    pool = descriptor_pool.Default()
    file = descriptor_pb2.FileDescriptorProto(
        name="tensorflow/core/framework/tensor_shape.proto", package="tensorflow", syntax="proto3"
    )
    file.message_type.add(name="TensorShapeProto").field.add(name="unknown_rank", number=3, type=8, label=1)
    pool.Add(file)
    theirs = message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.TensorShapeProto"))
    assert theirs(unknown_rank=True).SerializeToString() == b"\x18\x01"
    assert pb.TensorProto.FromString(golden("tensor", "FP32")).tensor_shape.dim[0].size == 2


def test_batch_mates_of_a_bad_row_are_not_hurt(server):
    """Requests that arrive together join one batch; the poisoned one alone fails."""
    bodies = [{"instances": [[1.0]]}, {"instances": [[666.0]]}, {"instances": [[2.0]]}]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda body: post(server, "poison:predict", body), bodies))
    assert [a.status for a in answers] == [200, 500, 200]
    assert [a.json.get("predictions") for a in answers] == [[[1.0]], None, [[2.0]]]
