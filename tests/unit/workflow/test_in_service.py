"""The correction of in-process curves by what a replica does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from modelyard.domain.configuration import Batching, Configuration
from modelyard.domain.latency import ContentionPoint, Curve, CurvePoint, Overhead, Path, ProtocolCost
from modelyard.domain.workload import Arrival, Protocol, Workload
from modelyard.tune.simulator import Forecast, Load, ModelTimes, SimulatedService, simulate
from modelyard.workflow.in_service import (
    FACTORS,
    LONGEST_S,
    Seen,
    fitted_contention,
    fitted_factors,
    fitted_idle,
    on_scale,
    scaled,
    spread,
)
from tests.builders import configuration

ALONE = Curve("r", (CurvePoint(1, 1, 1e-4, 1e-4, 100), CurvePoint(16, 1, 1e-3, 1e-3, 100)))
PATH = Path(ProtocolCost(3e-5, batch_s=2e-5), ProtocolCost(2e-5), hop_s=2e-5)
OVERHEAD = Overhead({Protocol.HTTP_BINARY: PATH})
SINGLE, FULL = (replace(configuration(), batching=Batching(size)) for size in (1, 16))


def closed(concurrency: int) -> Workload:
    return Workload(Arrival.CLOSED, concurrency=concurrency)


def idle(seconds: float) -> Curve:
    return replace(ALONE, points=tuple(replace(p, idle_s=seconds) for p in ALONE.points))


def predict(curve: Curve, what: Configuration, workload: Workload) -> Forecast:
    service = SimulatedService(
        ModelTimes.of(curve, 1, what.replicas, 2), batching=what.batching, replicas=what.replicas, cores=2
    )
    load = Load(concurrency=workload.concurrency, requests=600, connections=workload.concurrency)
    return Forecast.of([simulate(service, load, overhead=OVERHEAD)])


def test_runs_are_scaled_until_the_simulation_spends_what_the_replica_did() -> None:
    truth = replace(ALONE, points=tuple(scaled(p, {1: 1.4, 16: 0.9}) for p in ALONE.points))
    seen = [
        Seen(rows, what, work, predict(truth, what, work).core_s_per_request)
        for rows, what, work in ((1, SINGLE, closed(4)), (16, FULL, closed(32)))
    ]
    factors = fitted_factors(ALONE, seen, predict)
    assert factors == pytest.approx({1: 1.4, 16: 0.9}, rel=0.02)


def test_sizes_that_were_not_seen_follow_the_shape_of_those_that_were() -> None:
    spent_s = predict(scaled_by(1.5), SINGLE, closed(4)).core_s_per_request
    factors = fitted_factors(ALONE, [Seen(1, SINGLE, closed(4), spent_s)], predict, {1: 1.0, 16: 0.8})
    assert factors == pytest.approx({1: 1.5, 16: 1.2}, rel=0.02)


def scaled_by(factor: float) -> Curve:
    return replace(ALONE, points=tuple(scaled(p, {1: factor}) for p in ALONE.points))


def test_a_factor_that_cannot_be_is_bounded() -> None:
    assert fitted_factors(ALONE, [Seen(1, SINGLE, closed(4), 1.0)], predict) == {1: FACTORS[1]}


@pytest.mark.parametrize("idle_s", [-4e-5, 3e-5])
def test_runs_after_a_sleep_are_shifted_until_the_round_trip_is_as_seen(idle_s: float) -> None:
    truth = idle(idle_s)
    round_trip_s = 1 / predict(truth, SINGLE, closed(1)).throughput_rps
    found = fitted_idle(ALONE, Seen(1, SINGLE, closed(1), round_trip_s), predict)
    assert found.points[0].idle_s * idle_s > 0
    assert 1 / predict(found, SINGLE, closed(1)).throughput_rps == pytest.approx(round_trip_s, rel=0.01)


def test_what_an_answer_after_a_sleep_saves_is_spent_after_it() -> None:
    """Latency is less, CPU is not."""
    usual, sooner = (predict(idle(s), SINGLE, closed(1)) for s in (0.0, -4e-5))
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


def test_single_runs_are_as_far_from_the_median_as_latencies_were_beyond_the_jitter() -> None:
    point = CurvePoint(1, 1, 1e-3, 1e-3, 9, walls_s=(0.9e-3, 1e-3, 1.2e-3))
    found = spread(point, np.array([-1e-4, 0.0, 0.0, 5e-4]), (-1e-4, 0.0, 0.0, 1e-4))
    assert found.wall_s == point.wall_s
    assert max(found.walls_s) == pytest.approx(1e-3 + 5e-4 - 0.625e-4)  # the jitter there, interpolated
    assert min(found.walls_s) == pytest.approx(np.quantile(point.walls_s, 0.125))
    assert list(found.walls_s) == sorted(found.walls_s)
    calm = spread(point, np.zeros(4), ())
    assert max(calm.walls_s) == pytest.approx(np.quantile(point.walls_s, 0.875))  # its own spread stays


def test_runs_at_the_same_time_are_slowed_until_the_simulation_spends_what_the_replicas_did() -> None:
    both = replace(SINGLE, replicas=2)
    slowed = replace(ALONE, contention=(ContentionPoint(2, 1, 1, 1.3e-4),))
    spent_s = predict(slowed, both, closed(8)).core_s_per_request
    wrong = replace(ALONE, contention=(ContentionPoint(2, 1, 4, 9e-4), ContentionPoint(2, 2, 1, 5e-5)))
    found = fitted_contention(wrong, Seen(1, both, closed(8), spent_s), predict)
    assert found.contention[0] == ContentionPoint(2, 2, 1, 5e-5)  # of another number of threads: as it was
    assert found.contention[1].wall_s == pytest.approx(1.3e-4, rel=0.03)
    quicker = fitted_contention(ALONE, Seen(1, both, closed(8), spent_s / 2), predict)
    assert quicker.contention[0].wall_s == ALONE.points[0].wall_s


def test_walls_of_copies_go_with_the_correction_of_their_size() -> None:
    curve = replace(ALONE, contention=(ContentionPoint(2, 1, 16, 2e-3),))
    (found,) = on_scale(curve, scaled_by(1.5).points)
    assert (found.copies, found.batch) == (2, 16)
    assert found.wall_s == pytest.approx(3e-3)
