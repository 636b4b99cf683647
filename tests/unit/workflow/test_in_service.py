"""The correction of in-process curves by what a replica does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelyard.domain.configuration import Batching, Configuration
from modelyard.domain.latency import Curve, CurvePoint, Overhead, Path, ProtocolCost
from modelyard.domain.workload import Arrival, Protocol, Workload
from modelyard.tune.simulator import Forecast, Load, ModelTimes, SimulatedService, simulate
from modelyard.workflow.in_service import FACTORS, LONGEST_S, Seen, fitted_idle, fitted_runs, scaled
from tests.builders import configuration

ALONE = Curve("r", (CurvePoint(1, 1, 1e-4, 1e-4, 100), CurvePoint(16, 1, 1e-3, 1e-3, 100)))
PATH = Path(ProtocolCost(3e-5, batch_s=2e-5), ProtocolCost(2e-5), hop_s=2e-5)
OVERHEAD = Overhead({Protocol.HTTP_BINARY: PATH})
SINGLE, FULL = (replace(configuration(), batching=Batching(size)) for size in (1, 16))


def closed(concurrency: int) -> Workload:
    return Workload(Arrival.CLOSED, concurrency=concurrency)


def predict(curve: Curve, what: Configuration, workload: Workload) -> Forecast:
    service = SimulatedService(ModelTimes.of(curve, 1, 1, 2), batching=what.batching, cores=2)
    load = Load(concurrency=workload.concurrency, requests=600, connections=workload.concurrency)
    return Forecast.of([simulate(service, load, overhead=OVERHEAD)])


def test_runs_are_scaled_until_the_simulation_spends_what_the_replica_did() -> None:
    truth = replace(ALONE, points=tuple(scaled(p, {1: 1.4, 16: 0.9}) for p in ALONE.points))
    seen = [
        Seen(rows, what, work, predict(truth, what, work).core_s_per_request)
        for rows, what, work in ((1, SINGLE, closed(4)), (16, FULL, closed(32)))
    ]
    found = fitted_runs(ALONE, seen, predict)
    assert [p.wall_s for p in found.points] == pytest.approx([p.wall_s for p in truth.points], rel=0.02)


def test_a_factor_that_cannot_be_is_bounded() -> None:
    found = fitted_runs(ALONE, [Seen(1, SINGLE, closed(4), 1.0)], predict)
    assert found.points[0].wall_s == pytest.approx(FACTORS[1] * 1e-4)


@pytest.mark.parametrize("idle_s", [-4e-5, 3e-5])
def test_runs_after_a_sleep_are_shifted_until_the_round_trip_is_as_seen(idle_s: float) -> None:
    truth = replace(ALONE, idle_s=idle_s)
    round_trip_s = 1 / predict(truth, SINGLE, closed(1)).throughput_rps
    found = fitted_idle(ALONE, Seen(1, SINGLE, closed(1), round_trip_s), predict)
    assert found.idle_s * idle_s > 0
    assert 1 / predict(found, SINGLE, closed(1)).throughput_rps == pytest.approx(round_trip_s, rel=0.01)


def test_what_an_answer_after_a_sleep_saves_is_spent_after_it() -> None:
    """Latency is less, CPU is not."""
    usual, sooner = (predict(replace(ALONE, idle_s=s), SINGLE, closed(1)) for s in (0.0, -4e-5))
    assert usual.p50_ms - sooner.p50_ms == pytest.approx(0.04, abs=0.005)
    assert sooner.core_s_per_request == pytest.approx(usual.core_s_per_request, rel=0.01)


def test_between_sizes_the_factor_goes_along_the_logarithm_and_beyond_it_stays() -> None:
    factors = {1: 1.8, 16: 1.4}
    times = {rows: scaled(CurvePoint(rows, 1, 1e-4, 1e-4, 9), factors).wall_s / 1e-4 for rows in (1, 4, 16, 64)}
    assert times == pytest.approx({1: 1.8, 4: 1.6, 16: 1.4, 64: 1.4})


def test_everything_of_a_point_is_scaled_but_what_a_rest_adds() -> None:
    point = CurvePoint(1, 1, 1e-4, 2e-4, 9, walls_s=(0.9e-4, 1e-4, 1.1e-4), rested_s=1.2e-4)
    found = scaled(point, {1: 1.5})
    assert found.wall_s == pytest.approx(1.5e-4)
    assert found.cpu_s == pytest.approx(3e-4)
    assert found.walls_s == pytest.approx((1.35e-4, 1.5e-4, 1.65e-4))
    assert found.rested_s == pytest.approx(1.7e-4)


def test_the_correction_fades_with_the_length_of_the_run() -> None:
    wall_s = LONGEST_S / 10**0.5
    assert scaled(CurvePoint(8, 1, wall_s, wall_s, 9), {1: 2.0}).wall_s == pytest.approx(1.5 * wall_s)
    assert scaled(CurvePoint(8, 1, LONGEST_S, LONGEST_S, 9), {1: 2.0}).wall_s == pytest.approx(LONGEST_S)
    assert scaled(CurvePoint(8, 1, 1e-4, 1e-4, 9), {}).wall_s == 1e-4
