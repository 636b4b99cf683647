"""The run: per model all servers are started and frozen, then every cell is timed in interleaved rounds."""

from __future__ import annotations

import time

from bench.serving import turns
from bench.serving.clients import ClientFailed
from bench.serving.deployed import CANNOT, Deployed
from bench.serving.fleet import Key, clear_away, pythons, say, servers, words, work_folder
from bench.serving.inprocess import InProcess, workload_of
from bench.serving.models import MODELS, Model
from bench.serving.options import Options
from bench.serving.plan import EXTENTS, INPROCESS, Cell, cells
from bench.serving.processes import ServerDied
from bench.serving.results import Results, Timing
from modelyard.domain.workload import Protocol


def run(options: Options, results: Results) -> None:
    """Fill `results`; what was measured before an interruption stays in it."""
    clear_away(options)
    python = pythons(options, results)
    started = time.monotonic()
    try:
        for number, name in enumerate(options.models):
            cold_starts = options.cold_starts if number == 0 else 1
            workload = workload_of(MODELS[name], options.cache)
            with (
                InProcess(workload, options.threads, work_folder(options) / name) as inprocess,
                servers(options, workload, python, results, cold_starts) as up,
            ):
                _rounds(options, MODELS[name], up, inprocess, results)
    finally:
        results.wall_s = time.monotonic() - started


def _rounds(options: Options, model: Model, up: dict[Key, Deployed], inprocess: InProcess, results: Results) -> None:
    seconds = options.seconds * EXTENTS[model.name].seconds
    groups = list(cells(options.systems, model, options.connections, options.protocols))
    warm: set[tuple[Key, Protocol]] = set()
    for round_ in range(options.rounds):
        say(f"{model.name}: round {round_ + 1} of {options.rounds}, {sum(map(len, groups))} cells of {seconds:g} s")
        for group in groups:
            for cell in group if round_ % 2 == 0 else reversed(group):
                if cell.line.system == INPROCESS:
                    found = inprocess.measure(cell.connections, seconds)
                    timing = Timing(round_, found.rate, found.p50_ms, found.p99_ms, found.count, 0, 0.0, 0.0)
                    results.cell(cell).timings.append(timing)
                elif (key := (cell.line.system, cell.line.batching)) in up:
                    _one(cell, up[key], round_, seconds, warm, results)
                    _revive(key, up, results)
        turns.measure(model, up, inprocess, round_, results)
        for (name, batching), deployed in up.items():
            record = results.server(model.name, name, batching)
            rss, pss = deployed.server.memory_bytes()
            record.rss_bytes, record.pss_bytes = max(record.rss_bytes, rss), max(record.pss_bytes, pss)


def _revive(key: Key, up: dict[Key, Deployed], results: Results) -> None:
    """Start a server again that died under load; it is given up where that fails. Either is told in the results."""
    deployed = up[key]
    try:
        deployed.server.check()
        return
    except ServerDied as error:
        record = results.server(deployed.workload.model.name, *key)
        record.reason = f"died under load and was started again ({words(error)})"
        say(f"{record.model}: {record.system}: {record.reason}")
    try:
        up[key] = deployed.restarted()
        up[key].rest()
    except CANNOT as error:
        record.reason = f"died under load and did not start again ({words(error)})"
        say(f"{record.model}: {record.system}: {record.reason}")
        del up[key]


def _one(
    cell: Cell, deployed: Deployed, round_: int, seconds: float, warm: set[tuple[Key, Protocol]], results: Results
) -> None:
    """Thaw, check every message's answer, warm up where new, time, freeze."""
    result = results.cell(cell)
    protocol = cell.line.protocol
    if result.reason and not result.timings and round_ > 1:
        return  # it failed twice
    deployed.server.thaw()
    try:
        deployed.server.check()
        deployed.check(protocol)
        key = ((cell.line.system, cell.line.batching), protocol)
        if key not in warm:
            warm.add(key)
            deployed.timed(protocol, cell.connections, 1.0)
        load, used = deployed.load(protocol, cell.connections, seconds)
        result.timings.append(
            Timing(
                round_,
                load.rate,
                load.p50_ms,
                load.p99_ms,
                load.count,
                load.failed,
                load.client_cores,
                used / max(load.count, 1) * 1e6,
            )
        )
    except (*CANNOT, ClientFailed) as error:
        result.reason = words(error)
        say(f"{cell.model}: {cell.line.system} {protocol} at {cell.connections}: {result.reason}")
    finally:
        deployed.rest()
