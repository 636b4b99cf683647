"""Inputs of `yard predict` from JSON, .npy and .npz, as the datatypes the model takes; clear refusals otherwise."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelyard.cli import tensor_files
from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.domain.tensors import Datatype, Signature, TensorSpec

ONE = Signature((TensorSpec("x", Datatype.FP32, ("batch", 2)),), ())
TWO = Signature((TensorSpec("age", Datatype.INT64, ("batch", 1)), TensorSpec("city", Datatype.BYTES, ("batch", 1))), ())


def saved(tmp_path: Path, value: object, name: str = "in.json") -> str:
    path = tmp_path / name
    path.write_text(json.dumps(value))
    return str(path)


def test_a_protocol_body_flat_or_nested(tmp_path: Path) -> None:
    for data in ([1, 2, 3, 4], [[1, 2], [3, 4]]):
        body = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": data}]}
        tensors = tensor_files.read(saved(tmp_path, body), ONE)
        np.testing.assert_array_equal(tensors["x"], np.array([[1, 2], [3, 4]], np.float32))
        assert tensors["x"].dtype == np.float32


def test_names_with_nested_lists_numbers_and_strings(tmp_path: Path) -> None:
    tensors = tensor_files.read(saved(tmp_path, {"age": [[7]], "city": [["Zürich"]]}), TWO)
    assert tensors["age"].dtype == np.int64
    assert tensors["city"].tolist() == [["Zürich".encode()]]


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"x": [[0.5, 1]]}')))
    assert tensor_files.read("-", ONE)["x"].tolist() == [[0.5, 1.0]]


@given(arrays.arrays(np.float32, (3, 2), elements=st.floats(width=32, allow_nan=False)))
def test_npy_and_npz_carry_values_exactly(tmp_path_factory: pytest.TempPathFactory, value: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "x.npy", value)
    np.savez(folder / "x.npz", x=value)
    for name in ("x.npy", "x.npz"):
        np.testing.assert_array_equal(tensor_files.read(str(folder / name), ONE)["x"], value)


def test_npz_holds_strings_and_casts_whole_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", age=np.array([[7]], np.int32), city=np.array([["Bern"]]))
    tensors = tensor_files.read(str(tmp_path / "in.npz"), TWO)
    assert tensors["age"].dtype == np.int64
    assert tensors["city"].tolist() == [[b"Bern"]]


@pytest.mark.parametrize(
    "value",
    [
        {"age": [[1.5]], "city": [["a"]]},
        {"age": [["1"]], "city": [["a"]]},
        {"age": [[1]], "city": [[2]]},
        {"age": [[2**63]], "city": [["a"]]},
        {"age": [[1], [1, 2]], "city": [["a"]]},
        {"wrong": [[1]]},
        [1, 2],
        {"inputs": [{"name": "age", "datatype": "FP32", "shape": [1, 1], "data": [1]}]},
        {"inputs": [{"name": "age", "datatype": "INT64", "shape": [2, 1], "data": [1]}]},
        {"inputs": [{"name": "age", "datatype": "INT64", "data": [1]}]},
    ],
)
def test_what_does_not_fit_is_refused(value: object, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        tensor_files.read(saved(tmp_path, value), TWO)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        tensor_files.read(str(tmp_path / "none.npy"), ONE)
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "bad.npz").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "fine.npy", np.zeros((1, 2), np.float32))
    for name in ("bad.json", "bad.npz", "objects.npy", "."):
        with pytest.raises(InvalidInput):
            tensor_files.read(str(tmp_path / name), ONE)
    with pytest.raises(InvalidInput, match="2 inputs"):
        tensor_files.read(str(tmp_path / "fine.npy"), TWO)


def test_outputs_are_written_and_read_back(tmp_path: Path) -> None:
    words = np.array([[b"a"], ["bé".encode()]], dtype=object)
    outputs = {"p": np.ones((2, 1), np.float32), "label": words}
    tensor_files.write(tmp_path / "out.npz", outputs)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as back:
        np.testing.assert_array_equal(back["p"], outputs["p"])
        assert back["label"].tolist() == [["a"], ["bé"]]
    with pytest.raises(InvalidInput):
        tensor_files.write(tmp_path / "out.npy", outputs)
