"""Conversions and measurements as tables: the parts that the publish summary and the listings share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from modelyard.cli.layout import FAINT, GOOD, interval, money, number, seconds, size, table, word
from modelyard.domain.artifacts import Conversion, Equivalence, Outcome
from modelyard.domain.measurement import Measurement, Validity

SHORT_ID: Final = 12
"""Characters of a measurement's id in tables; every command takes so short a one."""

_FIGURES: Final = re.compile(r"\d+(\.\d+)?")


def conversions(found: Sequence[Conversion]) -> RenderableType:
    """What was converted: proven with how close, or refused with the named reason; the hint of each failure below."""
    ordered = sorted(enumerate(found), key=lambda pair: (pair[1].outcome is not Outcome.PROVEN, pair[0]))
    names = {m.metric for c in found if c.equivalence for m in c.equivalence.metrics}
    only = names.pop() if len(names) == 1 else ""
    rows = [
        (
            Text(str(c.target)),
            word(c.outcome),
            _max_error(c.equivalence),
            _agreement(c.equivalence),
            _metric(c.equivalence, named=not only),
            seconds(c.duration_s),
            Text(c.route, style=FAINT),
        )
        for _, c in ordered
    ]
    shown = table(
        ("target", "outcome", "max error", "same answer", only or "metric", "took", "route"),
        rows,
        right=" =>> > ",
        spare=("route", "took", "same answer", "max error"),
        empty="no conversions",
    )
    refused = _reasons([c for _, c in ordered])
    return Group(shown, *refused)


def _reasons(found: Iterable[Conversion]) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for c in found:
        if c.outcome is Outcome.PROVEN:
            continue
        name = (
            c.failure if c.failure else (c.equivalence.reason if c.equivalence and c.equivalence.reason else c.outcome)
        )
        text = Text.assemble((f"{c.target}", "bold"), f" {c.outcome}: {name}", ("\n  " + _first_line(c.detail), ""))
        if c.hint:
            text.append(f"\n  try: {_first_line(c.hint)}", style=FAINT)
        lines += ["", text] if not lines else [text]
    return lines


def _first_line(text: str, limit: int = 300) -> str:
    line = text.strip().splitlines()[0] if text.strip() else "no detail was given"
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _max_error(equivalence: Equivalence | None) -> str:
    if equivalence is None or not equivalence.outputs:
        return "-"
    return f"{max(o.max_abs_error for o in equivalence.outputs):.1e}"


def _agreement(equivalence: Equivalence | None) -> str:
    shares = [o.decision_agreement for o in equivalence.outputs] if equivalence else []
    known = [s for s in shares if s is not None]
    return f"{min(known) * 100:.4g} %" if known else "-"


def _metric(equivalence: Equivalence | None, *, named: bool) -> str:
    found = equivalence.metrics if equivalence else ()
    return "\n".join(f"{m.metric + ' ' if named else ''}{m.source:.4g} → {m.artifact:.4g}" for m in found)


def measurements(
    found: Sequence[Measurement],
    *,
    ids: bool = False,
    marks: dict[str, str] | None = None,
    currency: str = "",
) -> RenderableType:
    """The indicators of every configuration, grouped by load. `marks`: measurement id -> word in front of its row.

    Numbers of an invalid measurement stand in parentheses, never as if they were good, as do the latencies of a
    saturated one, which grow as long as it is measured. `~` marks a provisional p99. Why is said below.
    """
    marks = marks or {}
    groups: list[RenderableType] = []
    ordered = sorted(found, key=lambda m: (m.workload.open_loop, m.workload.label))
    for label, group in groupby(ordered, key=lambda m: m.workload.label):
        cells = sorted(group, key=lambda m: m.indicators.cost_per_million)
        rows = [_row(m, marks.get(m.id, ""), ids=ids) for m in cells]
        cost = f"{currency or 'cost'}/1M"
        groups += [
            "" if groups else Text(""),
            Text(f"load: {label}", style="italic"),
            table(
                ("configuration", "req/s", "p50 ms", "p95 ms", "p99 ms", "memory\ncores", cost, "verdict"),
                rows,
                right=" >>>>>>=",
                spare=("p95 ms", "memory\ncores", "p50 ms", "req/s"),
                empty="",
            ),
            *_scenario_results(cells),
        ]
    if not groups:
        return Text("no measurements", style=FAINT)
    return Group(*groups[1:], *doubts([m.verdict.reasons for m in found]))


def _scenario_results(cells: Sequence[Measurement]) -> list[RenderableType]:
    """The number that counts in a scenario, one line for each measurement that has one."""
    lines: list[RenderableType] = []
    for m in cells:
        if m.indicators.scenario is not None:
            text = str(m.indicators.scenario)
            trusted = m.verdict.validity is not Validity.INVALID and not m.verdict.saturated
            shown = text if trusted else f"({text})"
            lines.append(Text(f"{m.configuration.target} {m.id[:SHORT_ID]}: {shown}"))
    return lines


def _row(m: Measurement, mark: str, *, ids: bool) -> tuple[RenderableType, ...]:
    c, i = m.configuration, m.indicators
    trusted = m.verdict.validity is not Validity.INVALID
    p99 = interval(i.p99_ms, m.workload.blocks)
    if m.verdict.validity is Validity.PROVISIONAL and i.p99_ms is not None:
        p99 = f"~{p99}"

    def shown(text: str, *, latency: bool = False) -> Text:
        doubted = not trusted or (latency and m.verdict.saturated)
        return Text(f"({text})", style=FAINT) if doubted else Text(text)

    knobs = f"{c.runtime} t{c.threads} r{c.replicas} b{c.batching.max_size}"
    name = Text(str(c.target), style="bold" if mark else "")
    if mark:
        name.append(f" ({mark})", style=GOOD if mark == "chosen" else "")
    name.append(f"\n{knobs}", style=FAINT)
    if ids:
        name.append(f"\n{m.id[:SHORT_ID]}", style=FAINT)
    verdict = f"{m.verdict.validity}" + (",\nsaturated" if m.verdict.saturated else "")
    return (
        name,
        shown(number(i.throughput_rps.value)),
        shown(number(i.p50_ms.value), latency=True),
        shown(number(i.p95_ms.value), latency=True),
        shown(p99, latency=True),
        f"{size(i.memory_rss_bytes)}\n{number(i.cpu_cores)}",
        shown(money(i.cost_per_million)),
        word(verdict),
    )


def doubts(found: Sequence[Sequence[str]]) -> list[RenderableType]:
    """Why measurements are not plainly valid: one line for reasons that differ in figures only. Takes those of each."""
    examples: dict[str, list[str]] = {}
    for reasons in found:
        for reason in reasons:
            examples.setdefault(_FIGURES.sub("#", reason), []).append(reason)
    if not examples:
        return []
    lines = [
        Text(f"{len(told)} of {len(found)}: {told[0]}{' (and alike)' if len(set(told)) > 1 else ''}", style=FAINT)
        for told in examples.values()
    ]
    return ["", Text("why not plainly valid", style=FAINT), *lines]
