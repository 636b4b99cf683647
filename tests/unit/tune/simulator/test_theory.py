"""Without a server's overhead the simulation is a queue, and queues have known answers. Within 2 %, seeded."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from modelyard.domain.configuration import Batching, QueuePolicy
from modelyard.domain.latency import CurvePoint
from modelyard.tune.simulator import Load, ModelTimes, Simulated, SimulatedService, simulate
from tests.unit.tune.simulator import theory

DEEP = QueuePolicy(max_requests=1_000_000, max_wait_s=3600)
INLINE_S, SLOT_S = 0.5e-3, 10e-3
"""Runs on the event loop, and on a slot's thread."""


def constant(seconds: float) -> ModelTimes:
    return ModelTimes([CurvePoint(1, 1, seconds, seconds, 10), CurvePoint(8, 1, seconds, seconds, 10)])


def exponential(mean_s: float) -> ModelTimes:
    walls = -mean_s * np.log1p(-(np.arange(4096) + 0.5) / 4096)
    walls *= mean_s / walls.mean()
    return ModelTimes([CurvePoint(1, 1, mean_s, mean_s, 10, tuple(walls.tolist()))])


def poisson(rate: float, requests: int) -> NDArray[np.float64]:
    """Whose gaps have the mean of the rate exactly: one error less in short runs."""
    gaps = np.random.default_rng(12).exponential(1.0, requests)
    return np.asarray(np.cumsum(gaps / gaps.mean() / rate), np.float64)


def run(service: SimulatedService, due_s: NDArray[np.float64]) -> Simulated:
    result = simulate(service, Load(due_s, connections=256))
    assert result.ok.all()
    return result


@pytest.mark.parametrize("service_s", [INLINE_S, SLOT_S])
def test_evenly_spaced_requests_never_wait(service_s: float) -> None:
    """D/D/1 below saturation: every request takes its service time."""
    due = np.arange(2000) * service_s / 0.95
    latencies = run(SimulatedService(constant(service_s), queue=DEEP), due).latencies_ms
    assert latencies == pytest.approx(service_s * 1e3, rel=1e-6)


def test_evenly_spaced_requests_beyond_capacity_wait_ever_longer() -> None:
    """D/D/1 above saturation: each waits a gap's deficit longer than the one before."""
    gap = SLOT_S * 0.8
    latencies = run(SimulatedService(constant(SLOT_S), queue=DEEP), np.arange(500) * gap).latencies_ms
    assert np.diff(latencies) == pytest.approx((SLOT_S - gap) * 1e3, rel=1e-3)


@pytest.mark.parametrize(("service_s", "load"), [(INLINE_S, 0.5), (SLOT_S, 0.7)])
def test_a_constant_service_waits_as_pollaczek_and_khinchine_say(service_s: float, load: float) -> None:
    rate = load / service_s
    result = run(SimulatedService(constant(service_s), queue=DEEP), poisson(rate, 50_000))
    assert result.latencies_ms.mean() / 1e3 == pytest.approx(theory.mean_md1_s(rate, service_s), rel=0.02)
    assert result.cpu_s / result.seconds == pytest.approx(load, rel=0.01)


def test_one_exponential_server_has_the_percentiles_of_mm1() -> None:
    rate = 0.6 / SLOT_S
    result = run(SimulatedService(exponential(SLOT_S), queue=DEEP), poisson(rate, 60_000))
    for share in (0.5, 0.95):
        expected_s = -math.log(1 - share) * SLOT_S / (1 - 0.6)
        assert np.quantile(result.latencies_ms, share) / 1e3 == pytest.approx(expected_s, rel=0.02)


def test_several_slots_wait_as_erlang_says() -> None:
    rate = 0.7 * 3 / SLOT_S
    service = SimulatedService(exponential(SLOT_S), queue=DEEP, slots=3, cores=3)
    mean_s = run(service, poisson(rate, 60_000)).latencies_ms.mean() / 1e3
    assert mean_s == pytest.approx(theory.mean_mmk_s(rate, SLOT_S, 3), rel=0.02)


@pytest.mark.parametrize("load", [0.3, 0.8])
def test_greedy_batches_wait_as_the_markov_chain_says(load: float) -> None:
    """`load` of 8 rows per service time, so that a batch is nearly always full at the second."""
    rate = load * 8 / SLOT_S
    service = SimulatedService(constant(SLOT_S), Batching(8), DEEP)
    mean_s = run(service, poisson(rate, 40_000)).latencies_ms.mean() / 1e3
    assert mean_s == pytest.approx(theory.mean_greedy_batches_s(rate, SLOT_S, 8), rel=0.02)


def test_a_closed_loop_keeps_as_many_in_flight_as_it_has() -> None:
    """Little's law: throughput times latency is the concurrency."""
    result = simulate(SimulatedService(exponential(SLOT_S), queue=DEEP), Load(None, 4, requests=4000, connections=4))
    throughput = len(result.ok) / result.seconds
    assert throughput * result.latencies_ms.mean() / 1e3 == pytest.approx(4, rel=0.01)
    assert throughput == pytest.approx(1 / SLOT_S, rel=0.03)
