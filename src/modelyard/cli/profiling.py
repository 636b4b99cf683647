"""`yard profile`: measure configurations of a version under load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from modelyard.cli import arguments, exits
from modelyard.cli.command import command
from modelyard.cli.session import Session
from modelyard.domain.errors import BackendFailed, InvalidInput
from modelyard.domain.workload import LEAST_CV, MOST_CV, Arrival, Protocol, Scenario, TraceLayout

if TYPE_CHECKING:
    from modelyard.workflow.values import ProfileRequest

_CONFIGURATION: Final = "What is measured (lists, 1,2 or repeated, are axes of the sweep)"
_LOAD: Final = "Under which load"
_TRACE: Final = "Recorded arrivals"
_EFFORT: Final = "How long"


def profile(
    session: Session,
    ref: Annotated[str, typer.Argument(metavar="REF", help="Which version: digits, digits:3, digits@production.")],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="LIST",
            help="Artifacts to run; default: every servable one.",
            rich_help_panel=_CONFIGURATION,
        ),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime", metavar="LIST", help="Runtimes; default: each artifact's own.", rich_help_panel=_CONFIGURATION
        ),
    ] = None,
    threads: Annotated[
        list[str] | None,
        typer.Option(
            "--threads",
            metavar="LIST",
            help="Threads per replica, e.g. 1,2; default: the cores by the replicas.",
            rich_help_panel=_CONFIGURATION,
        ),
    ] = None,
    replicas: Annotated[
        list[str] | None,
        typer.Option(
            "--replicas",
            metavar="LIST",
            help="Replicas of the measured service; default: 1.",
            rich_help_panel=_CONFIGURATION,
        ),
    ] = None,
    max_batch: Annotated[
        list[str] | None,
        typer.Option(
            "--max-batch",
            metavar="LIST",
            help="Dynamic batching up to; default: 1, off.",
            rich_help_panel=_CONFIGURATION,
        ),
    ] = None,
    max_delay_us: Annotated[
        int,
        typer.Option("--max-delay-us", min=0, help="Longest wait for a batch to fill.", rich_help_panel=_CONFIGURATION),
    ] = 0,
    device: Annotated[
        str, typer.Option("--device", help="Where to compute: cpu or gpu:0.", rich_help_panel=_CONFIGURATION)
    ] = "cpu",
    slo: Annotated[
        str | None,
        typer.Option(
            "--slo",
            metavar="SLO",
            help="Latency target of the queue, e.g. 'p99 <= 20 ms'; default: the version's.",
            rich_help_panel=_CONFIGURATION,
        ),
    ] = None,
    closed: Annotated[
        list[str] | None,
        typer.Option("--closed", metavar="LIST", help="Closed loop: requests in flight.", rich_help_panel=_LOAD),
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option("--rate", metavar="LIST", help="Open loop: requests per second.", rich_help_panel=_LOAD),
    ] = None,
    arrival: Annotated[
        Arrival | None,
        typer.Option("--arrival", help="When requests are sent; with --rate: poisson.", rich_help_panel=_LOAD),
    ] = None,
    cv: Annotated[
        float | None,
        typer.Option(
            "--cv",
            min=LEAST_CV,
            max=MOST_CV,
            help="Gamma arrivals: coefficient of variation of the gaps; 1 is poisson.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    end_rate: Annotated[
        float | None,
        typer.Option("--end-rate", min=0.001, help="Ramp: from --rate to this over each block.", rich_help_panel=_LOAD),
    ] = None,
    scenario: Annotated[
        Scenario | None, typer.Option("--scenario", help="MLPerf's load and its number.", rich_help_panel=_LOAD)
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(
            "--batch", metavar="LIST", help="Rows per request, e.g. 1,8,32; default: 1.", rich_help_panel=_LOAD
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            metavar="LIST",
            help="How requests travel: http-json, http-binary (default), grpc.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(
            "--trace",
            metavar="FILE|DIGEST",
            help="Replay a file of arrivals, or one kept from before; --rate scales it.",
            rich_help_panel=_TRACE,
        ),
    ] = None,
    trace_layout: Annotated[
        TraceLayout | None,
        typer.Option("--trace-layout", help="How the file is written; default: found out.", rich_help_panel=_TRACE),
    ] = None,
    trace_column: Annotated[
        str | None,
        typer.Option(
            "--trace-column",
            metavar="NAME",
            help="Column of the instants or counts: its name, or number from 1.",
            rich_help_panel=_TRACE,
        ),
    ] = None,
    trace_interval: Annotated[
        float | None,
        typer.Option("--trace-interval", min=0.001, help="Seconds of a count; default: 60.", rich_help_panel=_TRACE),
    ] = None,
    trace_function: Annotated[
        str | None,
        typer.Option(
            "--trace-function",
            metavar="NAME",
            help="Functions of an Azure file whose names begin so; default: all.",
            rich_help_panel=_TRACE,
        ),
    ] = None,
    trace_start: Annotated[
        float,
        typer.Option(
            "--trace-start", min=0.0, help="Seconds into the trace where a block begins.", rich_help_panel=_TRACE
        ),
    ] = 0.0,
    blocks: Annotated[
        int, typer.Option("--blocks", min=1, help="Independent blocks per cell.", rich_help_panel=_EFFORT)
    ] = 5,
    requests: Annotated[
        int, typer.Option("--requests", min=1, help="Requests per block at most.", rich_help_panel=_EFFORT)
    ] = 1000,
    duration: Annotated[
        float, typer.Option("--duration", min=0.1, help="Seconds per block at most.", rich_help_panel=_EFFORT)
    ] = 10.0,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of the schedule and the payload order.", rich_help_panel=_EFFORT)
    ] = 0,
    lengthen: Annotated[
        float,
        typer.Option(
            "--lengthen",
            min=0.0,
            metavar="SECONDS",
            help="Measure again in longer blocks, up to this, where the verdict asks for them.",
            rich_help_panel=_EFFORT,
        ),
    ] = 0.0,
    again: Annotated[
        bool,
        typer.Option("--again", help="Measure even what was measured here before.", rich_help_panel=_EFFORT),
    ] = False,
) -> int:
    """Measure a version: every combination of the listed axes is one cell with its own indicators and verdict.

    A closed loop finds capacity; an open loop (--rate, --trace) gives latencies. Neither given: closed loop of 8. What
    was measured here before is reused, so that a sweep that was stopped goes on. A failed cell does not end it: the
    others are measured, and the exit code is 1.
    """
    from modelyard.domain.configuration import Slo
    from modelyard.workflow.values import ProfileRequest

    given = None
    told = (trace_layout, trace_column, trace_interval, trace_function, trace_start or None)
    if trace is None and any(option is not None for option in told):
        raise InvalidInput("the --trace-... options are of a trace", hint="name it: --trace FILE")
    if trace is not None:
        from modelyard.profile.traces import TraceFile

        given = TraceFile(Path(trace), trace_layout, trace_column, trace_interval, trace_function)
    request = ProfileRequest(
        batches=arguments.counts(batch or ["1"], "--batch"),
        targets=arguments.targets(target) if target else (),
        runtimes=arguments.words(runtime) if runtime else (),
        device=device,
        threads=arguments.counts(threads, "--threads") if threads else (),
        max_batches=arguments.counts(max_batch or ["1"], "--max-batch"),
        max_delay_us=max_delay_us,
        replicas=arguments.counts(replicas or ["1"], "--replicas"),
        rates_rps=arguments.rates(rate, "--rate") if rate else (),
        closed=arguments.counts(closed, "--closed") if closed else (),
        arrival=arrival,
        cv=cv,
        end_rate_rps=end_rate,
        trace=given,
        trace_start_s=trace_start,
        scenario=scenario,
        slo=Slo.parse(slo) if slo else None,
        protocols=arguments.choices(protocol or [Protocol.HTTP_BINARY], Protocol, "--protocol"),
        blocks=blocks,
        requests=requests,
        duration_s=duration,
        seed=seed,
        again=again,
        longest_s=lengthen,
    )
    _check_load(request)
    with session.yard() as yard, session.listener() as listener:
        sweep = yard.profile(ref, request, listener=listener)
    from modelyard.cli import tables

    for skipped in sweep.skipped:
        session.output.warn(f"skipped {skipped}")
    session.output.emit("measurements", sweep.measurements, lambda: tables.measurements(sweep.measurements, ids=True))
    if sweep.failed:
        total = len(sweep.measurements) + len(sweep.failed)
        raise BackendFailed(
            f"{len(sweep.failed)} of {total} cells failed",
            why="\n".join(map(str, sweep.failed)),
            hint="the same command measures only those that are missing",
        )
    return exits.OK


def _check_load(request: ProfileRequest) -> None:
    """Raise InvalidInput for options that mean both kinds of loop, or one without its number."""
    rates, arrival = request.rates_rps, request.arrival
    if rates and request.closed:
        raise InvalidInput("--rate is an open loop, --closed a closed one", hint="give one of them")
    if arrival is Arrival.TRACE and request.trace is None:
        raise InvalidInput("--arrival trace needs --trace", hint="give the file of the arrivals: --trace FILE")
    if not rates and arrival not in (None, Arrival.CLOSED, Arrival.TRACE):
        raise InvalidInput(f"--arrival {arrival} needs --rate", hint=f"write e.g. --arrival {arrival} --rate 100")
    if arrival is Arrival.GAMMA and request.cv is None:
        raise InvalidInput("--arrival gamma needs --cv", hint="write e.g. --rate 100 --cv 4")
    if arrival is Arrival.RAMP and request.end_rate_rps is None:
        raise InvalidInput("--arrival ramp needs --end-rate", hint="write e.g. --rate 100 --end-rate 400")
    if rates and arrival is Arrival.CLOSED:
        raise InvalidInput("a closed loop has no --rate", hint="leave out --rate, or --arrival closed")


def add(app: typer.Typer) -> None:
    command(app, "profile", kept="every finished measurement is kept")(profile)
