"""The summary of `yard publish`: all that was done, with its evidence, readable at 100 columns without colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from modelyard.cli import evidence
from modelyard.cli.layout import BAD, DOUBTFUL, FAINT, GOOD, facts, number, seconds, section, size
from modelyard.domain.artifacts import Outcome, Standing
from modelyard.domain.measurement import Validity

if TYPE_CHECKING:
    from modelyard.domain.measurement import Measurement
    from modelyard.domain.services import Service
    from modelyard.workflow.values import Choice, Publication


def publication(result: Publication, *, currency: str = "USD") -> RenderableType:
    """The whole summary, top to bottom in the order of the work; the service and how to stop it come last."""
    return Group(
        _head(result),
        section(_conversion_title(result), evidence.conversions(result.conversions)),
        section("Measured", _measured(result, currency)),
        section("Closest" if result.choice.met is False else "Chosen", _choice(result.choice, currency)),
        _service(result) if result.service else _no_service(result),
    )


def _head(result: Publication) -> RenderableType:
    version = result.version
    definition = version.definition
    source = next((a for a in result.artifacts if a.standing is Standing.SOURCE), None)
    what = f"{definition.source.format}, {definition.source.entry}" + (f", {size(source.size_bytes)}" if source else "")
    claimed = ", ".join(f"{name} {value:g}" for name, value in definition.metrics.items())
    status = "registered now" if result.created else "was registered already, unchanged"
    return Group(
        Text.assemble((version.ref, "bold"), f"  {status}", (f"  ({seconds(sum(result.seconds.values()))})", FAINT)),
        facts(
            [
                ("source", what),
                ("inputs", ", ".join(map(str, definition.signature.inputs))),
                ("outputs", ", ".join(map(str, definition.signature.outputs))),
                ("claims", claimed),
                ("SLO", str(result.choice.slo) if result.choice.slo else "none given"),
                ("time", ", ".join(f"{step} {seconds(s)}" for step, s in result.seconds.items())),
            ]
        ),
    )


def _conversion_title(result: Publication) -> str:
    counts = dict.fromkeys(Outcome, 0)
    for conversion in result.conversions:
        counts[conversion.outcome] += 1
    words = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    return f"Converted and proven equal to the source ({words or 'nothing to convert'})"


def _measured(result: Publication, currency: str) -> RenderableType:
    choice = result.choice
    best = "closest" if choice.met is False else "chosen"
    marks = {m.id: name for m, name in ((choice.naive, "naive"), (choice.chosen, best)) if m is not None}
    shown = list(choice.considered)
    shown += [m for m in (choice.naive, choice.chosen) if m is not None and m.id not in {s.id for s in shown}]
    legend = Text("t: threads per replica, r: replicas, b: max batch; below p99: its 95 % interval", style=FAINT)
    return Group(evidence.measurements(shown, marks=marks, currency=currency), legend)


def _choice(choice: Choice, currency: str) -> RenderableType:
    chosen, naive = choice.chosen, choice.naive
    if chosen is None:
        return Text.assemble(("Nothing could be chosen. ", BAD), choice.reason)
    verdict = {
        True: Text(f"met: {choice.slo}", style=GOOD),
        False: Text(f"NOT met: {choice.slo}", style=BAD),
        None: Text("none given (add slo to the manifest, or --slo 'p99 <= 20 ms at 200 rps')", style=DOUBTFUL),
    }[choice.met]
    return facts(
        [
            ("configuration", chosen.configuration.label),
            ("why", choice.reason),
            ("SLO", verdict),
            ("cost", _cost(chosen, currency)),
            ("naive", f"{naive.configuration.label}: {_cost(naive, currency)}" if naive else "not measured"),
            ("saving", "" if choice.met is False else _saving(choice)),
        ]
    )


def _cost(m: Measurement, currency: str) -> str:
    i = m.indicators
    return (
        f"{number(i.cost_per_million)} {currency} per 1M requests ({number(i.core_s_per_request * 1000)} core-ms each)"
    )


def _saving(choice: Choice) -> str | Text:
    if choice.cost_ratio is None:
        if choice.naive and choice.naive.verdict.validity is not Validity.INVALID:
            return "none shown: the confidence intervals of the two costs overlap"
        return "unknown: the naive deployment has no valid number to compare with"
    if choice.chosen and choice.naive and choice.chosen.configuration == choice.naive.configuration:
        return "none: the naive deployment is the best that was found"
    if choice.cost_ratio < 1:
        return f"none: it costs {number(1 / choice.cost_ratio)}x as much per request as the naive deployment"
    return Text(f"the naive deployment costs {number(choice.cost_ratio)}x as much per request", style=GOOD)


def _service(result: Publication) -> RenderableType:
    service = result.service
    assert service is not None  # noqa: S101  (the caller's branch)
    rows: list[tuple[str, RenderableType]] = [
        ("HTTP", Text(service.endpoint.url, style="bold")),
        ("gRPC", service.endpoint.grpc_address or ""),
        ("answered", _answer(result)),
        ("report", result.report or ""),
        ("stop it", f"yard services stop {service.name}"),
    ]
    parts = [section(f"Service {service.name} is up", facts(rows))]
    if result.curl:
        # on lines of its own, unindented and unwrapped, so that it can be copied
        parts += ["", Text("Try it:", style="bold"), Text(result.curl, no_wrap=True, overflow="ignore")]
    return Group(*parts)


def _answer(result: Publication) -> str:
    if result.prediction is None:
        return ""
    return "a real request, with " + ", ".join(f"{name}{list(t.shape)}" for name, t in result.prediction.items())


def _no_service(result: Publication) -> RenderableType:
    ref = result.version.ref
    rows: list[tuple[str, RenderableType]] = [("report", result.report or ""), ("deploy it", f"yard deploy {ref}")]
    if result.choice.met is not False:
        return section("Not deployed", facts(rows))
    rows[1:] = [
        ("try", f"a quiet machine or more samples: yard publish {ref} --effort thorough"),
        ("or", f"another SLO: yard publish {ref} --slo 'p99 <= MS ms at RATE rps'"),
    ]
    anyway = Text(_deploy_line(result), no_wrap=True, overflow="ignore")  # unwrapped, so that it can be copied
    return Group(section("Not deployed", facts(rows)), "", Text("Deploy it anyway:", style="bold"), anyway)


def _deploy_line(result: Publication) -> str:
    """The command that starts what came closest, as it was measured."""
    line = f"yard deploy {result.version.ref}"
    if result.choice.chosen is None:
        return line
    c = result.choice.chosen.configuration
    line += f" --target {c.target} --runtime {c.runtime} --threads {c.threads} --replicas {c.replicas}"
    line += f" --max-batch {c.batching.max_size}"
    return line + (f" --max-delay-us {c.batching.max_delay_us}" if c.batching.max_delay_us else "")


def endpoint_rows(service: Service) -> list[tuple[str, RenderableType]]:
    """Where a service listens, how to look at it and stop it: rows of `facts`."""
    return [
        ("service", Text(service.name, style="bold")),
        ("version", f"{service.model}:{service.version}"),
        ("beside it", ", ".join(_beside(service))),
        ("configuration", service.configuration.label),
        ("HTTP", service.endpoint.url),
        ("gRPC", service.endpoint.grpc_address or ""),
        ("Unix socket", service.serving.replica.unix_socket or ""),
        ("stop it", f"yard services stop {service.name}"),
    ]


def _beside(service: Service) -> list[str]:
    """The other versions and what each is for: `digits:4 (canary 0.1)`."""
    policy = service.policy
    found = []
    for other in service.others:
        roles = [f"canary {policy.canary[other.version]:g}"] if other.version in policy.canary else []
        roles += ["shadow"] if other.version == policy.shadow else []
        roles += [f"label {label}" for label, version in sorted(policy.labels.items()) if version == other.version]
        found.append(f"{service.model}:{other.version} ({', '.join(roles)})")
    return found
