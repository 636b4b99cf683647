"""Best classes, against a plain reading of the extension."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelyard.serving.oip.answers import best_classes

KINDS = st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint8, np.int64, np.uint64])


def plainly(row, most, labels):
    """Highest first, the lower index among equals, NaN last."""
    order = sorted(range(len(row)), key=lambda i: (np.isnan(row[i]), -row[i].item() if row[i] == row[i] else 0.0, i))
    texts = []
    for i in order[:most]:
        value = f"{row[i].item():f}" if row.dtype.kind == "f" else str(row[i].item())
        texts.append(":".join([value, str(i), *([labels[i]] if labels else [])]).encode())
    return texts


@given(st.data(), KINDS, st.integers(1, 4), st.integers(1, 6), st.integers(1, 8), st.booleans())
def test_best_classes(data, kind, rows, width, most, labelled):
    # infinities aside: -inf and NaN rank alike at the bottom
    elements = {"allow_infinity": False} if np.dtype(kind).kind == "f" else None
    scores = data.draw(hnp.arrays(kind, (rows, width), elements=elements))
    labels = tuple(f"c{i}" for i in range(width)) if labelled else ()
    got = best_classes(scores, batched=True, most=most, labels=labels)
    assert got.tolist() == [plainly(row, most, labels) for row in scores]
    alone = best_classes(scores[0], batched=False, most=most, labels=labels)
    assert alone.tolist() == plainly(scores[0], most, labels)


def test_labels_of_another_number_than_the_scores_are_left_out():
    scores = np.array([[1, 2, 3]], np.int32)
    assert best_classes(scores, batched=True, most=1, labels=("a", "b")).tolist() == [[b"3:2"]]


def test_scores_of_more_dimensions_are_ranked_by_row():
    scores = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    assert best_classes(scores, batched=True, most=2, labels=()).tolist() == [[b"3:3", b"2:2"], [b"7:3", b"6:2"]]
