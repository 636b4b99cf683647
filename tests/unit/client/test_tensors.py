"""Tensors and the wire: what is sent comes back, and what is broken is told."""

from __future__ import annotations

import contextlib
import json
import struct
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from modelyard.client.inference import Inference, InferResult, decode, encode
from modelyard.client.responses import Head, Response
from modelyard.domain.errors import BackendFailed, InvalidInput, NotFound
from modelyard.domain.tensors import Datatype, Tensor

DATATYPES = [str(d) for d in Datatype if d != "BF16"]


@st.composite
def tensors(draw: st.DrawFn, finite: bool = False) -> Tensor:
    datatype = draw(st.sampled_from(DATATYPES))
    shape = draw(npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    if datatype == "BYTES":
        array = np.empty(shape, np.object_)
        for index in np.ndindex(*shape):
            array[index] = draw(st.text(max_size=4)).encode() if finite else draw(st.binary(max_size=8))
        return array
    dtype = Datatype(datatype).numpy
    elements = {"allow_nan": False, "allow_infinity": False} if finite and dtype.kind == "f" else {}
    array = draw(npst.arrays(dtype, shape, elements=elements or None))
    if draw(st.booleans()):
        array = np.asfortranarray(array)
    return array.astype(dtype.newbyteorder(">")) if draw(st.booleans()) else array


def back(asked: Inference) -> InferResult:
    """The result of a service that answers with what it was sent."""
    parts, length = encode(asked)
    body = b"".join(parts).replace(b'{"inputs"', b'{"outputs"', 1)
    return decode(Response(Head(200, len(body), True, length and length + 1, "", None, None), body))


def answer(json_part: object, binary: bytes = b"") -> Response:
    text = json.dumps(json_part).encode()
    length = len(text) if binary else None
    return Response(Head(200, len(text + binary), True, length, "", None, None), text + binary)


def assert_same(got: Tensor, sent: Tensor) -> None:
    assert got.shape == sent.shape
    assert got.flags.writeable
    if sent.dtype == object:
        assert got.dtype == object
        assert got.tolist() == sent.tolist()
    else:
        native = np.ascontiguousarray(sent, sent.dtype.newbyteorder("="))
        assert got.dtype == native.dtype
        assert got.flags.aligned
        assert got.tobytes() == native.tobytes()


@given(st.dictionaries(st.text(min_size=1, max_size=3), tensors(), min_size=1, max_size=3))
def test_binary_tensors_come_back_bit_for_bit(sent: dict[str, Tensor]) -> None:
    got = back(Inference(inputs=sent)).outputs
    assert list(got) == list(sent)
    for name, tensor in sent.items():
        assert_same(got[name], tensor)


@given(st.dictionaries(st.text(min_size=1, max_size=3), tensors(finite=True), min_size=1, max_size=3))
def test_json_tensors_come_back_bit_for_bit(sent: dict[str, Tensor]) -> None:
    got = back(Inference(inputs=sent, binary=False)).outputs
    for name, tensor in sent.items():
        assert_same(got[name], tensor)


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_bf16_travels_as_two_bytes_and_is_float32_here(shape: tuple[int, ...]) -> None:
    sent = np.arange(prod(shape), dtype=np.float32).reshape(shape) / 4
    parts, length = encode(Inference(inputs={"x": sent}, datatypes={"x": "BF16"}))
    assert length is not None
    assert len(b"".join(parts)) - length == 2 * sent.size
    for binary in (True, False):
        got = back(Inference(inputs={"x": sent}, datatypes={"x": "BF16"}, binary=binary))["x"]
        assert_same(got, sent)


def test_large_tensors_are_sent_from_their_own_memory() -> None:
    sent = np.ones(100_000, np.float32)
    parts, _ = encode(Inference(inputs={"x": sent}))
    assert np.shares_memory(np.frombuffer(parts[1], np.float32), sent)
    assert_same(back(Inference(inputs={"x": sent[::2]}))["x"], sent[::2])


def test_strings_travel_as_utf8_bytes() -> None:
    for sent in (np.array([["grün", "b"]]), np.array([["grün", b"b"]], object)):
        for binary in (True, False):
            assert back(Inference(inputs={"t": sent}, binary=binary))["t"].tolist() == [["grün".encode(), b"b"]]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Inference(inputs={"x": np.array([np.nan])}, binary=False), "NaN"),
        (Inference(inputs={"x": np.array([b"\xff"], object)}, binary=False), "not text"),
        (Inference(inputs={"x": np.array([None, "a"], object)}), "None"),
        (Inference(inputs={"x": np.array([1j])}), "complex"),
        (Inference(inputs={"x": np.array([1])}, datatypes={"x": "BF16"}), "INT64, not BF16"),
        (Inference(inputs={"x": np.array([1.0])}, datatypes={"x": "FP32"}), "FP64, not FP32"),
        (Inference(inputs={"x": np.array([1.0])}, datatypes={"z": "BF16"}), "names no input: z"),
        (Inference(inputs={"x": np.array([1.0])}, classify=2), "needs the outputs"),
    ],
)
def test_what_cannot_be_sent_is_invalid(asked: Inference, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        encode(asked)


def test_a_request_says_what_is_wanted() -> None:
    parts, _ = encode(
        Inference(inputs={"x": np.float32([1])}, outputs=["a", "b"], priority=1, request_id="7", classify=3)
    )
    assert json.loads(parts[0]) == {
        "id": "7",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}],
        "parameters": {"binary_data_output": True, "priority": 1},
        "outputs": [{"name": n, "parameters": {"classification": 3}} for n in "ab"],
    }


def output(datatype: str, shape: list[int], data: object = None, size: int | None = None) -> dict[str, object]:
    more: dict[str, object] = {"data": data} if size is None else {"parameters": {"binary_data_size": size}}
    return {"outputs": [{"name": "y", "datatype": datatype, "shape": shape, **more}]}


def test_json_answers_may_be_nested_and_mixed_with_binary_ones() -> None:
    parts: dict[str, Any] = output("FP32", [1], size=4)
    parts["outputs"].append({"name": "n", "datatype": "INT64", "shape": [2, 1], "data": [[7], [8]]})
    parts |= {"model_name": "m", "model_version": 3, "id": None, "parameters": {"new": [1]}}
    got = decode(answer(parts, struct.pack("<f", 0.5)))
    assert (got["y"].tolist(), got["n"].tolist(), got.model, got.version, got.id) == ([0.5], [[7], [8]], "m", "3", "")
    with pytest.raises(NotFound, match="no output 'z'"):
        got["z"]


def test_null_and_bare_nan_are_nan() -> None:
    assert np.isnan(decode(answer(output("FP32", [2], [None, 1.0])))["y"]).tolist() == [True, False]
    assert decode(answer(output("FP64", [2], [float("nan"), float("inf")])))["y"].tolist()[1] == np.inf


def test_integers_beyond_int64_keep_every_digit() -> None:
    assert decode(answer(output("UINT64", [2], [2**64 - 1, 1])))["y"].tolist() == [2**64 - 1, 1]


@pytest.mark.parametrize(
    "broken",
    [
        Response(Head(200, 8, True, None, "", None, None), b"not json"),
        Response(Head(200, 2, True, 9, "", None, None), b"{}"),
        answer({}),
        answer(output("FP32", [2], [1.0])),
        answer(output("FP32", [1])),
        answer(output("FP32", [1], "a")),
        answer(output("FP99", [1], [1])),
        answer(output("FP32", [-1], [1.0])),
        answer(output("FP32", [2, 2], [[1.0], [1.0, 2.0]])),
        answer(output("INT8", [1], [300])),
        answer(output("INT64", [1], [1.5])),
        answer(output("INT64", [1], ["1"])),
        answer(output("INT64", [1], [None])),
        answer(output("BOOL", [1], [2])),
        answer(output("BYTES", [1], [1])),
        answer(output("BYTES", [2], ["a"])),
        answer(output("FP32", [1], size=4), b"ab"),
        answer(output("FP32", [1], size=4), b"abcdefgh"),
        answer(output("FP32", [2], size=4), b"abcd"),
        answer(output("FP32", [1], size=-4), b"abcd"),
        answer(output("BYTES", [1], size=4), b"\x09\x00\x00\x00"),
        answer(output("BYTES", [1], size=3), b"\x09\x00\x00"),
        answer(output("BYTES", [2], size=5), b"\x01\x00\x00\x00a"),
        answer(output("FP32", [0, 2**70], size=0), b" "),
        answer({"outputs": [{"name": "y", "datatype": "INT8", "shape": [1], "data": [1]}] * 2}),
    ],
)
def test_a_broken_answer_is_the_services_failure(broken: Response) -> None:
    with pytest.raises(BackendFailed, match="breaks the protocol"):
        decode(broken)


@given(st.binary(max_size=60), st.one_of(st.none(), st.integers(0, 60)), st.data())
def test_whatever_comes_is_a_result_or_one_clear_error(junk: bytes, at: int | None, data: st.DataObject) -> None:
    good = json.dumps(output("BYTES", [1], size=9)).encode()
    body = data.draw(st.sampled_from([junk, good + junk, good[: at or 0] + junk + good[at or 0 :]]))
    length = data.draw(st.sampled_from([None, at, len(good)]))
    with contextlib.suppress(BackendFailed):  # and nothing else
        decode(Response(Head(200, len(body), True, length, "", None, None), body))


def test_classes_are_read_from_tritons_text() -> None:
    rows = np.array([[b"0.9:3:a:b", b"0.1:0"]], object)
    result = InferResult({"y": rows, "z": np.float32([1])}, "m", "1", "")
    [[first, second]] = result.classes("y")
    assert (first.score, first.index, first.label, second.index, second.label) == (0.9, 3, "a:b", 0, "")
    with pytest.raises(InvalidInput, match="no classification"):
        result.classes("z")
