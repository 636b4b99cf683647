"""Measurements as results of a study: every objective that has blocks gives them, to be compared in pairs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from modelyard.domain.measurement import Interval, Measurement
from modelyard.domain.study import Aim
from modelyard.domain.workload import Arrival, Workload
from modelyard.profile.samples import OK, Samples
from modelyard.workflow.results import result_of
from tests import builders

LATENCIES_MS = ([1.0, 2.0, 9.0], [2.0, 4.0, 6.0, 8.0])


def samples(failed: int | None = None) -> Samples:
    """Two blocks of requests with those latencies, all sent when scheduled; `failed`: the place of one that failed."""
    latencies = np.concatenate(LATENCIES_MS) / 1e3
    due = 0.01 * np.arange(len(latencies), dtype=np.float64)
    status = np.full(len(latencies), OK, np.int16)
    if failed is not None:
        status[failed] = OK + 1
    block = np.repeat(np.arange(2, dtype=np.int32), [len(ms) for ms in LATENCIES_MS])
    return Samples(block, due, due, due, due + latencies, status)


@pytest.fixture
def measurement() -> Measurement:
    made = builders.measurement()
    return replace(
        made,
        workload=Workload(Arrival.CLOSED, concurrency=4, blocks=2),
        indicators=replace(made.indicators, mean_ms=Interval(4.6, 3.0, 6.0)),
    )


def test_a_mean_has_its_blocks(measurement: Measurement) -> None:
    found = result_of(measurement, Aim.parse("min mean at 4 concurrent"), samples())
    assert found.losses == (math.log(4.6),)
    assert [round(math.exp(loss), 6) for (loss,) in found.blocks] == [4.0, 5.0]


def test_a_failure_is_a_timeout_in_its_blocks_mean(measurement: Measurement) -> None:
    timeout_ms = measurement.workload.timeout_s * 1e3
    found = result_of(measurement, Aim.parse("min mean at 4 concurrent"), samples(failed=0))
    assert math.exp(found.blocks[0][0]) == pytest.approx((timeout_ms + 2 + 9) / 3, rel=1e-6)


def test_throughput_is_a_loss_where_it_is_little(measurement: Measurement) -> None:
    found = result_of(measurement, Aim.parse("max throughput at 4 concurrent"), samples())
    assert len(found.blocks) == 2
    assert all(loss < 0 for (loss,) in found.blocks)


def test_several_objectives_have_no_blocks_to_pair(measurement: Measurement) -> None:
    found = result_of(measurement, Aim.parse("min mean and min memory at 4 concurrent"), samples())
    assert found.blocks == ()
