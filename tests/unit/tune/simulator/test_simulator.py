"""Predictions for configurations, the bounds that spare simulations, and what they must agree on."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from modelyard.domain.configuration import Batching, Configuration
from modelyard.domain.errors import InvalidInput
from modelyard.domain.latency import Curve, CurvePoint, Overhead, Path, ProtocolCost
from modelyard.domain.workload import Arrival, Protocol, Workload
from modelyard.tune.simulator import Load, Simulator
from tests.builders import configuration

OVERHEAD = Overhead(
    {
        Protocol.HTTP_BINARY: Path(
            ProtocolCost(request_s=15e-6, wake_s=5e-6, batch_s=20e-6),
            ProtocolCost(request_s=15e-6, wake_s=5e-6),
            hop_s=10e-6,
            jitter_s=(0.0, 20e-6),
        )
    },
    handover_s=20e-6,
)
CURVE = Curve(
    "onnxruntime",
    tuple(
        CurvePoint(b, t, s, 0.9 * s * t, 50, (0.9 * s, s, 1.3 * s))
        for t in (1, 2)
        for b in (1, 8, 32)
        for s in [(200e-6 + 100e-6 * b) / (1 + 0.6 * (t - 1))]
    ),
)
CLOSED = Workload(Arrival.CLOSED, concurrency=64, requests=1500, seed=3)
OPEN = Workload(Arrival.POISSON, rate_rps=1000.0, requests=1500, seed=3)


def loads(workload: Workload, configuration: Configuration, block: int) -> Load:
    due = None
    if workload.rate_rps is not None:
        rng = np.random.default_rng([workload.seed, block])
        due = np.cumsum(rng.exponential(1 / workload.rate_rps, workload.requests))
    connections = max(workload.concurrency, 32 * configuration.replicas)
    return Load(due, workload.concurrency, workload.requests, connections=connections, timeout_s=workload.timeout_s)


@pytest.fixture
def simulator() -> Simulator:
    return Simulator({("a1", "onnxruntime"): CURVE}, OVERHEAD, 2, loads)


GRID = [configuration(max_batch=b, threads=t, replicas=r) for b, t, r in itertools.product((1, 8, 32), (1, 2), (1, 2))]


@pytest.mark.parametrize("candidate", GRID, ids=lambda c: c.label)
def test_no_simulation_is_better_than_its_bounds(simulator: Simulator, candidate: Configuration) -> None:
    bound = simulator.screen(candidate, CLOSED)
    full = simulator.predict(candidate, CLOSED)
    assert full.throughput_rps <= 1.005 * bound.capacity_rps  # counted in a window whose ends cut batches
    assert full.throughput_rps >= 0.4 * bound.capacity_rps  # and the bound is one worth having
    alone = simulator.predict(candidate, replace(CLOSED, concurrency=1))
    assert bound.floor_ms <= alone.p50_ms <= 1.5 * bound.floor_ms
    assert bound.core_s_per_request <= alone.core_s_per_request


def test_the_same_question_gets_the_same_answer(simulator: Simulator) -> None:
    again = Simulator({("a1", "onnxruntime"): CURVE}, OVERHEAD, 2, loads)
    assert simulator.predict(GRID[4], OPEN) == again.predict(GRID[4], OPEN)


def test_blocks_are_simulated_until_there_are_enough_requests(simulator: Simulator) -> None:
    assert simulator.predict(GRID[0], OPEN, requests=100).requests == 100
    assert simulator.predict(GRID[0], OPEN, requests=4000).requests == 4000


def test_configurations_are_compared_under_the_same_arrivals(simulator: Simulator) -> None:
    """A capacity that is far away changes nothing, so with common arrivals the forecasts are equal."""
    calm = replace(OPEN, rate_rps=5.0)
    batched, unbatched = (simulator.predict(configuration(max_batch=b), calm) for b in (1, 8))
    assert batched == unbatched


def test_a_rate_far_beyond_the_bound_is_not_simulated(simulator: Simulator) -> None:
    found = simulator.predict(GRID[0], replace(OPEN, rate_rps=1e6))
    assert found.requests == 0
    assert found.saturated
    assert found.throughput_rps == pytest.approx(simulator.screen(GRID[0], OPEN).capacity_rps)


def test_a_rate_near_capacity_has_a_longer_tail_than_a_low_one(simulator: Simulator) -> None:
    full = simulator.predict(GRID[0], CLOSED).throughput_rps
    low, high = (simulator.predict(GRID[0], replace(OPEN, rate_rps=s * full)) for s in (0.3, 0.9))
    assert high.p99_ms > 2 * low.p99_ms
    assert not low.saturated


def test_what_has_no_curve_is_not_known(simulator: Simulator) -> None:
    assert simulator.knows(GRID[0])
    assert not simulator.knows(configuration("a2"))
    assert not simulator.knows(configuration(threads=4))
    with pytest.raises(InvalidInput, match="4 threads"):
        simulator.predict(configuration(threads=4), OPEN)
    with pytest.raises(InvalidInput, match="grpc"):
        simulator.predict(GRID[0], replace(OPEN, protocol=Protocol.GRPC))


def test_a_cap_lowers_the_bound_and_the_forecast(simulator: Simulator) -> None:
    free, capped = configuration(), replace(configuration(), cpu_limit=0.25)
    assert simulator.screen(capped, CLOSED).capacity_rps < 0.3 * simulator.screen(free, CLOSED).capacity_rps
    assert simulator.predict(capped, CLOSED).cores == pytest.approx(0.25, rel=0.2)


def test_larger_batches_raise_the_throughput_of_a_model_with_a_fixed_cost(simulator: Simulator) -> None:
    small, large = (simulator.predict(replace(GRID[0], batching=Batching(b)), CLOSED).throughput_rps for b in (1, 32))
    assert large > 1.8 * small
