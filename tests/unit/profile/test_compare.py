"""A comparison finds a known difference, shows none where there is none, and says what weakens it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from modelyard.domain.measurement import Validity
from modelyard.profile.compare import Difference, compare
from modelyard.profile.samples import Samples
from tests.builders import measurement
from tests.unit.profile.builders import queue_block


def cell(seed: int, scale: float = 1.0, blocks: int = 5) -> Samples:
    """Five blocks of a half-used queue; `scale` makes arrivals and services slower alike, so latency scales exactly."""
    parts = []
    for number in range(blocks):
        rng = np.random.default_rng([seed, number])
        parts.append(queue_block(500 / scale, rng.exponential(1e-3 * scale, 1000), rng, number=number))
    return Samples.join(parts)


def test_paired_blocks_show_a_small_difference_exactly():
    found = compare(measurement("a"), cell(1), measurement("b"), cell(1, scale=0.95))
    assert found.paired
    p99 = found.difference("p99")
    assert p99.ratio == pytest.approx(0.95, rel=1e-6)
    assert p99.shown
    assert "5.0% faster at p99" in p99.words()


def test_independent_blocks_cannot_show_that_difference():
    found = compare(measurement("a"), cell(1), measurement("b", rps=201.0), cell(2, scale=0.95))
    assert not found.paired
    assert not found.difference("p99").shown
    assert "no difference shown at p99" in found.words


def test_two_runs_of_the_same_service_rarely_differ():
    shown = sum(
        compare(measurement("a"), cell(s), measurement("b", rps=201.0), cell(s + 1000)).difference("p99").shown
        for s in range(60)
    )
    assert shown <= 9  # nominal 5 % of 60 is 3


def test_one_block_has_no_interval():
    found = compare(measurement("a"), cell(1, blocks=1), measurement("b"), cell(1, scale=2, blocks=1))
    assert found.difference("p50").low is None
    assert "too few blocks" in found.words


def test_unequal_block_counts_are_not_paired():
    assert not compare(measurement("a"), cell(1), measurement("b"), cell(1, blocks=4)).paired


def test_caveats_name_what_weakens_the_comparison():
    a = measurement("a", validity=Validity.INVALID)
    b = measurement("b", saturated=True)
    b = dataclasses.replace(b, fingerprint=dataclasses.replace(b.fingerprint, id="other"))
    text = compare(a, cell(1), b, cell(1)).words
    for words in ("different nodes", "invalid", "saturated"):
        assert words in text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seed": 3}, "with different seeds (0 and 3), so other schedules"),
        ({"rate_rps": 190.0, "seed": 3}, "under different loads (rate_rps 200 and 190, seed 0 and 3)"),
    ],
)
def test_the_caveat_about_loads_names_what_differs(change, text):
    b = measurement("b")
    b = dataclasses.replace(b, workload=dataclasses.replace(b.workload, **change))
    found = compare(measurement("a"), cell(1), b, cell(2))
    assert not found.paired
    assert text in found.words


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (Difference("p99", 0.88, 0.84, 0.92), "B is 12.0% faster at p99 [8.0%, 16.0%]"),
        (Difference("p50", 1.1, 1.05, 1.15), "B is 10.0% slower at p50 [5.0%, 15.0%]"),
        (Difference("p99", 0.1, 0.08, 0.125), "B is 10x faster at p99 [8x, 12.5x]"),
        (Difference("throughput", 1.2, 1.1, 1.3), "B has 20.0% more throughput [10.0%, 30.0%]"),
        (Difference("throughput", 1.0, 0.98, 1.02), "no difference shown in throughput [-2.0%, +2.0%]"),
    ],
)
def test_words(difference, text):
    assert difference.words() == text
