"""Encoded requests decode to the tensors that went in."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import service_pb2

from modelyard.domain.errors import InvalidInput
from modelyard.domain.workload import Protocol
from modelyard.profile.requests import batch_payloads, encode, mixed_payloads


def split(request: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return first, {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, body


def send(tensors, protocol, datatypes=None):
    return encode(tensors, protocol, model="digits", version=3, host="127.0.0.1:81", datatypes=datatypes)


ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.int64, np.uint8, np.bool_]), hnp.array_shapes(min_dims=1, max_dims=3, max_side=4)
)


@given(ARRAYS)
def test_binary_requests_carry_the_tensor_bit_for_bit(array):
    first, headers, body = split(send({"x": array}, Protocol.HTTP_BINARY))
    assert first == "POST /v2/models/digits/versions/3/infer HTTP/1.1"
    assert int(headers["content-length"]) == len(body)
    size = int(headers["inference-header-content-length"])
    described = json.loads(body[:size])
    (tensor,) = described["inputs"]
    assert tensor["parameters"]["binary_data_size"] == len(body) - size
    assert described["parameters"]["binary_data_output"] is True
    back = np.frombuffer(body[size:], array.dtype).reshape(tensor["shape"])
    assert np.array_equal(back, array, equal_nan=array.dtype.kind == "f")


@given(hnp.arrays(np.float32, (2, 3), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)))
def test_json_requests_carry_the_tensor(array):
    _, headers, body = split(send({"x": array}, Protocol.HTTP_JSON))
    assert int(headers["content-length"]) == len(body)
    (tensor,) = json.loads(body)["inputs"]
    assert tensor["datatype"] == "FP32"
    assert np.array_equal(np.array(tensor["data"], np.float32).reshape(tensor["shape"]), array)


def test_grpc_requests_parse_with_the_protocols_stubs():
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    request = service_pb2.ModelInferRequest.FromString(send({"ids": array}, Protocol.GRPC))
    assert (request.model_name, request.model_version) == ("digits", "3")
    assert (request.inputs[0].name, request.inputs[0].datatype, list(request.inputs[0].shape)) == (
        "ids",
        "INT64",
        [2, 3],
    )
    assert request.raw_input_contents[0] == array.tobytes()


def raw(request: bytes) -> bytes:
    _, headers, body = split(request)
    return body[int(headers["inference-header-content-length"]) :]


def test_strings_have_a_length_before_them_and_are_text_in_json():
    array = np.array([b"ab", "c\u00e9"], dtype=object)
    assert raw(send({"s": array}, Protocol.HTTP_BINARY)) == b"\x02\0\0\0ab\x03\0\0\0c\xc3\xa9"
    _, _, body = split(send({"s": array}, Protocol.HTTP_JSON))
    assert json.loads(body)["inputs"][0]["data"] == ["ab", "cé"]


def test_big_endian_arrays_are_sent_little_endian():
    assert raw(send({"x": np.array([1], dtype=">i4")}, Protocol.HTTP_BINARY)) == b"\1\0\0\0"


def test_floats_are_sent_as_bf16_where_the_model_takes_that():
    array = np.array([1.0, 1.00390625, -2.5], np.float32)  # the second lies between two bfloat16 numbers: ties to even
    wire, rounded = b"\x80\x3f\x80\x3f\x20\xc0", [1.0, 1.0, -2.5]
    assert raw(send({"x": array}, Protocol.HTTP_BINARY, {"x": "BF16"})) == wire
    _, _, body = split(send({"x": array}, Protocol.HTTP_JSON, {"x": "BF16"}))
    (tensor,) = json.loads(body)["inputs"]
    assert (tensor["datatype"], tensor["data"]) == ("BF16", rounded)
    request = service_pb2.ModelInferRequest.FromString(send({"x": array}, Protocol.GRPC, {"x": "BF16"}))
    assert (request.inputs[0].datatype, request.raw_input_contents[0]) == ("BF16", wire)


def test_an_http_request_says_no_more_than_it_must():
    _, headers, _ = split(send({"x": np.ones(1, np.float32)}, Protocol.HTTP_BINARY))
    assert set(headers) == {"host", "content-type", "inference-header-content-length", "content-length"}


@pytest.mark.parametrize("array", [np.array([np.nan], np.float32), np.array([b"\xff"], dtype=object)])
def test_what_json_cannot_carry_is_refused_with_the_way_out(array):
    with pytest.raises(InvalidInput) as caught:
        send({"x": array}, Protocol.HTTP_JSON)
    assert "http-binary" in caught.value.hint


def test_batches_are_drawn_from_the_rows_by_the_seed():
    rows = {"a": np.arange(10), "b": np.arange(10) * 2}
    payloads = batch_payloads(rows, batch=4, count=6, seed=3)
    again = batch_payloads(rows, batch=4, count=6, seed=3)
    assert len(payloads) == 6
    for payload, same in zip(payloads, again, strict=True):
        assert payload["a"].shape == (4,)
        assert np.array_equal(payload["a"] * 2, payload["b"])
        assert np.array_equal(payload["a"], same["a"])
    with pytest.raises(InvalidInput):
        batch_payloads({"a": np.arange(3), "b": np.arange(4)}, batch=1, count=1)


def test_requests_of_mixed_sizes_come_as_often_as_their_rows_and_each_is_of_one_size():
    groups = [{"a": np.full((30, 2), 2)}, {"a": np.full((10, 5), 5)}]
    payloads = mixed_payloads(groups, batch=3, count=2000, seed=3)
    shapes = [payload["a"].shape for payload in payloads]
    assert set(shapes) == {(3, 2), (3, 5)}
    # 1500 +- 19.4 (binomial): six standard deviations
    assert abs(shapes.count((3, 2)) - 1500) < 117
    again = mixed_payloads(groups, batch=3, count=2000, seed=3)
    assert [payload["a"].shape for payload in again] == shapes


def test_rows_of_one_size_are_drawn_as_ever():
    rows = {"a": np.arange(10)}
    for mixed, plain in zip(mixed_payloads([rows], 4, 6, 3), batch_payloads(rows, 4, 6, 3), strict=True):
        assert np.array_equal(mixed["a"], plain["a"])
