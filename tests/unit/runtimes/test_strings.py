"""BYTES tensors to text and back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from modelyard.runtimes.strings import to_bytes, to_text

TEXT = arrays(object, array_shapes(min_dims=0, max_dims=3, min_side=0), elements=st.text().map(str.encode))


@given(TEXT)
def test_utf8_text_survives(tensor: np.ndarray) -> None:
    there = to_text("x", tensor)
    back = to_bytes(there)
    assert there.shape == back.shape == tensor.shape
    assert back.tolist() == tensor.tolist()


def test_numpy_strings_of_any_kind_become_bytes() -> None:
    for kind in (np.array(["a", "é"]), np.array([b"a", "é".encode()]), np.array(["a", "é"], dtype=object)):
        assert to_bytes(kind).tolist() == [b"a", "é".encode()]
    assert to_bytes(np.array([1, 2], dtype=object)).tolist() == [b"1", b"2"]
