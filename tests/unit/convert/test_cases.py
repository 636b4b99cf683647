"""Which inputs are generated, from what, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modelyard.convert import Evidence, cases, tensorfile
from modelyard.convert.cases import Kind
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.domain.versions import DatasetSpec

OUT = (TensorSpec("y", Datatype.FP32, ("batch", 2)),)
MIXED = Signature(
    (
        TensorSpec("f", Datatype.FP32, ("batch", 3)),
        TensorSpec("i", Datatype.INT64, ("batch", "length")),
        TensorSpec("s", Datatype.BYTES, ("batch",)),
        TensorSpec("b", Datatype.BOOL, ("batch",)),
    ),
    OUT,
)


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_generated_cases_fit_the_signature_and_repeat_with_the_seed() -> None:
    first, again = (cases.build(MIXED, Evidence(seed=4)) for _ in range(2))
    for case, other in zip(first.cases, again.cases, strict=True):
        assert MIXED.check_inputs(case.inputs) in (1, 2, 7)
        assert all(np.array_equal(case.inputs[n], other.inputs[n]) for n in case.inputs)
    assert {c.rows for c in first.cases} == {1, 2, 7}
    assert [c.name for c in first.cases][:4] == ["example", "batch-1", "batch-7", "resized"]


def test_extremes_have_the_size_of_the_example_and_span_the_range() -> None:
    of = {c.name: c for c in cases.build(MIXED, Evidence()).cases}
    extremes = [c for c in of.values() if c.kind is Kind.EXTREME]
    assert {c.rows for c in extremes} == {2}
    assert not of["zeros"].inputs["f"].any()
    assert (of["negative"].inputs["f"] < 0).all()
    assert np.abs(of["large"].inputs["f"]).max() > 100


def test_integers_and_strings_stay_within_what_the_data_shows(tmp_path: Path) -> None:
    path = write(
        tmp_path / "d.npz",
        f=np.zeros((20, 3), np.float32),
        i=np.arange(20 * 6).reshape(20, 6) % 5 + 10,
        s=np.array(["ä", "b"] * 10),
        b=np.ones(20, bool),
    )
    made = cases.build(MIXED, Evidence(dataset=path))
    for case in made.cases:
        assert case.inputs["i"].min() >= 10
        assert case.inputs["i"].max() <= 14
        assert set(case.inputs["s"].tolist()) <= {"ä".encode(), b"b"}
    resized = next(c for c in made.cases if c.name == "resized")
    assert resized.inputs["i"].shape[1] != 6


def test_a_dataset_is_cut_into_chunks_bounded_in_rows_labels_kept(tmp_path: Path) -> None:
    signature = Signature((TensorSpec("f", Datatype.FP32, ("batch", 3)),), OUT)
    path = write(tmp_path / "d.npz", x=np.ones((100, 3)), y=np.arange(100))
    evidence = Evidence(dataset=path, dataset_spec=DatasetSpec("d.npz", {"f": "x"}, "y"), max_rows=70)
    made = cases.build(signature, evidence)
    chunks = [c for c in made.cases if c.kind is Kind.DATASET]
    assert [c.rows for c in chunks] == [32, 32, 6]
    assert chunks[0].inputs["f"].dtype == np.float32
    assert made.truth is not None
    assert (len(made.truth), made.total_rows) == (70, 100)
    assert made.truth[:32].tolist() != sorted(made.truth[:32].tolist()), "a part is drawn at random, not the head"
    assert made.cases[made.first_dataset].kind is Kind.DATASET


def test_a_fixed_batch_is_the_only_size(tmp_path: Path) -> None:
    signature = Signature((TensorSpec("f", Datatype.FP32, (4, 3)),), (TensorSpec("y", Datatype.FP32, (4, 2)),))
    path = write(tmp_path / "d.npz", f=np.ones((10, 3), np.float32))
    made = cases.build(signature, Evidence(dataset=path))
    assert {c.inputs["f"].shape for c in made.cases} == {(4, 3)}
    assert sum(c.kind is Kind.DATASET for c in made.cases) == 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"g": np.zeros((4, 3))}, "no array 'f'"),
        ({"f": np.zeros((4, 3), complex)}, "complex"),
        ({"f": np.zeros((0, 3), np.float32)}, "same number of rows"),
        ({"f": np.zeros((4, 2), np.float32)}, "shape"),
    ],
)
def test_a_dataset_that_does_not_fit_is_invalid_input(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    signature = Signature((TensorSpec("f", Datatype.FP32, ("batch", 3)),), OUT)
    with pytest.raises(InvalidInput, match=message) as caught:
        cases.build(signature, Evidence(dataset=write(tmp_path / "d.npz", **arrays)))
    assert caught.value.hint


def test_integers_that_do_not_fit_are_not_wrapped() -> None:
    spec = TensorSpec("i", Datatype.INT8, ("batch",))
    assert cases.conform(spec, np.array([1, -128]), "data").dtype == np.int8
    with pytest.raises(InvalidInput):
        cases.conform(spec, np.array([1, 128]), "data")


def test_tensors_of_every_datatype_survive_the_file(tmp_path: Path) -> None:
    tensors = {str(d): np.zeros((2, 3), d.numpy) for d in Datatype if d is not Datatype.BYTES}
    tensors["0/s|x"] = np.array([[b"", "grün".encode()], [b"\x00\xff", b"b"]], dtype=object)
    tensors["empty"] = np.empty((0,), dtype=object)
    tensorfile.save(tmp_path / "t.npz", tensors)
    loaded = tensorfile.load(tmp_path / "t.npz")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert loaded[name].tolist() == tensor.tolist()


def test_pickled_objects_in_a_file_are_never_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInput, match=r"t\.npz"):
        tensorfile.load(tmp_path / "t.npz")
    (tmp_path / "u.npz").write_bytes(b"no zip")
    with pytest.raises(InvalidInput):
        tensorfile.load(tmp_path / "u.npz")


RAGGED = Signature((TensorSpec("i", Datatype.INT64, ("batch", "length")),), OUT)


def ragged(path: Path, **changes: np.ndarray) -> Evidence:
    """Row r holds r + 10 in its first places, 99 behind; its label is r."""
    lengths = np.array([3, 5, 3, 2, 5, 3] * 20)
    rows = np.where(np.arange(6) < lengths[:, None], np.arange(120)[:, None] + 10, 999)
    arrays = {"i": rows, "n": lengths, "y": np.arange(120)} | changes
    return Evidence(
        dataset=write(path, **arrays), dataset_spec=DatasetSpec(path.name, {"i": "i"}, "y", {"length": "n"}), seed=1
    )


@pytest.mark.parametrize("most", [1024, 50])
def test_rows_of_different_sizes_are_run_without_their_padding_in_the_order_of_their_labels(
    tmp_path: Path, most: int
) -> None:
    made = cases.build(RAGGED, replace(ragged(tmp_path / "d.npz"), max_rows=most))
    chunks = [c for c in made.cases if c.kind is Kind.DATASET]
    assert {c.inputs["i"].shape[1] for c in chunks} == {2, 3, 5}
    first = np.concatenate([c.inputs["i"][:, 0] for c in chunks])
    assert made.truth is not None
    assert np.array_equal(first - 10, made.truth)
    assert len(first) == min(most, 120)
    assert all((c.inputs["i"] == c.inputs["i"][:, :1]).all() for c in chunks)
    assert all((c.inputs["i"] < 999).all() for c in made.cases)


def test_lengths_that_are_not_in_the_dataset_are_told(tmp_path: Path) -> None:
    evidence = ragged(tmp_path / "d.npz")
    assert evidence.dataset_spec is not None
    missing = replace(evidence, dataset_spec=replace(evidence.dataset_spec, lengths={"length": "m"}))
    with pytest.raises(InvalidInput, match="no array 'm' of lengths along 'length'"):
        cases.build(RAGGED, missing)
