"""Tensors on the wire: every datatype survives a round trip, and nothing that does not fit is taken."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, from_bf16, to_bf16
from modelyard.serving.faults import text_of
from modelyard.serving.oip import wire


def exact(tensor, datatype):
    """What a tensor is once a client has sent it."""
    return from_bf16(to_bf16(tensor)) if datatype is Datatype.BF16 else tensor


NUMERIC = [d for d in Datatype if d is not Datatype.BYTES]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@given(st.data(), st.sampled_from(NUMERIC))
def test_numbers_survive_binary(data, datatype):
    tensor = data.draw(hnp.arrays(datatype.numpy, SHAPES))
    raw = wire.to_bytes(tensor, str(datatype))
    assert len(raw) == tensor.size * datatype.wire_bytes
    back = wire.from_bytes("x", str(datatype), tensor.shape, b"junk" + raw + b"more", 4, len(raw))
    assert back.dtype == tensor.dtype
    assert back.tobytes() == exact(tensor, datatype).tobytes()
    assert back.flags.writeable
    assert back.flags.aligned


@given(st.data(), st.sampled_from(NUMERIC))
def test_finite_numbers_survive_json_bit_for_bit(data, datatype):
    elements = {"allow_nan": False, "allow_infinity": False} if datatype.numpy.kind == "f" else {}
    tensor = data.draw(hnp.arrays(datatype.numpy, SHAPES, elements=elements or None))
    text = json.loads(wire.json_array("y", tensor, str(datatype)))
    back = wire.from_json("x", str(datatype), tensor.shape, text)
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    np.testing.assert_array_equal(back, exact(tensor, datatype))


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BF16"])
def test_what_is_not_finite_is_bare_in_json_and_comes_back(datatype):
    tensor = np.array([1.5, np.nan, np.inf, -np.inf], Datatype(datatype).numpy)
    text = wire.json_array("y", tensor, datatype)
    assert text == b"[1.5,NaN,Infinity,-Infinity]"
    back = wire.from_json("x", datatype, (4,), json.loads(text))
    np.testing.assert_array_equal(back, tensor)


def test_bf16_is_rounded_to_the_nearest_even():
    bits = np.array([0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7FC00001, 0xFF800001], np.uint32)
    want = [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0x7F80, 0x7FC0, 0xFFC0]
    assert to_bf16(bits.view(np.float32)).tolist() == want


@given(hnp.arrays(np.uint16, SHAPES))
def test_bf16_bits_survive_float32(bits):
    back = to_bf16(from_bf16(bits))
    quiet = np.where((bits & 0x7FFF) > 0x7F80, bits | 0x40, bits)  # a signalling NaN becomes a quiet one
    np.testing.assert_array_equal(back, quiet)


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_byte_strings_survive_binary(values):
    tensor = wire.object_array(values)
    body = wire.to_bytes(tensor)
    back = wire.from_bytes("x", "BYTES", (len(values),), body, 0, len(body))
    assert back.tolist() == values


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\1\0\0\0a\1\0", "incomplete string length indicator"),
        (b"\1\0\0\0a\3\0\0\0bc", "incomplete string data for input 'x': expected 3 bytes"),
        (b"\xff\xff\xff\xffa", "expected 4294967295 bytes"),
        (b"\1\0\0\0a", "expected 2 strings for input 'x', got 1"),
    ],
)
def test_strings_that_do_not_fit_their_bytes_are_told(raw, text):
    with pytest.raises(InvalidInput) as caught:
        wire.from_bytes("x", "BYTES", (2,), raw, 0, len(raw))
    assert text in text_of(caught.value)


@given(st.lists(st.text(max_size=20), max_size=8))
def test_text_survives_json(values):
    tensor = wire.from_json("x", "BYTES", (len(values),), values)
    assert wire.to_json("y", tensor) == values


@given(st.binary(max_size=40), st.integers(0, 5))
def test_byte_strings_of_any_bytes_never_crash(body, count):
    try:
        back = wire.from_bytes("x", "BYTES", (count,), body, 0, len(body))
    except InvalidInput:
        return
    assert wire.to_bytes(back) == body


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("FP32", ["1.5"]),
        ("FP32", [None]),
        ("FP32", [True]),
        ("FP32", [[1.0], [2.0, 3.0]]),
        ("FP32", "1.0"),
        ("FP32", None),
        ("INT32", [1.5]),
        ("INT8", [128]),
        ("UINT8", [-1]),
        ("UINT64", [-1]),
        ("UINT64", [2**64]),
        ("INT64", [2**63]),
        ("BOOL", [2]),
        ("BOOL", [0.5]),
        ("BYTES", [1]),
        ("BYTES", {"b64": "aa"}),
        ("FP32", [1.0, 2.0]),
        ("FP32", []),
    ],
)
def test_json_values_that_do_not_fit_are_refused(datatype, data):
    with pytest.raises(InvalidInput):
        wire.from_json("x", datatype, (1,), data)


def test_64_bit_integers_keep_every_digit():
    values = [2**64 - 1, 2**63, 0, 1]
    assert wire.from_json("x", "UINT64", (4,), values).tolist() == values


@pytest.mark.parametrize("shape", [(-1,), (2, -3), (2**40, 2**40), (1,) * 33])
def test_absurd_shapes_are_refused(shape):
    with pytest.raises(InvalidInput):
        wire.from_json("x", "FP32", shape, [1.0])


def test_runtime_strings_become_bytes():
    assert wire.normalised(np.array([["a", "é"]])).tolist() == [[b"a", "é".encode()]]


def test_non_utf8_output_asks_for_binary():
    with pytest.raises(InvalidInput, match="not UTF-8") as caught:
        wire.to_json("y", wire.object_array([b"\xff"]))
    assert "binary" in caught.value.hint
