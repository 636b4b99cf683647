"""Results as Markdown: the machine, the aims, a table per model, what could not be measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.serving.aims import verdicts
from bench.serving.models import MODELS
from bench.serving.plan import INPROCESS, Line
from bench.serving.results import CellResult, Environment, Results, ServerResult, line_of, median
from bench.serving.systems import SYSTEMS
from bench.serving.systems.ports import BINARY, GRPC, JSON

BEGIN, END = "<!-- results: begin (make bench-serving) -->", "<!-- results: end -->"
_PROTOCOLS = {JSON: "REST JSON", BINARY: "REST binary", GRPC: "gRPC"}
_BUSY = 0.9
_STAGES = {
    "receive": ("receive",),
    "parse": ("parse",),
    "wait": ("queue", "batch_wait"),
    "infer": ("infer",),
    "encode": ("encode",),
    "send": ("send",),
}
_PARTS = tuple(part for parts in _STAGES.values() for part in parts)


def markdown(results: Results) -> str:
    """The whole report."""
    parts = [_environment(results.environment, results.wall_s), "### Aims", _aims(results)]
    if results.turns:
        parts += ["### One connection, asked in turns", _TURNS, _turns(results)]
    for name in dict.fromkeys(cell.model for cell in results.cells):
        parts += [f"### {MODELS[name].title}", *_model(results, name)]
    reasons = list(_reasons(results))
    if reasons:
        parts += ["### Not measured", "\n".join(reasons)]
    return "\n\n".join(parts) + "\n"


def write(page: Path, text: str) -> None:
    """Put the report between the markers of a page. Raises SystemExit where they are missing."""
    written = page.read_text(encoding="utf-8")
    head, begin, rest = written.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no '{BEGIN}' ... '{END}'")
    page.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{tail}", encoding="utf-8")


_TURNS = (
    "Median latencies in us, and of what Modelyard's side says of its requests (`GET /requests`): `wait` is for its "
    "turn and the batch; `outside` is what no stage has: the client, the kernel, cores that wake up."
)


def _turns(results: Results) -> str:
    rows = [["Modelyard", "against", "its p50", "the other's", "difference", *_STAGES, "outside"]]
    for found in results.turns:
        protocol = _PROTOCOLS[found.protocol]
        batching = {True: " with batching", False: " without batching", None: ""}[found.other.batching]
        stages = {name: statistics.median(r.stages_us.get(name, 0.0) for r in found.rounds) for name in _PARTS}
        shown = [sum(stages[part] for part in parts) for parts in _STAGES.values()]
        one = statistics.median(r.one_ms for r in found.rounds) * 1e3
        other = statistics.median(r.other_ms for r in found.rounds) * 1e3
        difference = statistics.median(r.difference_ms for r in found.rounds) * 1e3
        figures = [one, other, difference, *shown, one - sum(shown)]
        texts = [f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.1f}" for figure in figures]
        rows.append([f"{found.model}, {protocol}", f"{found.other.system}{batching}", *texts])
    return _table(rows)


def _environment(e: Environment, wall_s: float) -> str:
    tools = ", ".join(f"{name} {version}" for name, version in e.tools.items())
    lines = [
        f"{e.started} UTC, commit {e.commit}, {wall_s / 60:.0f} minutes. {e.cpu}, {e.cores} cores, {e.memory_gib} GiB, "
        f"{e.os}, Python {e.python}; load average before the run {e.load_average:.2f}. Runtime threads: {e.threads}. "
        f"{e.rounds} interleaved rounds of {e.seconds:g} s per cell, medians. {tools}.",
        *(
            f"- {SYSTEMS[name].title}: " + ", ".join(f"{p} {v}" for p, v in packages.items())
            for name, packages in e.packages.items()
            if packages
        ),
    ]
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _aims(results: Results) -> str:
    rows = [["aim", "wanted", "found", ""]]
    for v in verdicts(results):
        wanted = f"{'≥' if v.sign > 0 else '≤'} {v.aim:g}{_unit(v.unit)}"
        found = "-" if v.found is None else f"{v.found:.3g}{_unit(v.unit)}"
        word = f"**{v.word}**" if v.word == "missed" else v.word
        rows.append([v.text, wanted, found, f"{word}; {v.note}" if v.note else word])
    return _table(rows)


def _unit(unit: str) -> str:
    return "" if unit == "x" else unit


def _model(results: Results, model: str) -> Iterator[str]:
    cells = [cell for cell in results.cells if cell.model == model]
    numbers = sorted({cell.connections for cell in cells if cell.system != INPROCESS})
    head = ["system", "batching", "protocol"]
    head += [f"{'connections: ' if i == 0 else ''}{n}" for i, n in enumerate(numbers)]
    rows = [head]
    for protocol in (JSON, BINARY, GRPC):
        for name in SYSTEMS:
            lines = dict.fromkeys(line_of(c) for c in cells if c.system == name and c.protocol is protocol)
            for line in lines:
                found = [results.find(model, line, number) for number in numbers]
                if any(cell is not None and cell.timings for cell in found):
                    rows.append([SYSTEMS[name].title, _batching(line), _PROTOCOLS[protocol], *map(_figures, found)])
    yield "requests/s (p50 ms, p99 ms):"
    yield _table(rows)
    alone = [cell for cell in cells if cell.system == INPROCESS and cell.timings]
    if alone:
        told = (f"batch {c.connections}: {_n(median(c, lambda t: t.rate))} rows/s" for c in alone)
        runs = (f"{_ms(median(c, lambda t: t.p50_ms))} ms a run" for c in alone)
        pairs = ", ".join(f"{rate} ({run})" for rate, run in zip(told, runs, strict=True))
        yield f"The runtime in process, no server: {pairs}."
    yield _table(_resources([s for s in results.servers if s.model == model and s.cold_starts_s], cells))


def _resources(servers: Sequence[ServerResult], cells: Sequence[CellResult]) -> list[list[str]]:
    rows = [["system", "batching", "cold start s", "RSS MiB", "PSS MiB", "server CPU us per request, REST JSON"]]
    for server in servers:
        line = Line(server.system, server.batching, JSON)
        used = [median(c, lambda t: t.server_core_us) for c in cells if line_of(c) == line and c.timings]
        starts = server.cold_starts_s
        rows.append(
            [
                SYSTEMS[server.system].title,
                _batching(line),
                f"{statistics.median(starts):.2f}" + (f" (of {len(starts)})" if len(starts) > 1 else ""),
                f"{server.rss_bytes / 2**20:.0f}",
                f"{server.pss_bytes / 2**20:.0f}",
                _n(min((u for u in used if u is not None), default=None)),
            ]
        )
    return rows


def _figures(cell: CellResult | None) -> str:
    if cell is None:
        return ""
    if not cell.timings:
        return "no" if cell.reason else ""
    rate, p50, p99 = (median(cell, figure) for figure in (lambda t: t.rate, lambda t: t.p50_ms, lambda t: t.p99_ms))
    text = f"{_n(rate)} ({_ms(p50)}, {_ms(p99)})"
    failed, count = sum(t.failed for t in cell.timings), sum(t.count for t in cell.timings)
    if failed:
        text += f" **{failed} of {count} failed**"
    if (median(cell, lambda t: t.client_cores) or 0) > _BUSY:
        text += " †"
    return text


def _reasons(results: Results) -> Iterator[str]:
    """Every reason once, with what it keeps from being measured."""
    told: dict[tuple[str, str], list[str]] = {}
    for server in results.servers:
        if server.reason:
            batching = {True: " with batching", False: " without batching", None: ""}[server.batching]
            told.setdefault((server.system, server.reason), []).append(f"{server.model}{batching}")
    for cell in results.cells:
        if cell.reason:
            told.setdefault((cell.system, cell.reason), []).append(f"{cell.model} over {_PROTOCOLS[cell.protocol]}")
    for (system, reason), places in told.items():
        yield f"- {SYSTEMS[system].title} ({', '.join(dict.fromkeys(places))}): {reason}"
    if any((median(c, lambda t: t.client_cores) or 0) > _BUSY for c in results.cells):
        yield f"\n† the client used more than {_BUSY:g} of a core: the figure may be the client's limit."


def _batching(line: Line) -> str:
    return {True: "on", False: "off", None: "none"}[line.batching]


def _table(rows: Sequence[Sequence[str]]) -> str:
    clean = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in clean]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _n(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"
