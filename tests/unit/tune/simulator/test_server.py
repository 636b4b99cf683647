"""What the simulated server does as the real one does: refuses, waits for batches, shares cores, sleeps and wakes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from modelyard.domain.configuration import Batching, QueuePolicy
from modelyard.domain.errors import InvalidInput
from modelyard.domain.latency import CurvePoint, Overhead, Path, ProtocolCost
from modelyard.domain.workload import Protocol
from modelyard.tune.simulator import Forecast, Load, ModelTimes, Simulated, SimulatedService, simulate

BINARY = Protocol.HTTP_BINARY
RUN_S = 4e-3


def times(run_s: float = RUN_S, *, inside: bool = True, threads: int = 1, width: float = 1.0) -> ModelTimes:
    """As long for eight rows as for one."""
    points = [CurvePoint(b, threads, run_s, run_s * width, 10) for b in (1, 8)]
    return ModelTimes(points, inside=inside)


FREE = ProtocolCost()


def overhead(server: ProtocolCost = FREE, client: ProtocolCost = FREE, **path: float) -> Overhead:
    return Overhead({BINARY: Path(server, client, **path)})


def closed(concurrency: int, requests: int = 400, connections: int | None = None) -> Load:
    return Load(None, concurrency, requests, connections=connections or concurrency)


def rate(result: Simulated) -> float:
    return len(result.ok) / result.seconds


def test_the_same_seed_gives_the_same_result_and_another_seed_another() -> None:
    spread = ModelTimes([CurvePoint(1, 1, RUN_S, RUN_S, 10, (RUN_S, 2 * RUN_S, 3 * RUN_S))])
    first, again, other = (simulate(SimulatedService(spread), closed(3), seed=s).latencies_ms for s in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_a_full_queue_refuses_and_a_refusal_counts_as_the_timeout() -> None:
    burst = Load(np.zeros(50), connections=64, timeout_s=5)
    result = simulate(SimulatedService(times(), queue=QueuePolicy(max_requests=9)), burst)
    assert int(result.ok.sum()) == 9 + 1  # one runs at once
    assert set(result.latencies_ms[~result.ok]) == {5000.0}


def test_an_slo_refuses_what_would_come_too_late() -> None:
    burst = Load(np.zeros(100), connections=128)
    result = simulate(SimulatedService(times(), queue=QueuePolicy(slo_ms=40)), burst)
    assert 0 < result.ok.sum() < 15
    assert result.latencies_ms[result.ok].max() <= 40 + 1e-9


def test_waiting_requests_share_a_batch_up_to_its_size() -> None:
    result = simulate(SimulatedService(times(), Batching(4)), Load(np.zeros(9), connections=16))
    # the burst is read in one turn of the loop: 4, 4 and 1
    assert (result.batches, result.rows) == (3, 9)
    assert np.round(result.latencies_ms).tolist() == [4.0] * 4 + [8.0] * 4 + [12.0]


def test_a_queue_delay_waits_for_more_and_not_longer() -> None:
    due = np.array([0.0, 1e-3, 50e-3])
    result = simulate(SimulatedService(times(), Batching(8, max_delay_us=3000)), Load(due))
    assert result.batches == 2
    assert result.latencies_ms == pytest.approx([7.0, 6.0, 7.0])


def test_a_full_batch_does_not_wait_for_the_delay() -> None:
    result = simulate(SimulatedService(times(), Batching(2, max_delay_us=3000)), Load(np.zeros(2)))
    assert result.latencies_ms == pytest.approx([4.0, 4.0])


def test_requests_of_different_units_share_no_batch_and_cost_by_their_units() -> None:
    per_unit = ModelTimes([CurvePoint(1, 1, 4e-3, 4e-3, 10), CurvePoint(8, 1, 32e-3, 32e-3, 10)])
    service = SimulatedService(per_unit, Batching(8), curve_units=10.0)
    result = simulate(service, Load(np.zeros(4), units=(10, 20)))
    assert result.batches == 2
    assert sorted(result.latencies_ms) == pytest.approx([8.0, 8.0, 24.0, 24.0])


def test_each_connection_sticks_to_one_replica() -> None:
    """Two connections are with one replica or with two, by the kernel's hash; many are nearly always with both."""
    two = SimulatedService(times(), replicas=2, cores=2)
    few = {round(rate(simulate(two, closed(2), seed=seed)) * RUN_S, 1) for seed in range(8)}
    assert few == {1.0, 2.0}
    assert all(rate(simulate(two, closed(16, connections=64), seed=seed)) * RUN_S > 1.3 for seed in range(8))


def test_replicas_without_a_core_of_their_own_share_one() -> None:
    one = simulate(SimulatedService(times(), replicas=2, cores=1), closed(16, connections=64))
    assert rate(one) == pytest.approx(1 / RUN_S, rel=0.01)
    assert one.cpu_s == pytest.approx(one.seconds, rel=0.02)


def test_threads_of_a_run_ask_for_as_many_cores() -> None:
    wide = times(threads=2, width=2.0)
    together = simulate(SimulatedService(wide, replicas=2, cores=2), closed(16, connections=64))
    assert rate(together) == pytest.approx(1 / RUN_S, rel=0.01)


def test_copies_that_run_at_once_slow_each_other_down_as_measured() -> None:
    points = [CurvePoint(1, 1, RUN_S, RUN_S, 10)]
    slowed = ModelTimes(points, slowdown=(1.0, 1.5))
    result = simulate(SimulatedService(slowed, replicas=2, cores=2), closed(32, 2000, connections=64))
    assert rate(result) == pytest.approx(2 / (1.5 * RUN_S), rel=0.1)


def test_a_cap_on_cores_holds_and_stalls_show_in_the_tail() -> None:
    free = simulate(SimulatedService(times(), cores=1), closed(1))
    capped = simulate(SimulatedService(times(), cores=1, cpu_limit=0.5), closed(1))
    assert capped.cpu_s / capped.seconds == pytest.approx(0.5, rel=0.05)
    assert rate(capped) == pytest.approx(rate(free) / 2, rel=0.05)
    assert capped.latencies_ms.max() > free.latencies_ms.max() + 4


def test_the_client_takes_its_share_of_the_cores_first() -> None:
    costs = overhead(client=ProtocolCost(request_s=RUN_S))
    shared = simulate(SimulatedService(times(), cores=1), closed(4), overhead=costs)
    apart = simulate(SimulatedService(times(), cores=2), closed(4), overhead=costs)
    assert rate(shared) == pytest.approx(0.5 / RUN_S, rel=0.05)
    assert rate(apart) == pytest.approx(1 / RUN_S, rel=0.05)
    assert shared.client_cpu_s / shared.seconds == pytest.approx(0.5, rel=0.05)


def test_a_request_costs_what_the_server_spends_on_it_and_its_bytes() -> None:
    server = ProtocolCost(request_s=1e-3, in_s=1e-6, out_s=2e-6, batch_s=0.5e-3)
    load = replace(closed(1), request_bytes=500.0, answer_bytes=100.0)
    result = simulate(SimulatedService(times(0.3e-3)), load, overhead=overhead(server))
    assert result.latencies_ms == pytest.approx(0.3 + 1.0 + 0.5 + 0.2 + 0.5)


def test_a_batch_is_rendered_and_written_once_for_all_so_it_costs_less_a_request() -> None:
    costs = overhead(ProtocolCost(request_s=20e-6, batch_s=100e-6))
    alone, together = (
        simulate(SimulatedService(times(1e-4), Batching(size)), closed(8, 4000), overhead=costs) for size in (1, 8)
    )
    assert rate(together) > 3 * rate(alone)
    assert together.cpu_s < alone.cpu_s / 3


def test_waking_from_a_long_sleep_takes_longer() -> None:
    slow = overhead(hop_s=10e-6, long_hop_s=100e-6, short_idle_s=1e-3, long_idle_s=0.1)
    rare = simulate(SimulatedService(times(1e-4)), Load(np.arange(20) * 1.0), overhead=slow)
    busy = simulate(SimulatedService(times(1e-4)), closed(1), overhead=slow)
    # the client's timer and the server slept long, the client that waits for the answer did not
    assert np.median(rare.latencies_ms) == pytest.approx(0.1 + 2 * 0.1 + 0.01)
    assert np.median(busy.latencies_ms) == pytest.approx(0.1 + 2 * 0.01)


def test_what_waking_costs_before_the_answer_is_in_the_latency_and_all_of_it_in_the_cpu() -> None:
    server = ProtocolCost(cold_s=1e-3)
    costs = overhead(server, before=0.25, short_idle_s=1e-3, long_idle_s=0.1)
    result = simulate(SimulatedService(times(1e-4)), Load(np.arange(20) * 1.0), overhead=costs)
    assert np.median(result.latencies_ms) == pytest.approx(0.1 + 0.25)
    assert result.cpu_s / 20 == pytest.approx(1.1e-3, rel=0.06)


def test_a_model_in_a_process_of_its_own_never_runs_on_the_event_loop() -> None:
    costs = replace(overhead(), child_s=50e-6, handover_s=20e-6)
    inside, child = (
        simulate(SimulatedService(times(1e-4, inside=where)), closed(1), overhead=costs) for where in (True, False)
    )
    assert np.median(inside.latencies_ms) == pytest.approx(0.1)
    assert np.median(child.latencies_ms) == pytest.approx(0.1 + 0.05 + 2 * 0.02)


def test_runs_after_a_pause_are_as_slow_as_measured() -> None:
    rested = ModelTimes([CurvePoint(1, 1, 1e-4, 1e-4, 10, (), 3e-4)])
    rare = simulate(SimulatedService(rested), Load(np.arange(20) * 0.1))
    busy = simulate(SimulatedService(rested), closed(1))
    assert np.median(rare.latencies_ms) == pytest.approx(0.3)
    assert np.median(busy.latencies_ms) == pytest.approx(0.1, rel=0.1)


def test_a_protocol_that_was_not_calibrated_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="grpc"):
        simulate(SimulatedService(times()), closed(1), overhead=overhead(), protocol=Protocol.GRPC)


def test_a_forecast_sums_up_blocks_as_a_measurement_does() -> None:
    blocks = [simulate(SimulatedService(times()), closed(2, 600), seed=s) for s in (1, 2)]
    found = Forecast.of(blocks)
    assert found.requests == 1200
    assert found.throughput_rps == pytest.approx(1 / RUN_S, rel=0.01)
    assert (found.p50_ms, found.p99_ms) == pytest.approx((8.0, 8.0), rel=0.01)
    assert found.core_s_per_request == pytest.approx(RUN_S)
    assert found.cores == pytest.approx(1.0, rel=0.01)
    assert not found.saturated


def test_an_open_loop_beyond_capacity_is_saturated() -> None:
    due = np.arange(3000) * RUN_S / 1.3
    found = Forecast.of([simulate(SimulatedService(times()), Load(due))])
    assert found.saturated
    assert found.throughput_rps == pytest.approx(1 / RUN_S, rel=0.02)
