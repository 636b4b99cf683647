"""One service as `yard services show` prints it: what it is, how it serves, what its versions did."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from modelyard.cli.layout import BAD, facts, number, section, size, table, when, word
from modelyard.cli.render import endpoint_rows
from modelyard.domain.services import ModelSettings, ReplicaSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelyard.dispatch import AppliedLimits
    from modelyard.domain.configuration import Batching, Configuration, QueuePolicy
    from modelyard.domain.services import Service
    from modelyard.workflow.values import ServiceStatus, ShadowTraffic, Traffic


def service(status: ServiceStatus) -> RenderableType:
    """All that is known of a service."""
    s = status.service
    c = s.configuration
    rows = [
        (str(r.index), word(r.state), str(r.pid or ""), str(r.restarts), when(r.started_at), r.detail)
        for r in status.replicas
    ]
    parts: list[RenderableType] = [
        facts(
            [
                ("state", word(status.state)),
                ("detail", status.detail),
                *endpoint_rows(s),
                ("batching", _batching(c.batching)),
                ("queue", _queue(c.queue)),
                ("memory limit", _memory(c, status.limits)),
                ("CPU limit", _cpu(c, status.limits)),
                ("settings", ", ".join(_settings(s))),
                ("of file", s.serving.file),
                ("since", when(s.created_at)),
                ("files", s.directory),
            ]
        )
    ]
    if status.traffic is not None:
        parts += _traffic(s, status.traffic)
    replicas = table(
        ("#", "state", "pid", "restarts", "since", "detail"), rows, right=">=", empty="none run", spare=("since",)
    )
    return Group(*parts, section("Replicas", replicas))


def _memory(configuration: Configuration, applied: Sequence[AppliedLimits]) -> str:
    if configuration.memory_limit_bytes is None:
        return "none"
    held = {limits.memory_enforcement for limits in applied} - {"none"}
    return f"{size(configuration.memory_limit_bytes)} per replica{_held(held)}"


def _cpu(configuration: Configuration, applied: Sequence[AppliedLimits]) -> str:
    if configuration.cpu_limit is None:
        return "none"
    held = {f"{limits.cpu_enforcement} at {limits.cpu_limit:g}" for limits in applied if limits.cpu_limit is not None}
    cores = "1 core" if configuration.cpu_limit == 1 else f"{configuration.cpu_limit:g} cores"
    text = f"{cores} per replica{_held(held)}"
    counts = [limits.throttling for limits in applied if limits.throttling]
    if counts:
        periods, throttled = sum(c.periods for c in counts), sum(c.throttled for c in counts)
        text += f"; stopped in {throttled} of {periods} periods, {sum(c.stopped_s for c in counts):.3g} s in all"
    return text


def _held(by: set[str]) -> str:
    return f", held by {' and '.join(sorted(by))}" if by else ""


def _batching(batching: Batching) -> str:
    cost = f", of {batching.max_cost} elements" if batching.max_cost else ""
    return f"up to {batching.max_size} rows{cost}, waits at most {batching.max_delay_us} us"


def _queue(queue: QueuePolicy) -> str:
    slo = f", SLO {queue.slo_ms:g} ms" if queue.slo_ms else ", no SLO"
    return f"{queue.max_requests} requests, {queue.max_wait_s:g} s, {queue.priorities} priorities{slo}"


def _settings(service: Service) -> list[str]:
    """What differs from the defaults, as in the file; batching and queue have rows of their own."""
    model, replica = service.serving.model, service.serving.replica
    found = []
    for settings, plain in ((model, ModelSettings()), (replica, ReplicaSettings())):
        for field in fields(settings):
            value = getattr(settings, field.name)
            if field.name in ("queue", "batching", "caller") or value == getattr(plain, field.name):
                continue
            found.append(f"{field.name.removesuffix('_bytes')} {_value(field.name, value)}")
    return found


def _value(name: str, value: object) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return size(value)
    if name == "tls":
        return "with client certificates" if getattr(value, "client_ca", "") else "on"
    if name == "tracing":
        where = getattr(value, "file", "") or getattr(value, "otlp_endpoint", "") or "nowhere"
        return f"{getattr(value, 'rate', 0.0):g} to {where}"
    if name == "classes" and isinstance(value, tuple):
        return str(len(value))
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _traffic(service: Service, traffic: Traffic) -> list[RenderableType]:
    rows = [
        (
            Text(f"{service.model}:{v.version}", style="bold"),
            "shadow" if v.shadow else f"{v.share:.4g}",
            ", ".join(v.labels),
            str(v.requests),
            str(v.failed),
            str(v.refused),
        )
        for v in traffic.versions
    ]
    parts: list[RenderableType] = [
        section(
            "Versions",
            table(("version", "share", "labels", "requests", "failed", "refused"), rows, right="=  >>>", empty="none"),
        )
    ]
    if traffic.shadow is not None:
        parts.append(section(f"Shadow {service.model}:{traffic.shadow.version}", facts(_shadow(traffic.shadow))))
    if traffic.error:
        parts.append(Text(f"not all replicas are counted: {traffic.error}", style=BAD))
    return parts


def _shadow(s: ShadowTraffic) -> list[tuple[str, RenderableType]]:
    agree = f"{s.rows_agreeing} of {s.rows} rows ({s.rows_agreeing / s.rows:.2%})" if s.rows else "no rows to compare"
    return [
        ("compared", f"{s.compared} of {s.offered} requests ({s.dropped} not copied: busy, {s.failed} failed)"),
        ("same best class", agree),
        ("largest difference", number(s.max_abs_error) if s.compared else "-"),
        ("other shape, NaN or text", str(s.mismatched)),
    ]
