"""`yard max-rate`: the highest rate at which a version meets its latency target on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from modelyard.cli import exits
from modelyard.cli.command import command
from modelyard.cli.session import Session
from modelyard.domain.workload import Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType

    from modelyard.profile.max_rate import Probe
    from modelyard.workflow.max_rate import FoundMaxRate

_CONFIGURATION: Final = "What is measured (else as yard deploy would have it)"
_EFFORT: Final = "How long"


def max_rate(
    session: Session,
    ref: Annotated[str, typer.Argument(metavar="REF", help="Which version: digits, digits:3, digits@production.")],
    slo: Annotated[
        str | None,
        typer.Option("--slo", metavar="SLO", help="The latency to keep, e.g. 'p99 <= 20 ms'; default: the version's."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", metavar="TARGET", help="Which artifact, e.g. onnx:int8-static.", rich_help_panel=_CONFIGURATION
        ),
    ] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", help="What executes it.", rich_help_panel=_CONFIGURATION)
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads per replica.", rich_help_panel=_CONFIGURATION)
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option("--replicas", min=1, help="Processes behind the one port.", rich_help_panel=_CONFIGURATION),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option("--max-batch", min=1, help="Dynamic batching up to; 1: off.", rich_help_panel=_CONFIGURATION),
    ] = None,
    max_delay_us: Annotated[
        int | None,
        typer.Option("--max-delay-us", min=0, help="Longest wait for a batch to fill.", rich_help_panel=_CONFIGURATION),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Where to compute: cpu or gpu:0.", rich_help_panel=_CONFIGURATION)
    ] = None,
    protocol: Annotated[Protocol, typer.Option("--protocol", help="How requests travel.")] = Protocol.HTTP_BINARY,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Rows per request.")] = 1,
    requests: Annotated[
        int, typer.Option("--requests", min=100, help="Requests per block of a probe.", rich_help_panel=_EFFORT)
    ] = 1000,
    duration: Annotated[
        float, typer.Option("--duration", min=1.0, help="Seconds per block at most.", rich_help_panel=_EFFORT)
    ] = 30.0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the schedules.", rich_help_panel=_EFFORT)] = 0,
    again: Annotated[
        bool, typer.Option("--again", help="Measure even what was measured here before.", rich_help_panel=_EFFORT)
    ] = False,
) -> int:
    """Find the highest rate that meets an SLO: capacity, probes below it, then a confirmation with fresh seeds.

    A rate counts as met only if the upper 95 % bound of p99 is within the SLO. Exit code 4: no rate meets it.
    """
    from modelyard.domain.artifacts import Target
    from modelyard.domain.configuration import Batching, Slo
    from modelyard.profile.slo_evidence import Limits
    from modelyard.workflow.max_rate import MaxRateRequest
    from modelyard.workflow.values import DeployRequest

    batching = None
    if max_batch is not None or max_delay_us is not None:
        batching = Batching(max_batch or 1, max_delay_us or 0)
    request = MaxRateRequest(
        slo=Slo.parse(slo) if slo else None,
        deployment=DeployRequest(
            target=Target.parse(target) if target else None,
            runtime=runtime,
            device=device,
            threads=threads,
            replicas=replicas,
            batching=batching,
        ),
        protocol=protocol,
        batch=batch,
        seed=seed,
        limits=Limits(requests=requests, confirm_block_s=min(10.0, duration), most_block_s=duration),
        again=again,
    )
    with session.yard() as yard, session.listener() as listener:
        found = yard.max_rate(ref, request, listener=listener)
    session.output.emit("max-rate", found, lambda: shown(found))
    return exits.OK if found.answer.rate_rps is not None else exits.REJECTED


def shown(found: FoundMaxRate) -> RenderableType:
    """The answer with its interval, then every measurement it rests on."""
    from rich.console import Group
    from rich.text import Text

    from modelyard.cli.layout import BAD, DOUBTFUL, GOOD, facts, number, section

    answer = found.answer
    if answer.rate_rps is None:
        rate = Text("none", style=BAD)
    else:
        rate = Text(f"{number(answer.rate_rps)} requests/s", style=DOUBTFUL if answer.provisional else GOOD)
        rate.append(", provisional" if answer.provisional else "")
    return Group(
        facts(
            [
                ("max rate", rate),
                ("under", str(found.slo)),
                ("p99 there", f"{answer.p99_ms} ms" if answer.p99_ms else ""),
                ("stopped", f"{answer.stop}: {answer.reason}"),
                ("capacity", f"{number(answer.capacity_rps)} requests/s (closed loop)"),
                ("version", f"{found.model}:{found.version}"),
                ("configuration", found.configuration.label),
                ("load", f"poisson x{found.batch} {found.protocol}"),
            ]
        ),
        section("Measurements", _probes(answer.probes, answer.slo_p99_ms)),
    )


def _probes(probes: tuple[Probe, ...], slo_p99_ms: float) -> RenderableType:
    from modelyard.cli.layout import interval, number, table

    rows = []
    for probe in probes:
        evidence = probe.evidence
        p99 = interval(evidence.p99_ms)
        rows.append(
            (
                str(probe.load.purpose),
                number(probe.load.rate_rps),
                number(evidence.throughput_rps),
                f"({p99})" if evidence.invalid or evidence.saturated else p99,
                f"{evidence.error_fraction:.1%}",
                f"{probe.load.requests:,}",
                _told(probe, slo_p99_ms),
                evidence.measurement[:12],
            )
        )
    return table(
        ("for", "offered/s", "served/s", "p99 ms", "errors", "requests\na block", "SLO", "measurement"),
        rows,
        right=" >>>>>  =",
        empty="nothing was measured",
        spare=("measurement", "errors", "served/s"),
    )


def _told(probe: Probe, slo_p99_ms: float) -> str:
    """What a probe said of the SLO. Blocks that were too short say nothing for it, however low their p99."""
    evidence = probe.evidence
    if evidence.invalid:
        return f"invalid: {evidence.invalid}"
    if probe.load.rate_rps is None:
        return ""
    if evidence.misses(slo_p99_ms):
        return "missed: saturated" if evidence.saturated else "missed"
    if evidence.requests_wanted:
        return f"{'met' if probe.met else 'open'}, provisional: blocks of {evidence.requests_wanted:,} wanted"
    return "met" if probe.met else "open"


def add(app: typer.Typer) -> None:
    command(app, "max-rate", kept="every finished measurement is kept; the same command goes on from there")(max_rate)
