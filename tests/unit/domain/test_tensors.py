"""Signatures check tensors, and say exactly what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Signature, TensorSpec

TWO = Signature(
    inputs=(TensorSpec("a", Datatype.FP32, ("batch", 3)), TensorSpec("b", Datatype.BYTES, ("batch",))),
    outputs=(TensorSpec("y", Datatype.INT64, ("batch",)),),
)


def tensors(rows: int = 2) -> dict[str, np.ndarray]:
    return {"a": np.zeros((rows, 3), np.float32), "b": np.array([b"x"] * rows, object)}


def test_rows_are_counted_along_the_batch_symbol() -> None:
    assert TWO.batched
    assert TWO.check_inputs(tensors(5)) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": np.zeros((2, 4), np.float32)}, r"'a' has shape \[2, 4\]"),
        ({"a": np.zeros((2, 3), np.float64)}, "'a' is FP64"),
        ({"a": np.zeros(3, np.float32)}, "'a' has shape"),
        ({"b": np.array([b"x"], object)}, "'b' has shape"),
        ({"c": np.zeros(1, np.float32)}, "unexpected input 'c'"),
    ],
)
def test_a_wrong_tensor_is_named(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        TWO.check_inputs({**tensors(), **change})


def test_a_missing_input_is_named() -> None:
    with pytest.raises(InvalidInput, match="'b' is missing"):
        TWO.check_inputs({"a": tensors()["a"]})


def test_one_fixed_first_dimension_means_not_batched() -> None:
    fixed = Signature((TensorSpec("a", Datatype.FP32, (3,)),), (TensorSpec("y", Datatype.FP32, ("batch",)),))
    assert not fixed.batched
    assert fixed.check_inputs({"a": np.zeros(3, np.float32)}) == 1


@pytest.mark.parametrize("datatype", [d for d in Datatype if d not in (Datatype.BYTES, Datatype.BF16)])
def test_datatypes_round_trip_through_numpy(datatype: Datatype) -> None:
    assert Datatype.of(datatype.numpy) is datatype
    assert Datatype.of(datatype.numpy.newbyteorder(">")) is datatype


@pytest.mark.parametrize("dtype", ["S4", "U4", "O"])
def test_every_kind_of_string_is_bytes(dtype: str) -> None:
    assert Datatype.of(np.dtype(dtype)) is Datatype.BYTES


def test_a_dtype_that_no_protocol_carries_is_refused() -> None:
    with pytest.raises(InvalidInput, match="complex64"):
        Datatype.of(np.dtype(np.complex64))
