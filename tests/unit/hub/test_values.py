"""Metric filters, pages, words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.domain.errors import InvalidInput
from modelyard.hub import MetricFilter, VersionQuery
from modelyard.hub.words import words_of


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("accuracy>=0.9", MetricFilter("accuracy", ">=", 0.9)),
        (" top-1 accuracy < .5 ", MetricFilter("top-1 accuracy", "<", 0.5)),
        ("loss = -1e-3", MetricFilter("loss", "==", -0.001)),
        ("f1==1", MetricFilter("f1", "==", 1.0)),
    ],
)
def test_a_metric_filter_is_parsed(text: str, want: MetricFilter) -> None:
    assert MetricFilter.parse(text) == want


@pytest.mark.parametrize("text", ["", "accuracy", "accuracy>", ">=1", "accuracy!=1", "accuracy>=x", "a>=1 or 1=1"])
def test_what_is_no_metric_filter_says_how_to_write_one(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        MetricFilter.parse(text)
    assert "accuracy>=0.9" in caught.value.hint


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_has_a_sensible_size(limit: int) -> None:
    with pytest.raises(InvalidInput):
        VersionQuery(limit=limit)


def test_words_lose_case_accents_and_punctuation() -> None:
    assert words_of("Café-Crème, STRASSE straße v2.1 snake_case") == [
        "cafe",
        "creme",
        "strasse",
        "v2",
        "1",
        "snake",
        "case",
    ]


@given(st.text())
def test_words_are_safe_to_quote(text: str) -> None:
    assert all(word.isalnum() and "'" not in word and '"' not in word for word in words_of(text))
