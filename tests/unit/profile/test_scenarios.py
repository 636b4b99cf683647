"""Each scenario has its number, from raw samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from modelyard.domain.workload import Arrival, Scenario, Workload
from modelyard.profile.samples import OK
from modelyard.profile.scenarios import scenario_result
from modelyard.profile.statistics import BlockSummary
from modelyard.profile.verdicts import Rules, saturation_signs
from tests.unit.profile.builders import block


def blocks(status=None):
    """Two blocks of 500 requests one after the other; the k-th takes k ms of 1..500."""
    took = np.random.default_rng(0).permutation(np.arange(1, 501)) / 1e3
    begun = np.concatenate([[0.0], np.cumsum(took)[:-1]])
    return [block(begun, begun + took, number=k, status=status) for k in range(2)]


def closed(scenario, batch=1):
    return Workload(Arrival.CLOSED, scenario=scenario, batch=batch)


def test_single_stream_is_a_p90_and_multi_stream_a_p99():
    single = scenario_result(closed(Scenario.SINGLE_STREAM), blocks(), None)
    multi = scenario_result(closed(Scenario.MULTI_STREAM, 8), blocks(), None)
    assert (single.metric, single.unit, single.value) == ("p90", "ms", pytest.approx(450))
    assert (multi.metric, multi.value) == ("p99", pytest.approx(495))
    assert single.early_stopping.share == 0.9
    assert single.value < single.early_stopping.at_most_ms < 480
    assert multi.early_stopping.limit_ms is None


def test_server_is_a_p99_under_its_limit():
    work = Workload(Arrival.POISSON, rate_rps=10, scenario=Scenario.SERVER)
    found = scenario_result(work, blocks(), 499.5)
    assert (found.metric, found.early_stopping.limit_ms, found.early_stopping.over) == ("p99", 499.5, 2)
    assert found.early_stopping.met
    assert "met: 2 over 499.5 ms" in str(found)


def test_a_failed_request_is_over_the_limit():
    status = np.full(500, OK, np.int16)
    status[:50] = 429
    work = Workload(Arrival.POISSON, rate_rps=10, scenario=Scenario.SERVER, timeout_s=10)
    found = scenario_result(work, blocks(status), 600.0)
    assert found.early_stopping.over == 100
    assert not found.early_stopping.met


def test_offline_is_samples_per_second_to_the_last_answer():
    found = scenario_result(closed(Scenario.OFFLINE, 8), blocks(), None)
    whole_s = 500 * 501 / 2 / 1e3
    assert found.value == pytest.approx(500 * 8 / whole_s)
    assert (found.unit, found.early_stopping) == ("samples/s", None)
    half = np.full(500, OK, np.int16)
    half[::2] = 500
    assert scenario_result(closed(Scenario.OFFLINE, 8), blocks(half), None).value == pytest.approx(found.value / 2)


def test_without_a_scenario_there_is_no_such_number():
    assert scenario_result(replace(closed(None)), blocks(), None) is None


def test_growth_under_a_load_that_grows_is_no_sign_of_saturation():
    growing = BlockSummary(1000, 1000, 5.0, 8.0, 9.0, 100.0, 100.0, 100.0, 1.0, 2.0, 3.0, 3.0)
    assert len(saturation_signs([growing] * 5, Rules())) == 2
    assert saturation_signs([growing] * 5, Rules(), stationary=False) == []
    behind = replace(growing, completed_ratio=0.9)
    (sign,) = saturation_signs([behind] * 5, Rules(), stationary=False)
    assert "completed 90.0%" in sign
