"""Listings and single things as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from modelyard.cli import evidence
from modelyard.cli.layout import FAINT, facts, number, section, size, table, when, word
from modelyard.cli.render import endpoint_rows
from modelyard.domain.artifacts import Outcome
from modelyard.domain.measurement import Validity

if TYPE_CHECKING:
    from modelyard.cli.configuration import SettingRow
    from modelyard.domain.artifacts import Artifact, Conversion
    from modelyard.domain.measurement import Interval, Measurement
    from modelyard.domain.services import Service
    from modelyard.domain.tensors import Tensor
    from modelyard.domain.versions import AliasEvent, SourceSpec, Version
    from modelyard.hub import Freed, Lineage, ModelSummary
    from modelyard.profile import Comparison
    from modelyard.workflow.values import Finding, ServiceStatus, VersionDiff


def models(found: Sequence[ModelSummary]) -> RenderableType:
    rows = [
        (
            Text(m.name, style="bold"),
            str(m.latest),
            str(m.versions),
            m.task,
            m.framework,
            _pointing(m.aliases),
            when(m.updated_at),
        )
        for m in found
    ]
    columns = ("model", "latest", "versions", "task", "framework", "aliases", "changed")
    return table(columns, rows, right=" >>", empty="no models yet; yard register model.yaml adds one")


def versions(found: Sequence[Version]) -> RenderableType:
    rows = [
        (
            Text(v.ref, style="bold"),
            v.definition.task,
            v.definition.framework,
            ", ".join(f"{name} {value:g}" for name, value in v.definition.metrics.items()),
            ", ".join(v.aliases),
            ", ".join(v.description.tags),
            when(v.created_at)[:10],
        )
        for v in found
    ]
    columns = ("version", "task", "framework", "claims", "aliases", "tags", "registered")
    return table(columns, rows, empty="no version matches")


def _source(source: SourceSpec) -> str:
    """The source's file, and what code comes with it: a factory's by its name, a pickle's because somebody said so."""
    module = source.options.get("factory", "").partition(":")[0]
    code = f" (runs {module}.py)" if module else " (trusted)" if source.trusted else ""
    return f"{source.format}, {source.entry}{code}"


def version(lineage: Lineage, *, logs: bool = False) -> RenderableType:
    v = lineage.version
    d, text = v.definition, v.description
    return Group(
        facts(
            [
                ("version", Text(v.ref, style="bold")),
                ("description", text.description),
                ("task", d.task),
                ("framework", d.framework + d.framework_constraint),
                ("source", _source(d.source)),
                ("inputs", "\n".join(map(str, d.signature.inputs))),
                ("outputs", "\n".join(map(str, d.signature.outputs))),
                ("steps", ", ".join(s.kind for s in (*d.preprocess, *d.postprocess))),
                ("dataset", d.dataset.path if d.dataset else ""),
                ("claims", ", ".join(f"{name} {value:g}" for name, value in d.metrics.items())),
                ("SLO", str(d.slo) if d.slo else ""),
                ("aliases", ", ".join(v.aliases)),
                ("tags", ", ".join(text.tags)),
                ("license", text.license),
                ("authors", ", ".join(text.authors)),
                ("references", "\n".join(text.references)),
                ("services", ", ".join(lineage.services)),
                ("registered", when(v.created_at)),
                ("digest", Text(v.digest, style=FAINT)),
            ]
        ),
        section("Artifacts", artifacts(lineage.artifacts)),
        *([section("Conversions", evidence.conversions(lineage.conversions))] if lineage.conversions else []),
        *(_logs(lineage.conversions) if logs else []),
        *(
            [section("Measurements", evidence.measurements(lineage.measurements, ids=True))]
            if lineage.measurements
            else []
        ),
        *([section("Card", Text(text.card))] if text.card else []),
    )


def _logs(found: Sequence[Conversion]) -> list[RenderableType]:
    """The logs of what was not proven, each under its target and route."""
    refused = [c for c in found if c.outcome is not Outcome.PROVEN]
    return [section(f"Log of {c.target} by {c.route}", Text(c.log.strip() or "empty")) for c in refused]


def artifacts(found: Sequence[Artifact]) -> RenderableType:
    rows = [
        (Text(str(a.target)), str(a.precision), word(a.standing), size(a.size_bytes), Text(a.id, style=FAINT))
        for a in found
    ]
    return table(
        ("target", "precision", "standing", "size", "id"), rows, right="  =>", empty="none", spare=("id", "precision")
    )


def diff(difference: VersionDiff) -> RenderableType:
    rows = [(Text(name, style="bold"), left, right) for name, left, right in difference.rows]
    return table(
        ("", difference.left, difference.right), rows, empty=f"{difference.left} and {difference.right} are the same"
    )


def aliases(pointing: Mapping[str, int]) -> RenderableType:
    rows = [(Text(name, style="bold"), str(number)) for name, number in pointing.items()]
    return table(("alias", "version"), rows, right=" >", empty="no aliases")


def alias_history(events: Sequence[AliasEvent]) -> RenderableType:
    rows = [(when(e.created_at), e.action, _or_none(e.previous), _or_none(e.version)) for e in events]
    return table(("when", "action", "from", "to"), rows, right="  >>", empty="this alias was never set")


def freed(found: Freed, *, dry_run: bool) -> RenderableType:
    verb = "would free" if dry_run else "freed"
    counted = (
        (len(found.versions), "version"),
        (len(found.aliases), "alias"),
        (found.artifacts, "artifact"),
        (found.conversions, "conversion"),
        (found.measurements, "measurement"),
        (found.studies, "study"),
        (found.blobs, "blob"),
        (found.temp_files, "temporary file"),
        (found.cache_entries, "cache entry"),
    )
    rows = [(name, str(count)) for count, name in counted if count]
    named = ", ".join((*found.versions, *found.aliases))
    return facts([(verb, size(found.size_bytes) if rows else "nothing"), ("named", named), *rows])


def conversions(found: Sequence[Conversion]) -> RenderableType:
    return evidence.conversions(found)


def measurements(found: Sequence[Measurement], *, ids: bool = False) -> RenderableType:
    return evidence.measurements(found, ids=ids)


def measurement(m: Measurement) -> RenderableType:
    i, c, w, f = m.indicators, m.configuration, m.workload, m.fingerprint
    stages = i.stages
    split = (
        f"queue {number(stages.queue_ms)}, batch wait {number(stages.batch_wait_ms)}, pre {number(stages.pre_ms)}, "
        f"infer {number(stages.infer_ms)}, post {number(stages.post_ms)}, encode {number(stages.encode_ms)} ms; "
        f"{number(stages.mean_batch_rows)} rows per batch"
        if stages
        else ""
    )
    return Group(
        facts(
            [
                ("measurement", Text(m.id, style="bold")),
                ("version", f"{m.model}:{m.version}"),
                ("verdict", word(m.verdict.validity) + Text(", saturated" if m.verdict.saturated else "")),
                ("because", "\n".join(m.verdict.reasons)),
                ("configuration", c.label),
                ("load", f"{w.label}; {w.blocks} blocks of {w.requests} requests or {w.duration_s:g} s; seed {w.seed}"),
                ("trace", f"{w.trace.digest}, {w.trace.scale:.4g} of its requests" if w.trace else ""),
                ("purpose", m.purpose),
                ("made", when(m.created_at)),
            ]
        ),
        section(
            f"Indicators{_DOUBT.get(m.verdict.validity, '')}",
            facts(
                [
                    ("throughput", f"{_spread(i.throughput_rps, w.blocks)} requests/s, {number(i.rows_per_s)} rows/s"),
                    ("p50", f"{_spread(i.p50_ms, w.blocks)} ms"),
                    ("p95", f"{_spread(i.p95_ms, w.blocks)} ms"),
                    ("p99", f"{_spread(i.p99_ms, w.blocks)} ms" if i.p99_ms else "too few requests"),
                    ("p99.9", f"{number(i.p999_ms)} ms" if i.p999_ms else "too few requests"),
                    ("memory", size(i.memory_rss_bytes)),
                    ("GPU memory", size(i.gpu_memory_bytes) if i.gpu_memory_bytes else ""),
                    ("cores busy", number(i.cpu_cores)),
                    ("GPU busy", f"{i.gpu_utilisation:.0%}" if i.gpu_utilisation is not None else ""),
                    (
                        "cost",
                        f"{number(i.cost_per_million)} per 1M requests, "
                        f"{number(i.core_s_per_request * 1e3)} core-ms each",
                    ),
                    ("errors", f"{i.error_fraction:.2%} of {i.requests:,} requests"),
                    (str(i.scenario.scenario), str(i.scenario)) if i.scenario else ("", ""),
                    (
                        "first answer",
                        f"{number(i.time_to_first_response_ms)} ms" if i.time_to_first_response_ms else "",
                    ),
                    ("cold start", f"{number(i.cold_start_s)} s" if i.cold_start_s else ""),
                    ("in the server", split),
                ]
            ),
        ),
        section(
            "Evidence",
            facts(
                [
                    (
                        "client",
                        f"send lag p99 {number(m.client.send_lag_p99_ms)} ms, "
                        f"offered {number(m.client.offered_rps)} rps, "
                        f"{number(m.client.cpu_cores)} cores",
                    ),
                    ("discarded", f"{m.blocks_discarded} blocks (noise)" if m.blocks_discarded else ""),
                    ("node", f"{f.cpu_model}, {f.cores} cores, {size(f.memory_bytes)}, {f.os}, Python {f.python}"),
                    ("libraries", ", ".join(f"{name} {number}" for name, number in f.libraries.items())),
                    ("samples", m.samples),
                ]
            ),
        ),
    )


_DOUBT = {
    Validity.INVALID: " (invalid: not to be believed)",
    Validity.PROVISIONAL: " (provisional: weaker than they look, see why)",
}


def _spread(value: Interval, blocks: int) -> str:
    if value.low is None or value.high is None:
        return number(value.value)
    if why := value.unusable(blocks):
        return f"{number(value.value)} ({why})"
    return f"{number(value.value)} [{number(value.low)}, {number(value.high)}]"


def comparison(found: Comparison) -> RenderableType:
    how = "paired blocks (same schedules and payloads)" if found.paired else "independent blocks"
    rows: list[RenderableType] = [facts([("A", found.a), ("B", found.b), ("how", how)]), ""]
    rows += [Text(d.words("B")) for d in found.differences]
    rows += [Text(f"caution: {caveat}", style="yellow") for caveat in found.caveats]
    return Group(*rows)


def services(found: Sequence[ServiceStatus]) -> RenderableType:
    rows = [
        (
            Text(s.service.name, style="bold"),
            word(s.state),
            f"{s.service.model}:{s.service.version}",
            s.service.configuration.label,
            s.service.endpoint.url,
            s.service.endpoint.grpc_address or "",
        )
        for s in found
    ]
    return table(
        ("service", "state", "version", "configuration", "HTTP", "gRPC"),
        rows,
        right=" =",
        empty="no services; yard deploy starts one",
        spare=("configuration", "gRPC"),
    )


def deployed(service: Service) -> RenderableType:
    return facts(endpoint_rows(service))


def findings(found: Sequence[Finding]) -> RenderableType:
    rows = []
    for f in found:
        state = "ok" if f.ok else ("missing" if f.required else "optional")
        rows.append(
            (word(state), Text(f.check, style="bold"), f.detail + (f"\ntry: {f.hint}" if f.hint and not f.ok else ""))
        )
    return table(("", "check", "finding"), rows, right="=", empty="nothing was checked")


def settings(rows: Sequence[SettingRow]) -> RenderableType:
    return table(
        ("setting", "value", "from", "variable"),
        [(Text(r.name, style="bold"), r.value, r.origin, Text(r.variable, style=FAINT)) for r in rows],
        empty="none",
    )


def prediction(answer: Mapping[str, Tensor]) -> RenderableType:
    """Each output with its values; long ones are shortened (`--json` and `--output` never are)."""
    parts: list[RenderableType] = []
    for name, array in answer.items():
        shown = np.array2string(
            array,
            precision=6,
            suppress_small=True,
            threshold=100,
            max_line_width=96,
            formatter={"object": _quoted} if array.dtype == object else None,
        )
        parts += [Text(f"{name} {list(array.shape)}", style="bold"), Text(shown)]
    return Group(*parts)


def _quoted(value: object) -> str:
    return repr(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))


def _pointing(aliases: Mapping[str, int]) -> str:
    return ", ".join(f"{name} → {number}" for name, number in aliases.items())


def _or_none(value: int | None) -> str:
    return "-" if value is None else str(value)
