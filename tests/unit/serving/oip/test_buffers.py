"""Large JSON arrays straight into numpy: only rectangles of numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import simdjson
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelyard.domain.errors import InvalidInput
from modelyard.serving.oip.buffers import arrays_in, nested_shape, numbers
from modelyard.serving.oip.plan import Interface
from modelyard.serving.oip.rest import SIMDJSON_ABOVE, decode
from tests.serving_harness import VECTOR

DOUBLE = np.dtype(np.float64)


def parsed(text: str):
    return simdjson.Parser().parse(text.encode())


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=1, max_dims=4, max_side=4), elements=st.floats(-1e6, 1e6)))
def test_any_rectangle_is_read_with_its_shape(array):
    text = json.dumps(array.tolist())
    found = numbers(parsed(text), DOUBLE)
    assert found is not None
    flat, shape = found
    assert shape == array.shape
    assert flat.tobytes() == array.tobytes()
    assert arrays_in(shape) == text.count("[")


@pytest.mark.parametrize(
    "text",
    ["[[1], [2, 3, 4], [5, 6]]", "[[1, 2], [3]]", "[[1], 2]", "[1, [2, 3]]", '["a"]', "[null]", "[{}]", "[true]"],
)
def test_anything_else_is_left_to_the_general_way(text):
    assert numbers(parsed(text), DOUBLE) is None


def test_an_empty_array_has_its_shape():
    assert nested_shape(parsed("[]")) == (0,)
    assert nested_shape(parsed("[[], []]")) == (2, 0)


@pytest.mark.parametrize("rows", [3, 1 + SIMDJSON_ABOVE // 4])
def test_ragged_rows_are_refused_however_large_the_body(rows):
    interface = Interface("m", 1, VECTOR)
    data = [[1.0, 2, 3, 4] for _ in range(rows - 2)] + [[1.0, 2, 3], [4.0, 5, 6, 7, 8]]
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, 4], "data": data}]}).encode()
    assert (len(body) > SIMDJSON_ABOVE) is (rows > 3)
    with pytest.raises(InvalidInput, match="'x'"):
        decode(interface, -1, body)
