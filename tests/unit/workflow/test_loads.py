"""From a profile request to the workloads it means: axes, what follows from what, scenarios, traces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelyard.domain.configuration import Slo
from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.domain.workload import Arrival, Protocol, Scenario
from modelyard.profile.recording import Recording
from modelyard.profile.traces import TraceFile
from modelyard.workflow.loads import Replay, replayed, workloads
from modelyard.workflow.values import ProfileRequest

INSTANTS = Recording(np.arange(0.0, 100.0, 0.1))
COUNTS = Recording(np.array([600.0, 1200.0]), 60.0)


def replay(recording):
    return Replay(recording, recording.digest, "")


def file(name="t"):
    return TraceFile(Path(name))


def test_the_axes_of_the_load_multiply():
    request = ProfileRequest(
        batches=(1, 8), rates_rps=(50.0, 200.0), protocols=(Protocol.GRPC, Protocol.HTTP_JSON), seed=4
    )
    found = workloads(request)
    assert len(found) == len(set(found)) == 8
    assert {(w.protocol, w.rate_rps, w.batch) for w in found} == {
        (p, r, b) for p in (Protocol.GRPC, Protocol.HTTP_JSON) for r in (50.0, 200.0) for b in (1, 8)
    }
    assert {(w.arrival, w.seed, w.requests, w.duration_s) for w in found} == {(Arrival.POISSON, 4, 1000, 10.0)}
    assert [w.concurrency for w in workloads(ProfileRequest(closed=(1, 4, 4)))] == [1, 4]


def test_nothing_said_is_a_closed_loop_of_8():
    (work,) = workloads(ProfileRequest())
    assert (work.arrival, work.concurrency, work.batch) == (Arrival.CLOSED, 8, 1)


@pytest.mark.parametrize(
    ("options", "arrival"),
    [
        ({"cv": 3.0}, Arrival.GAMMA),
        ({"end_rate_rps": 90.0}, Arrival.RAMP),
        ({"arrival": Arrival.CONSTANT}, Arrival.CONSTANT),
    ],
)
def test_the_arrivals_follow_from_what_is_given(options, arrival):
    (work,) = workloads(ProfileRequest(rates_rps=(50.0,), **options))
    assert work.arrival is arrival
    assert work.rate_rps == 50


@pytest.mark.parametrize(
    ("scenario", "options", "load"),
    [
        (Scenario.SINGLE_STREAM, {}, (Arrival.CLOSED, 1, 1)),
        (Scenario.MULTI_STREAM, {}, (Arrival.CLOSED, 1, 8)),
        (Scenario.MULTI_STREAM, {"batches": (4,)}, (Arrival.CLOSED, 1, 4)),
        (Scenario.SERVER, {"rates_rps": (70.0,)}, (Arrival.POISSON, 1, 1)),
        (Scenario.OFFLINE, {"batches": (32,)}, (Arrival.CLOSED, 64, 32)),
        (Scenario.OFFLINE, {"closed": (16,)}, (Arrival.CLOSED, 16, 1)),
    ],
)
def test_a_scenario_brings_its_load(scenario, options, load):
    (work,) = workloads(ProfileRequest(scenario=scenario, **options))
    assert (work.arrival, work.concurrency, work.batch) == load
    assert work.scenario is scenario


@pytest.mark.parametrize(
    "options",
    [
        {"scenario": Scenario.SINGLE_STREAM, "rates_rps": (5.0,)},
        {"scenario": Scenario.SINGLE_STREAM, "closed": (8,)},
        {"scenario": Scenario.OFFLINE, "arrival": Arrival.POISSON},
        {"scenario": Scenario.OFFLINE, "trace": file()},
        {"scenario": Scenario.SERVER},
        {"scenario": Scenario.SERVER, "rates_rps": (5.0,), "arrival": Arrival.CONSTANT},
        {"scenario": Scenario.SERVER, "rates_rps": (5.0,), "cv": 2.0},
        {"scenario": Scenario.SERVER, "closed": (5,)},
        {"rates_rps": (5.0,), "closed": (5,)},
        {"arrival": Arrival.POISSON},
        {"arrival": Arrival.RAMP, "rates_rps": (5.0,)},
        {"arrival": Arrival.TRACE},
        {"arrival": Arrival.CLOSED, "rates_rps": (5.0,)},
        {"trace": file(), "closed": (5,)},
        {"trace": file(), "end_rate_rps": 5.0},
        {"cv": 2.0},
        {"cv": 2.0, "closed": (5,)},
        {"slo": Slo(20.0)},
        {"slo": Slo(20.0), "scenario": Scenario.OFFLINE},
    ],
)
def test_loads_that_contradict_themselves_are_refused(options):
    with pytest.raises(InvalidInput) as caught:
        workloads(ProfileRequest(**options), replay(INSTANTS))
    assert caught.value.what


def test_a_trace_is_replayed_as_recorded_or_scaled_to_a_rate():
    (own,) = workloads(ProfileRequest(trace=file(), trace_start_s=10.0), replay(INSTANTS))
    assert (own.arrival, own.rate_rps, own.trace.scale) == (Arrival.TRACE, pytest.approx(10), 1)
    assert (own.trace.start_s, own.trace.digest) == (10.0, INSTANTS.digest)
    half, less = workloads(ProfileRequest(trace=file(), rates_rps=(5.0, 1.0)), replay(INSTANTS))
    assert (half.trace.scale, less.trace.scale) == (pytest.approx(0.5), pytest.approx(0.1))
    with pytest.raises(InvalidInput) as caught:
        workloads(ProfileRequest(trace=file(), rates_rps=(20.0,)), replay(INSTANTS))
    assert "thinned" in caught.value.why
    (more,) = workloads(ProfileRequest(trace=file(), rates_rps=(40.0,), cv=4.0), replay(COUNTS))
    assert (more.trace.scale, more.cv, more.rate_rps) == (pytest.approx(4), 4.0, 40.0)


def test_a_trace_file_is_kept_and_found_again_by_its_digest(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("0\n1.5\n2\n")
    read = replayed(TraceFile(source), tmp_path / "traces")
    assert "3 requests in 2 s" in read.words
    assert "timestamps" in read.words
    source.unlink()
    again = replayed(file(read.digest[:12]), tmp_path / "traces")
    assert again.digest == read.digest
    assert again.recording.values.tolist() == [0, 1.5, 2]
    with pytest.raises(NotFound):
        replayed(TraceFile(source), tmp_path / "traces")
