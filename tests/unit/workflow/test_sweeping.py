"""A sweep measures every cell it can, whatever becomes of the others, and says what became of each."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest

from modelyard.domain.errors import BackendFailed, InvalidInput, Unavailable
from modelyard.domain.workload import Arrival, Workload
from modelyard.workflow.sweeping import Sweeping, feasible, lengthened
from tests.builders import configuration, measurement

A, B, C = (configuration("a", threads=n) for n in (1, 2, 3))
ONE, TWO = (Workload(Arrival.CLOSED, concurrency=n) for n in (1, 2))


class FakeBench:
    """Answers each cell with a measurement or an error; `calls` says what was asked in which order."""

    def __init__(self, profiling):
        self.profiling, self.services = profiling, {}

    def measure(self, configurations, work, purpose, report):
        (configuration,) = configurations
        self.profiling.calls.append((configuration, work, configuration in self.services))
        outcome = self.profiling.outcomes.get((configuration, work))
        if outcome == "no start":
            raise BackendFailed("it did not start")
        self.services[configuration] = "running"
        if isinstance(outcome, Exception):
            raise outcome
        found = replace(measurement(), configuration=configuration, workload=work)
        if isinstance(outcome, int):
            found = replace(found, verdict=replace(found.verdict, requests_wanted=outcome))
        return [found]

    def release(self):
        self.services.clear()


class FakeProfiling:
    cores = 2

    def __init__(self, outcomes=()):
        self.outcomes, self.calls, self.again = dict(outcomes), [], []

    def alone(self, listener):
        return nullcontext()

    @contextmanager
    def bench(self, version, *, again):
        self.again.append(again)
        yield FakeBench(self)


def swept(profiling, configurations, workloads=(ONE, TWO), told=None):
    listener = (lambda progress: told.append(progress)) if told is not None else lambda progress: None
    return Sweeping(profiling, None, workloads, listener).run(configurations, again=True)


def test_each_configuration_keeps_its_service_for_all_of_its_workloads():
    profiling = FakeProfiling()
    found = swept(profiling, [A, B, A])
    assert profiling.calls == [(A, ONE, False), (A, TWO, True), (B, ONE, False), (B, TWO, True)]
    assert profiling.again == [True, True]
    assert [(m.configuration, m.workload) for m in found.measurements] == [(A, ONE), (A, TWO), (B, ONE), (B, TWO)]
    assert found.failed == found.skipped == ()


def test_a_failed_cell_is_told_and_the_others_are_measured_on_a_fresh_service():
    told = []
    profiling = FakeProfiling({(A, ONE): Unavailable("gone")})
    found = swept(profiling, [A, B], told=told)
    assert [(f.configuration, f.workload, str(f.error)) for f in found.failed] == [(A, ONE, "gone")]
    assert len(found.measurements) == 3
    assert (A, TWO, False) in profiling.calls
    assert any("cell 1/4" in p.message and "failed: gone" in p.message for p in told)
    assert "gone" in str(found.failed[0])


def test_a_configuration_that_does_not_start_is_not_started_for_every_workload():
    profiling = FakeProfiling({(A, ONE): "no start"})
    found = swept(profiling, [A, B])
    assert [(f.configuration, f.workload) for f in found.failed] == [(A, ONE), (A, TWO)]
    assert profiling.calls == [(A, ONE, False), (B, ONE, False), (B, TWO, True)]


def test_the_only_cell_raises_what_it_failed_of():
    with pytest.raises(BackendFailed):
        swept(FakeProfiling({(A, ONE): "no start"}), [A], [ONE])


def test_what_is_no_expected_error_ends_the_sweep():
    with pytest.raises(ZeroDivisionError):
        swept(FakeProfiling({(A, ONE): ZeroDivisionError()}), [A, B])


def test_what_the_machine_cannot_hold_is_skipped_with_the_reason():
    told = []
    found = swept(FakeProfiling(), [A, C], told=told)
    assert [s.configuration for s in found.skipped] == [C]
    assert "needs 3 cores, this machine has 2" in str(found.skipped[0])
    assert {m.configuration for m in found.measurements} == {A}
    assert told[0].message.startswith("skipped")
    two_by_two = configuration("a", threads=2, replicas=2)
    assert feasible([two_by_two], 4) == ([two_by_two], [])
    with pytest.raises(InvalidInput) as caught:
        swept(FakeProfiling(), [C])
    assert "needs 3 cores" in caught.value.why


OPEN = Workload(Arrival.POISSON, rate_rps=100.0, requests=1000, duration_s=10.0)


def test_a_cell_whose_verdict_asks_for_longer_blocks_is_measured_with_them():
    longer = replace(OPEN, requests=5000, duration_s=120.0)
    longest = replace(OPEN, requests=12_000, duration_s=120.0)
    profiling, told = FakeProfiling({(A, OPEN): 5000, (A, longer): 20_000, (A, longest): 20_000}), []
    sweep = Sweeping(profiling, None, (OPEN,), told.append, 120.0).run([A], again=False)
    assert [work for _, work, _ in profiling.calls] == [OPEN, longer, longest]
    assert [m.workload for m in sweep.measurements] == [longest]
    assert any("again, in blocks of 5,000 requests" in progress.message for progress in told)


def test_blocks_stay_as_they_are_where_nobody_asked_for_longer_ones():
    profiling = FakeProfiling({(A, OPEN): 5000})
    assert [m.workload for m in swept(profiling, [A], (OPEN,)).measurements] == [OPEN]


def test_blocks_of_a_load_that_changes_by_itself_are_not_lengthened():
    assert lengthened(OPEN, 5000, 120.0) == replace(OPEN, requests=5000, duration_s=120.0)
    assert lengthened(OPEN, 0, 120.0) is None
    assert lengthened(replace(OPEN, requests=5000, duration_s=60.0), 5000, 120.0) is None
    assert lengthened(OPEN, 5000, 10.0) is None  # they last as long already
    assert lengthened(replace(OPEN, arrival=Arrival.RAMP, end_rate_rps=400.0), 5000, 120.0) is None
    assert lengthened(Workload(Arrival.CLOSED, concurrency=4), 5000, 120.0) is None
