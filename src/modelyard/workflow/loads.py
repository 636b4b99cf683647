"""The workloads that a profile request means: its axes, its scenario, its trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from modelyard.domain.errors import InvalidInput
from modelyard.domain.workload import Arrival, Scenario, Trace, Workload
from modelyard.profile import recording
from modelyard.profile.recording import Recording
from modelyard.profile.traces import TraceFile
from modelyard.workflow.values import ProfileRequest

CONCURRENCY: Final = 8
"""Requests in flight of a closed loop of which nothing is said."""
OFFLINE_IN_FLIGHT: Final = 64
"""Enough for two batches of 32; a service refuses nothing so few (its queue holds 1024)."""
SAMPLES_PER_QUERY: Final = 8
"""LoadGen's `multi_stream_samples_per_query`."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A recording to be replayed, and in words where it came from."""

    recording: Recording
    digest: str
    words: str


def replayed(trace: TraceFile, folder: Path) -> Replay:
    """Read a trace file and keep it in `folder`, or find what is kept there by the digest given as its path.

    Raises NotFound, InvalidInput.
    """
    if not trace.path.exists() and (found := recording.kept(folder, str(trace.path))):
        return Replay(found, found.digest, _words(found, "kept"))
    read, layout = trace.read()
    return Replay(read, read.save(folder), _words(read, f"read as {layout}"))


def _words(found: Recording, how: str) -> str:
    return f"trace {found.digest[:12]}, {how}: {found.requests:,} requests in {found.span_s:,.6g} s"


def workloads(request: ProfileRequest, replay: Replay | None = None) -> list[Workload]:
    """The workloads of a request: protocols x loads x request sizes. Raises InvalidInput."""
    request = _in_scenario(request)
    if request.rates_rps and request.closed:
        raise InvalidInput("a workload is open (a rate) or closed (requests in flight), not both")
    found = [
        replace(load, batch=batch, protocol=protocol)
        for protocol in request.protocols
        for load in _loads(request, replay)
        for batch in request.batches
    ]
    return list(dict.fromkeys(found))


def _loads(request: ProfileRequest, replay: Replay | None) -> Iterator[Workload]:
    arrival = _arrival(request)
    base = Workload(
        Arrival.CLOSED,
        blocks=request.blocks,
        requests=request.requests,
        duration_s=request.duration_s,
        seed=request.seed,
        scenario=request.scenario,
    )
    if arrival is Arrival.CLOSED:
        if request.slo is not None:
            raise InvalidInput(
                "a closed loop has no SLO",
                why="it finds capacity, which refusals would hide",
                hint="give a rate (--rate)",
            )
        yield from (replace(base, concurrency=count) for count in request.closed or (CONCURRENCY,))
    elif arrival is Arrival.TRACE:
        if request.trace is None or replay is None:
            raise InvalidInput("trace arrivals need a trace", hint="give its file (--trace)")
        yield from _of_trace(base, request, replay)
    else:
        for rate in request.rates_rps:
            yield replace(
                base, arrival=arrival, rate_rps=rate, cv=request.cv, end_rate_rps=request.end_rate_rps, concurrency=1
            )


def _arrival(request: ProfileRequest) -> Arrival:
    """The arrivals that the request names, or that follow from what else it gives."""
    follows = (
        Arrival.TRACE
        if request.trace
        else Arrival.RAMP
        if request.end_rate_rps is not None
        else Arrival.GAMMA
        if request.cv is not None
        else Arrival.POISSON
        if request.rates_rps
        else Arrival.CLOSED
    )
    arrival = request.arrival or follows
    if arrival not in (Arrival.CLOSED, Arrival.TRACE) and not request.rates_rps:
        raise InvalidInput(f"{arrival} arrivals need a rate", hint="give rates_rps (--rate)")
    if arrival is Arrival.CLOSED and follows is not Arrival.CLOSED:
        raise InvalidInput("a closed loop has no rate and no arrivals", hint="leave out --arrival closed")
    if arrival is not Arrival.CLOSED and request.closed:
        raise InvalidInput("a closed loop has no arrivals", hint="leave out --closed, or --arrival and --trace")
    return arrival


def _of_trace(base: Workload, request: ProfileRequest, replay: Replay) -> Iterator[Workload]:
    """As recorded, or at each asked rate. Instants can be thinned only: doubling them would be another process."""
    own = replay.recording.rate_rps(request.trace_start_s, request.duration_s)
    for rate in request.rates_rps or (own,):
        scale = rate / own
        if scale > 1 and replay.recording.interval_s is None:
            raise InvalidInput(
                f"this part of the trace has {own:.4g} requests/s, so not {rate:g}",
                why="recorded instants can be thinned, not multiplied: that would be another process",
                hint="ask for a lower --rate, take a busier part (--trace-start), or give counts",
            )
        trace = Trace(replay.digest, request.trace_start_s, scale)
        yield replace(
            base,
            arrival=Arrival.TRACE,
            rate_rps=float(f"{rate:.6g}"),
            trace=trace,
            cv=request.cv,
            end_rate_rps=request.end_rate_rps,
        )


def _in_scenario(request: ProfileRequest) -> ProfileRequest:
    """The request with the load that its scenario brings."""
    scenario = request.scenario
    if scenario is None:
        return request
    open_loop = bool(request.rates_rps or request.trace or request.cv or request.end_rate_rps)
    if scenario is Scenario.SERVER:
        if request.closed or not request.rates_rps or request.arrival not in (None, Arrival.POISSON):
            raise InvalidInput(
                "the scenario server is Poisson arrivals at a rate", hint="give --rate and no other load"
            )
        return replace(request, arrival=Arrival.POISSON)
    if open_loop or request.arrival not in (None, Arrival.CLOSED):
        raise InvalidInput(
            f"the scenario {scenario} has no rate and no arrivals", hint="leave out --rate and --arrival"
        )
    if scenario is Scenario.OFFLINE:
        return replace(request, closed=request.closed or (OFFLINE_IN_FLIGHT,))
    if request.closed not in ((), (1,)):
        raise InvalidInput(f"the scenario {scenario} has one request in flight", hint="leave out --closed")
    batches = (SAMPLES_PER_QUERY,) if scenario is Scenario.MULTI_STREAM and request.batches == (1,) else request.batches
    return replace(request, closed=(1,), batches=batches)
