"""A max-rate search on the services of a bench: which configuration and workload each step measures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from modelyard.domain.configuration import Configuration, Slo
from modelyard.domain.errors import InvalidInput
from modelyard.domain.measurement import Interval, Measurement
from modelyard.domain.workload import Arrival, Protocol, Workload
from modelyard.profile.slo_evidence import Limits, Load, Purpose
from modelyard.workflow.max_rate import PURPOSE, MaxRateRequest, in_flight, search_on, target_of, workload
from modelyard.workflow.progress import silent
from tests.builders import configuration, measurement
from tests.unit.cli.fakes import VERSION

SLO = Slo(20)
REQUEST = MaxRateRequest(protocol=Protocol.GRPC, seed=3)


@dataclass
class Bench:
    """Measures a service of 1000 requests/s by its formula; notes what runs when."""

    services: dict[Configuration, object] = field(default_factory=dict)
    asked: list[tuple[Configuration, Workload, str]] = field(default_factory=list)
    together: int = 0

    def release(self) -> None:
        self.services.clear()

    def measure(self, configurations, work, purpose, report) -> list[Measurement]:
        (measured,) = configurations
        report("block 0/5")
        self.services[measured] = object()
        self.together = max(self.together, len(self.services))
        self.asked.append((measured, work, purpose))
        p99 = 2.0 / (1 - (work.rate_rps or 0) / 1000)
        found = measurement(f"m{len(self.asked)}", config=measured, p99=(p99, 0.9 * p99, 1.1 * p99))
        rate = Interval(work.rate_rps or 1000.0)
        return [replace(found, workload=work, indicators=replace(found.indicators, throughput_rps=rate))]


def test_the_capacity_is_that_without_an_slo_and_rates_are_tried_with_it():
    bench = Bench()
    answer = search_on(bench, configuration(max_batch=8, replicas=2), SLO, REQUEST, silent)
    (first, closed, _), *others = bench.asked
    assert first.queue.slo_ms is None
    assert closed.arrival is Arrival.CLOSED
    assert closed.concurrency == 32
    assert {c.queue.slo_ms for c, _, _ in others} == {20}
    assert {w.arrival for _, w, _ in others} == {Arrival.POISSON}
    assert {w.protocol for _, w, _ in bench.asked} == {Protocol.GRPC}
    assert {purpose for _, _, purpose in bench.asked} == {PURPOSE}
    assert answer.rate_rps == pytest.approx(1000 * (1 - 2.2 / 20), rel=0.06)
    assert [p.evidence.measurement for p in answer.probes] == [f"m{k + 1}" for k in range(len(bench.asked))]


def test_two_services_never_run_at_once():
    bench = Bench()
    search_on(bench, configuration(), SLO, REQUEST, silent)
    assert bench.together == 1


def test_the_same_search_asks_for_the_same_cells_so_that_finished_ones_are_reused():
    first, second = Bench(), Bench()
    search_on(first, configuration(), SLO, REQUEST, silent)
    search_on(second, configuration(), SLO, REQUEST, silent)
    assert first.asked == second.asked


def test_the_number_of_requests_ends_a_block_and_not_the_time():
    load = Load(Purpose.CONFIRM, 123.456, 4, 5000)
    work = workload(load, configuration(), replace(REQUEST, limits=Limits(most_block_s=10)))
    assert work.rate_rps == 123.5
    assert work.seed == 4
    assert work.duration_s > 5000 / 123.5


@pytest.mark.parametrize(("replicas", "max_batch", "count"), [(1, 1, 8), (2, 8, 32), (4, 64, 256)])
def test_the_closed_loop_keeps_every_replica_busy(replicas, max_batch, count):
    assert in_flight(configuration(replicas=replicas, max_batch=max_batch)) == count


def test_the_slo_is_the_one_given_or_the_versions_without_its_rate():
    assert target_of(VERSION, None) == Slo(20)
    assert target_of(VERSION, Slo(7)) == Slo(7)
    with pytest.raises(InvalidInput) as caught:
        target_of(VERSION, Slo(7, 100))
    assert "p99 <= 7 ms" in caught.value.hint
    without = replace(VERSION, definition=replace(VERSION.definition, slo=None))
    with pytest.raises(InvalidInput) as caught:
        target_of(without, None)
    assert "--slo" in caught.value.hint


def test_every_measurement_has_the_blocks_asked_for_and_none_lasts_longer():
    asked = replace(REQUEST, blocks=3, limits=Limits(most_block_s=2))
    capacity = workload(Load(Purpose.CAPACITY, None, 0, 1000), configuration(), asked)
    probe = workload(Load(Purpose.PROBE, 100.0, 0, 200), configuration(), asked)
    assert (capacity.blocks, probe.blocks) == (3, 3)
    assert capacity.duration_s == 2
