"""Rows of different sizes: nothing of the padding is left, nothing of the rows is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.domain.errors import InvalidInput
from modelyard.domain.ragged import group_rows, typical
from modelyard.domain.tensors import Datatype, TensorSpec

TOKENS = TensorSpec("tokens", Datatype.INT64, ("batch", "length"))
WEIGHTS = TensorSpec("weights", Datatype.FP32, ("batch", 2, "length"))
PLACE = TensorSpec("place", Datatype.FP32, ("batch", 3))
SPECS = (TOKENS, WEIGHTS, PLACE)


def rows(lengths: list[int], room: int) -> dict[str, np.ndarray]:
    """Row r has r + 1 in every real place and -1 behind."""
    real = np.arange(room) < np.array(lengths)[:, None]
    values = np.where(real, np.arange(1, len(lengths) + 1)[:, None], -1)
    return {
        "tokens": values,
        "weights": np.stack([values, values], axis=1).astype(np.float32),
        "place": np.repeat(np.arange(1.0, len(lengths) + 1)[:, None], 3, axis=1).astype(np.float32),
    }


@given(st.lists(st.integers(1, 6), min_size=1, max_size=30))
def test_groups_hold_every_row_once_cut_to_its_length(lengths: list[int]) -> None:
    groups = group_rows(rows(lengths, 7), SPECS, {"length": np.array(lengths)})
    assert sorted(np.concatenate([g.index for g in groups]).tolist()) == list(range(len(lengths)))
    assert len(groups) == len(set(lengths))
    for group in groups:
        size = lengths[group.index[0]]
        wanted = np.repeat(group.index[:, None] + 1, size, axis=1)
        assert np.array_equal(group.tensors["tokens"], wanted)
        assert np.array_equal(group.tensors["weights"], np.stack([wanted, wanted], axis=1))
        assert np.array_equal(group.tensors["place"][:, 0], group.index + 1)
        assert all(t.flags.c_contiguous for t in group.tensors.values())


def test_without_lengths_all_rows_are_one_group() -> None:
    given_rows = rows([2, 3, 1], 3)
    (group,) = group_rows(given_rows, SPECS, {})
    assert all(group.tensors[name] is tensor for name, tensor in given_rows.items())
    assert group.index.tolist() == [0, 1, 2]


def test_rows_differ_along_two_dimensions() -> None:
    image = TensorSpec("image", Datatype.FP32, ("batch", "height", "width"))
    lengths = {"height": np.array([2, 1, 2]), "width": np.array([3, 3, 3])}
    groups = group_rows({"image": np.ones((3, 4, 5), np.float32)}, (image,), lengths)
    assert [(g.tensors["image"].shape, g.index.tolist()) for g in groups] == [((2, 2, 3), [0, 2]), ((1, 1, 3), [1])]


def test_the_typical_group_is_that_of_the_median_row() -> None:
    lengths = [9, 1, 1, 4, 4, 9, 4]
    groups = group_rows(rows(lengths, 9), SPECS, {"length": np.array(lengths)})
    assert typical(groups).tensors["tokens"].shape == (3, 4)


@pytest.mark.parametrize(
    ("lengths", "told"),
    [
        ({"length": np.array([1, 4])}, "room for 1 to 3"),
        ({"length": np.array([0, 3])}, "room for 1 to 3"),
        ({"length": np.array([1, 2, 3])}, "one integer for each of the 2 rows"),
        ({"length": np.array([1.0, 2.0])}, "one integer for each of the 2 rows"),
        ({"width": np.array([1, 2])}, "symbolic dimensions of a row: length"),
        ({"batch": np.array([1, 2])}, "symbolic dimensions of a row: length"),
    ],
)
def test_lengths_that_do_not_fit_the_rows_are_refused(lengths: dict[str, np.ndarray], told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        group_rows(rows([2, 3], 3), SPECS, lengths)
    assert told in caught.value.hint


def test_rows_of_an_input_without_a_batch_cannot_differ() -> None:
    fixed = TensorSpec("x", Datatype.FP32, (4, "length"))
    with pytest.raises(InvalidInput, match="batched"):
        group_rows({"x": np.ones((4, 3), np.float32)}, (fixed,), {"length": np.array([1, 2, 3, 1])})
