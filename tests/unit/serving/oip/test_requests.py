"""Requests to a model as clients may write them: the same tensors by every way, and nothing worse than InvalidInput."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import service_pb2 as pb

from modelyard.domain.errors import InvalidInput, NotFound, Unsupported
from modelyard.domain.tensors import Datatype, Signature, TensorSpec, from_bf16, to_bf16
from modelyard.serving.http.head import NO_HEADER, Head
from modelyard.serving.oip import messages, rendering, rest, wire
from modelyard.serving.oip.plan import InferHead, InputHead, Interface, Plan, make_plan, named

TYPED = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)


def face(datatype, shape):
    dims = ("batch", *shape[1:])
    return Interface("m", 1, Signature((TensorSpec("x", datatype, dims),), (TensorSpec("y", datatype, dims),)))


@st.composite
def tensors(draw):
    datatype = draw(st.sampled_from(list(Datatype)))
    shape = draw(SHAPES)
    if datatype is Datatype.BYTES:
        size = int(np.prod(shape))
        words = draw(st.lists(st.text(max_size=8).map(str.encode), min_size=size, max_size=size))
        return datatype, wire.object_array(words).reshape(shape)
    tensor = draw(hnp.arrays(datatype.numpy, shape))
    return datatype, from_bf16(to_bf16(tensor)) if datatype is Datatype.BF16 else tensor


def flat(tensor):
    return [v.decode() if isinstance(v, bytes) else v for v in tensor.ravel().tolist()]


def nested(tensor):
    if tensor.dtype.kind == "O":
        return np.array(flat(tensor), object).reshape(tensor.shape).tolist()
    return tensor.tolist()


def described(datatype, tensor, **more):
    return {"name": "x", "datatype": str(datatype), "shape": list(tensor.shape), **more}


def ways(datatype, tensor):
    """The same request by every way: what `rest.decode` or `messages.decode` gets."""
    raw = wire.to_bytes(tensor, str(datatype))
    for data in (flat(tensor), nested(tensor)):
        yield NO_HEADER, json.dumps({"inputs": [described(datatype, tensor, data=data)]}).encode()
    head = described(datatype, tensor, parameters={"binary_data_size": len(raw)})
    for extra in ({}, {"id": "r"}, {"parameters": {"binary_data_output": True}}):
        text = json.dumps({"inputs": [head], **extra}).encode()
        yield len(text), text + raw
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[raw])
    request.inputs.add(name="x", datatype=str(datatype), shape=tensor.shape)
    yield None, request
    if str(datatype) in TYPED:
        typed = pb.ModelInferRequest(model_name="m")
        item = typed.inputs.add(name="x", datatype=str(datatype), shape=tensor.shape)
        getattr(item.contents, TYPED[str(datatype)]).extend(tensor.ravel().tolist())
        yield None, typed


def decode(interface, header_length, body):
    if header_length is None:
        return messages.decode(interface, body)
    return rest.decode(interface, header_length, body)


def same(got, want):
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    if want.dtype.kind == "O":
        assert got.tolist() == want.tolist()
    else:
        unequal = got.tobytes() != want.tobytes()
        if unequal:  # JSON keeps that it is NaN, not which
            np.testing.assert_array_equal(got, want)


@given(tensors())
@settings(deadline=None)
def test_every_way_gives_the_same_tensor_and_answers_come_back(case):
    datatype, tensor = case
    interface = face(datatype, tensor.shape)
    for header_length, body in ways(datatype, tensor):
        for _ in range(2):  # the second time by cached plans
            plan, (got,) = decode(interface, header_length, body)
            same(got, tensor)
        rendered = rendering.render(plan, [tensor], 0, len(tensor))
        head, _, answer = rendered.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(answer)}".encode() in head
        response = pb.ModelInferResponse.FromString(
            messages.response(plan, [tensor], 0, len(tensor)).SerializeToString()
        )
        raw = response.raw_output_contents[0]
        same(wire.from_bytes("y", str(datatype), tuple(response.outputs[0].shape), raw, 0, len(raw)), tensor)
        (output,) = json.loads(answer[: _json_length(head, answer)])["outputs"]
        if "data" in output:
            same(wire.from_json("y", str(datatype), tuple(output["shape"]), output["data"]), tensor)
        else:
            tail = answer[_json_length(head, answer) :]
            same(wire.from_bytes("y", str(datatype), tuple(output["shape"]), tail, 0, len(tail)), tensor)


def _json_length(head, answer):
    for line in head.decode().split("\r\n"):
        if line.startswith("Inference-Header-Content-Length: "):
            return int(line.partition(": ")[2])
    return len(answer)


# --- what clients may get wrong

BAD_NUMBERS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.integers(), max_size=3),
    st.just({}), st.sampled_from([2**63, -(2**63) - 1, 2**64, 1e400, -1e308, 10**400]),
)  # fmt: skip
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
NAMES = st.sampled_from(["x", "y", "z", "", "\x00", "é"])
KINDS = st.sampled_from([*map(str, Datatype), "", "FP8", "fp32", "BYTE"])
DIMENSIONS = st.sampled_from([0, 1, 2, 3, -1, -3, 2**31, 2**40, 2**63 - 1])
PARAMETERS = st.dictionaries(
    st.sampled_from(
        [
            "binary_data_size", "binary_data", "classification", "shared_memory_region", "shared_memory_byte_size",
            "shared_memory_offset", "timeout", "priority", "sequence_id", "binary_data_output", "other",
        ]
    ),
    SCALARS,
    max_size=3,
)  # fmt: skip
INPUTS = st.fixed_dictionaries(
    {"name": NAMES, "datatype": KINDS, "shape": st.lists(DIMENSIONS, max_size=4)},
    optional={"data": st.one_of(st.lists(BAD_NUMBERS, max_size=5), SCALARS), "parameters": PARAMETERS},
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(INPUTS, max_size=3)},
    optional={
        "id": SCALARS,
        "outputs": st.lists(st.fixed_dictionaries({"name": NAMES}, optional={"parameters": PARAMETERS}), max_size=3),
        "parameters": PARAMETERS,
    },
)
MODELS = [
    face(Datatype.FP32, (1, 3)),
    face(Datatype.INT64, (1, 3)),
    face(Datatype.BYTES, (1, 2)),
    face(Datatype.BF16, (1, 3)),
    face(Datatype.BOOL, (1, 1)),
    Interface(
        "two",
        1,
        Signature(
            (TensorSpec("x", Datatype.FP32, ("batch", "n")), TensorSpec("z", Datatype.UINT8, ("batch",))),
            (TensorSpec("y", Datatype.FP16, ("batch", 2)),),
        ),
    ),
]


@given(st.sampled_from(MODELS), REQUESTS, st.binary(max_size=40), st.booleans())
@settings(max_examples=500, deadline=None)
def test_whatever_the_json_asks_for_is_an_answer_or_a_client_error(interface, request, tail, with_tail):
    body = json.dumps(request).encode()
    try:
        plan, tensors_ = rest.decode(interface, len(body) if with_tail else NO_HEADER, body + tail * with_tail)
    except (InvalidInput, NotFound, Unsupported) as error:
        str(error).encode()
        return
    assert plan.rows >= 1
    for spec, tensor in zip(interface.signature.inputs, tensors_, strict=True):
        assert tensor.dtype == spec.datatype.numpy


@given(st.sampled_from(MODELS), st.binary(max_size=200), st.integers(-1, 210))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_client_error_or_a_request(interface, body, header_length):
    try:
        rest.decode(interface, header_length, body)
    except (InvalidInput, NotFound, Unsupported):
        return


@given(st.sampled_from(MODELS), st.binary(max_size=120))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_client_error_or_a_grpc_request(interface, body):
    try:
        messages.decode(interface, messages.parse(pb.ModelInferRequest, body))
    except (InvalidInput, NotFound, Unsupported):
        return


@given(st.sampled_from(MODELS), INPUTS, st.sampled_from(sorted(set(TYPED.values()))), st.data())
@settings(max_examples=300, deadline=None)
def test_any_grpc_message_is_a_client_error_or_a_request(interface, head, field, data):
    request = pb.ModelInferRequest(id=data.draw(st.text(max_size=3)))
    item = request.inputs.add(name=head["name"], datatype=head["datatype"], shape=head["shape"])
    values = st.floats(width=32) if field.startswith("fp") else st.integers(0, 2**31 - 1)
    values = {"bool_contents": st.booleans(), "bytes_contents": st.binary(max_size=4)}.get(field, values)
    getattr(item.contents, field).extend(data.draw(st.lists(values, max_size=4)))
    request.raw_input_contents.extend(data.draw(st.lists(st.binary(max_size=16), max_size=2)))
    for name, value in head.get("parameters", {}).items():
        if isinstance(value, bool):
            item.parameters[name].bool_param = value
        elif isinstance(value, str):
            item.parameters[name].string_param = value
        elif isinstance(value, float):
            item.parameters[name].double_param = value
        elif value is None:
            item.parameters[name].SetInParent()
    try:
        messages.decode(interface, request)
    except (InvalidInput, NotFound, Unsupported):
        return


@pytest.mark.parametrize(
    "text",
    [
        '{"inputs":[{"name":"\\ud800","datatype":"FP32","shape":[1,3],"data":[NaN,1,2]}]}',
        '{"id":"\\udfff","inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[NaN,1,2]}]}',
        '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[NaN,1,"Infinity"]}]}',
        '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[NaN,1,2]}]} trailing',
        '{"inputs":[{"name":"x","datatype":"FP32","shape":[NaN,3],"data":[1,1,2]}]}',
        '{"inputs":' + "[" * 100_000 + "NaN",
        '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[nan,1,2]}]}',
        "NaN",
    ],
)
def test_nan_where_it_does_not_belong(text):
    with pytest.raises(InvalidInput):
        rest.decode(MODELS[0], NO_HEADER, text.encode())


@pytest.mark.parametrize("filler", ["", " " * 5000])
def test_nan_is_no_integer(filler):
    text = '{"inputs":[{"name":"x","datatype":"INT64","shape":[1,3],"data":[NaN,1,2]}]}' + filler
    with pytest.raises(InvalidInput, match="unable to parse 'data'"):
        rest.decode(MODELS[1], NO_HEADER, text.encode())


@pytest.mark.parametrize("datatype", ["FP16", "FP32"])
def test_a_number_beyond_the_datatype_is_infinity_as_it_is_in_ieee_754(datatype):
    interface = face(Datatype(datatype), (1, 2))
    item = {"name": "x", "datatype": datatype, "shape": [1, 2], "data": [1e300, -1e300]}
    with np.errstate(over="ignore"):
        _, (tensor,) = rest.decode(interface, NO_HEADER, json.dumps({"inputs": [item]}).encode())
    assert tensor.tolist() == [[np.inf, -np.inf]]


@pytest.mark.parametrize("data", [[True, 1.0, 2.0], [1.0, "2", 3.0], [1.0, None, 3.0], 1.0, "1", [], [1.0, 2.0]])
@pytest.mark.parametrize("filler", ["", " " * 5000])
@pytest.mark.parametrize("interface", MODELS[:4:3])
def test_what_is_no_number_is_refused_for_floats(interface, data, filler):
    datatype = str(interface.signature.inputs[0].datatype)
    item = {"name": "x", "datatype": datatype, "shape": [1, 3], "data": data}
    with pytest.raises(InvalidInput, match=r"unable to parse 'data'|elements, but its shape"):
        rest.decode(interface, NO_HEADER, json.dumps({"inputs": [item]}).encode() + filler.encode())


@pytest.mark.parametrize("data", [[1, True, 2], [1, 2.5, 3], [1, 2**63, 3], [1, "2", 3], [1, 2], [1, None, 2]])
@pytest.mark.parametrize("filler", ["", " " * 5000])
def test_what_is_no_whole_number_is_refused_for_integers(data, filler):
    item = {"name": "x", "datatype": "INT64", "shape": [1, 3], "data": data}
    with pytest.raises(InvalidInput, match=r"unable to parse 'data'|elements, but its shape|does not fit"):
        rest.decode(MODELS[1], NO_HEADER, json.dumps({"inputs": [item]}).encode() + filler.encode())


def test_a_kept_plan_under_another_id_is_the_same_but_for_the_id():
    interface = face(Datatype.FP32, (1, 3))
    head = InferHead([InputHead("x", "FP32", [2, 3])], "first", parameters={"timeout": 5000, "priority": 2})
    plan = make_plan(interface, head)
    copy = named(plan, "second")
    assert copy.id == "second"
    for slot in set(Plan.__slots__) - {"id", "template"}:
        assert getattr(copy, slot) is getattr(plan, slot), slot


@pytest.mark.parametrize("ids", [("", "a", "é", "", "a", '"\\')])
@pytest.mark.parametrize("wishes", [{}, {"outputs": [{"name": "y"}]}, {"parameters": {"binary_data_output": True}}])
@pytest.mark.parametrize("tail", [b"", np.zeros(3, np.float32).tobytes()])
def test_ids_differ_though_plans_are_kept(ids, wishes, tail):
    interface = face(Datatype.FP32, (1, 3))
    item = {"name": "x", "datatype": "FP32", "shape": [1, 3]}
    item |= {"parameters": {"binary_data_size": len(tail)}} if tail else {"data": [1, 2, 3]}
    for given_id in ids:
        text = json.dumps({"inputs": [item], **wishes, **({"id": given_id} if given_id else {})}).encode()
        plan, _ = rest.decode(interface, len(text) if tail else NO_HEADER, text + tail)
        head, _, answer = rendering.render(plan, [np.ones((1, 3), np.float32)], 0, 1).partition(b"\r\n\r\n")
        assert f"Content-Length: {len(answer)}".encode() in head
        shown = json.loads(answer[: _json_length(head, answer)])
        assert shown.get("id", "") == given_id
        assert shown["outputs"][0]["shape"] == [1, 3]
    assert len(interface.json_plans) == 1


def test_null_where_a_client_leaves_something_out():
    item = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3], "parameters": None}
    body = {"id": None, "inputs": [item], "outputs": None, "parameters": None}
    plan, (tensor,) = rest.decode(MODELS[0], NO_HEADER, json.dumps(body).encode())
    assert plan.id == ""
    assert tensor.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("timeout", ["soon", "9" * 400, "9" * 5000, True, False])
def test_a_timeout_that_is_no_time_is_the_clients_mistake(timeout):
    interface = face(Datatype.FP32, (2, 3))
    head = InferHead([InputHead("x", "FP32", [2, 3])], parameters={"timeout": timeout})
    with pytest.raises(InvalidInput, match="'timeout' must be whole microseconds"):
        make_plan(interface, head)


@pytest.mark.parametrize(("timeout", "seconds"), [(0, None), (5000, 0.005), ("5000", 0.005), (10**26, 1e20)])
def test_a_timeout_may_be_long_or_none(timeout, seconds):
    interface = face(Datatype.FP32, (2, 3))
    head = InferHead([InputHead("x", "FP32", [2, 3])], parameters={"timeout": timeout})
    assert make_plan(interface, head).timeout_s == (seconds if seconds is None else pytest.approx(seconds))


def test_strings_count_as_read_and_written_one_by_one_even_as_binary():
    strings, floats = face(Datatype.BYTES, (8,)), face(Datatype.FP32, (8,))
    head = Head("POST", (), 0, True, False, False, 100)
    codec = rest.RestCodec()
    assert codec.slow_bytes(strings, head, bytes(5000)) == 5000
    assert codec.slow_bytes(floats, head, bytes(5000)) == 100
    wishes = {"binary_data_output": True}
    for model, datatype, found in ((strings, Datatype.BYTES, 8), (floats, Datatype.FP32, 0)):
        plan = make_plan(model, InferHead([InputHead("x", datatype, [8])], parameters=wishes))
        assert codec.slow_elements(plan, [np.empty(8, datatype.numpy)], 8, 8) == found


@pytest.mark.parametrize("datatype", [Datatype.FP32, Datatype.FP64, Datatype.BOOL, Datatype.INT32])
def test_typed_contents_written_one_field_at_a_time_and_with_unknown_fields_are_the_same(datatype):
    want = np.array([1, 0, 1], datatype.numpy)
    request = pb.ModelInferRequest(model_name="m")
    item = request.inputs.add(name="x", datatype=str(datatype), shape=[3])
    unknown = b"\xfa\x06\x03new"  # field 111, of a later version of the protocol
    for value in want.tolist():  # as an encoder without packing writes them
        one = pb.InferTensorContents(**{TYPED[str(datatype)]: [value]}).SerializeToString()
        unpacked = bytes([one[0] & 0xF8 | {4: 5, 8: 1, 1: 0}[len(one) - 2]]) + one[2:]
        item.contents.MergeFromString(unpacked + unknown)
    _, (got,) = messages.decode(face(datatype, (3,)), request)
    same(got, want)
