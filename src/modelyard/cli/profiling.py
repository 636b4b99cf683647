"""`yard profile`: measure configurations of a version under load."""

from __future__ import annotations

from typing import Annotated

import typer

from modelyard.cli import arguments
from modelyard.cli.command import command
from modelyard.cli.session import Session
from modelyard.domain.errors import InvalidInput
from modelyard.domain.workload import Arrival, Protocol


def profile(
    session: Session,
    ref: Annotated[str, typer.Argument(metavar="REF", help="Which version: digits, digits:3, digits@production.")],
    batch: Annotated[str, typer.Option("--batch", metavar="LIST", help="Rows per request, e.g. 1,8,32.")] = "1",
    target: Annotated[
        str | None, typer.Option("--target", metavar="LIST", help="Artifacts to run; default: every servable one.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", metavar="LIST", help="Runtimes; default: each artifact's own.")
    ] = None,
    threads: Annotated[
        str | None, typer.Option("--threads", metavar="LIST", help="Threads per replica, e.g. 1,2.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Where to compute: cpu or gpu:0.")] = "cpu",
    max_batch: Annotated[
        str, typer.Option("--max-batch", metavar="LIST", help="Dynamic batching up to; 1: off.")
    ] = "1",
    max_delay_us: Annotated[int, typer.Option("--max-delay-us", min=0, help="Longest wait for a batch to fill.")] = 0,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="Replicas of the measured service.")] = 1,
    rate: Annotated[float | None, typer.Option("--rate", min=0.001, help="Open loop: requests per second.")] = None,
    closed: Annotated[int | None, typer.Option("--closed", min=1, help="Closed loop: requests in flight.")] = None,
    arrival: Annotated[
        Arrival | None, typer.Option("--arrival", help="When requests are sent; with --rate: poisson.")
    ] = None,
    protocol: Annotated[Protocol, typer.Option("--protocol", help="How requests travel.")] = Protocol.HTTP_BINARY,
    blocks: Annotated[int, typer.Option("--blocks", min=1, help="Independent blocks per cell.")] = 5,
    requests: Annotated[int, typer.Option("--requests", min=1, help="Requests per block at most.")] = 1000,
    duration: Annotated[float, typer.Option("--duration", min=0.1, help="Seconds per block at most.")] = 10.0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the schedule and the payload order.")] = 0,
    again: Annotated[bool, typer.Option("--again", help="Measure even what was measured here before.")] = False,
) -> None:
    """Measure a version: every combination of the listed axes is one cell with its own indicators and verdict.

    A closed loop finds capacity; an open loop (--rate) gives latencies. Neither given: closed loop of 8.
    """
    from modelyard.workflow.values import ProfileRequest

    _check_load(rate, closed, arrival)
    request = ProfileRequest(
        batches=arguments.counts(batch, "--batch"),
        targets=arguments.targets(target) if target else (),
        runtimes=arguments.words(runtime) if runtime else (),
        device=device,
        threads=arguments.counts(threads, "--threads") if threads else (),
        max_batches=arguments.counts(max_batch, "--max-batch"),
        max_delay_us=max_delay_us,
        replicas=replicas,
        rate_rps=rate,
        closed=closed,
        arrival=arrival,
        protocol=protocol,
        blocks=blocks,
        requests=requests,
        duration_s=duration,
        seed=seed,
        again=again,
    )
    with session.yard() as yard, session.listener() as listener:
        measured = yard.profile(ref, request, listener=listener)
    from modelyard.cli import tables

    session.output.emit("measurements", measured, lambda: tables.measurements(measured, ids=True))


def _check_load(rate: float | None, closed: int | None, arrival: Arrival | None) -> None:
    """Raise InvalidInput for options that mean both kinds of loop, or one without its number."""
    if rate is not None and closed is not None:
        raise InvalidInput("--rate is an open loop, --closed a closed one", hint="give one of them")
    if rate is None and arrival not in (None, Arrival.CLOSED):
        raise InvalidInput(f"--arrival {arrival} needs --rate", hint=f"write e.g. --arrival {arrival} --rate 100")
    if rate is not None and arrival is Arrival.CLOSED:
        raise InvalidInput("a closed loop has no --rate", hint="leave out --rate, or --arrival closed")


def add(app: typer.Typer) -> None:
    command(app, "profile", kept="every finished measurement is kept")(profile)
