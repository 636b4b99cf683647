"""The run: per model all servers are started and frozen, then every cell is timed in interleaved rounds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from bench.serving.clients import ClientFailed
from bench.serving.deployed import CANNOT, Deployed, Workload
from bench.serving.models import MODELS, Model
from bench.serving.plan import EXTENTS, INPROCESS, Cell, cells, variants
from bench.serving.results import Results, Timing
from bench.serving.systems import SYSTEMS
from bench.serving.systems.ports import PEERS
from modelyard.domain.workload import Protocol
from modelyard.runtimes.onnxruntime import import_onnxruntime

Key = tuple[str, bool | None]


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. `seconds` per cell (a multiple for slow models); `cold_starts` of each system on the first model."""

    systems: tuple[str, ...]
    models: tuple[str, ...]
    protocols: tuple[Protocol, ...]
    connections: tuple[int, ...] | None
    seconds: float
    rounds: int
    threads: int
    cold_starts: int
    cache: Path


class _InProcess(msgspec.Struct):
    rate: float
    p50_ms: float
    p99_ms: float
    count: int


class InProcess:
    """The runtime alone, in a process of its own that waits on its stdin between measurements."""

    def __init__(self, workload: Workload, threads: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "requests.npz"
        arrays = {f"{i}.{name}": array for i, t in enumerate(workload.requests) for name, array in t.items()}
        np.savez(file, **arrays)  # type: ignore[arg-type]
        env = {**os.environ, "BENCH_MODEL": str(workload.file), "BENCH_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, str(PEERS / "inprocess.py"), str(file)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def measure(self, batch: int, seconds: float) -> _InProcess:
        """Rows per second and run times at one batch size."""
        if self._process.stdin is None:
            raise ClientFailed("the in-process runtime has no stdin")
        self._process.stdin.write(f"{batch} {seconds}\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._line(), type=_InProcess)

    def end(self) -> None:
        """End it."""
        self._process.communicate()

    def _line(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise ClientFailed(f"the in-process runtime ended with {self._process.wait()}")
        return line


def workload_of(model: Model, cache: Path) -> Workload:
    """A model with its requests and the right answers to them."""
    file = model.file(cache / "models")
    requests = model.requests()
    session = import_onnxruntime().InferenceSession(str(file), providers=["CPUExecutionProvider"])
    expected = [np.asarray(session.run(None, request)[0], np.float32).ravel() for request in requests]
    return Workload(model, file, requests, expected)


def run(options: Options, results: Results) -> None:
    """Fill `results`; what was measured before an interruption stays in it."""
    started = time.monotonic()
    _remove_old_work(options.cache / "work")
    try:
        for number, name in enumerate(options.models):
            cold_starts = options.cold_starts if number == 0 else 1
            with _servers(options, MODELS[name], results, cold_starts) as (servers, inprocess):
                _rounds(options, MODELS[name], servers, inprocess, results)
    finally:
        results.wall_s = time.monotonic() - started


@contextmanager
def _servers(
    options: Options, model: Model, results: Results, cold_starts: int
) -> Iterator[tuple[dict[Key, Deployed], InProcess]]:
    workload = workload_of(model, options.cache)
    work = options.cache / "work" / str(os.getpid())
    servers: dict[Key, Deployed] = {}
    inprocess = InProcess(workload, options.threads, work / model.name)
    try:
        for name in options.systems:
            system = SYSTEMS[name]
            if system.models and model.name not in system.models:
                continue
            for batching in variants(system, model):
                record = results.server(model.name, name, batching)
                for _ in range(cold_starts if batching is not False else 1):
                    if (name, batching) in servers:
                        servers.pop((name, batching)).end()
                    folder = work / f"{model.name}-{name}-{'off' if batching is False else 'on'}"
                    try:
                        deployed = Deployed.start(
                            system,
                            workload,
                            batching=bool(batching),
                            threads=options.threads,
                            folder=folder,
                            cache=options.cache,
                        )
                    except CANNOT as error:
                        record.reason = _words(error)
                        _say(f"{model.name}: {name} cannot be measured: {record.reason}")
                        break
                    servers[name, batching] = deployed
                    record.cold_starts_s.append(deployed.cold_start_s)
                if (name, batching) in servers:
                    _say(f"{model.name}: {name} {_variant(batching)} up in {record.cold_starts_s[-1]:.2f} s")
                    servers[name, batching].server.freeze()
        yield servers, inprocess
    finally:
        for deployed in servers.values():
            deployed.end()
        inprocess.end()


def _rounds(
    options: Options, model: Model, servers: dict[Key, Deployed], inprocess: InProcess, results: Results
) -> None:
    seconds = options.seconds * EXTENTS[model.name].seconds
    groups = list(cells(options.systems, model, options.connections, options.protocols))
    warm: set[tuple[Key, Protocol]] = set()
    for round_ in range(options.rounds):
        _say(f"{model.name}: round {round_ + 1} of {options.rounds}, {sum(map(len, groups))} cells of {seconds:g} s")
        for group in groups:
            for cell in group if round_ % 2 == 0 else reversed(group):
                if cell.line.system == INPROCESS:
                    found = inprocess.measure(cell.connections, seconds)
                    timing = Timing(round_, found.rate, found.p50_ms, found.p99_ms, found.count, 0, 0.0, 0.0)
                    results.cell(cell).timings.append(timing)
                elif (deployed := servers.get((cell.line.system, cell.line.batching))) is not None:
                    _one(cell, deployed, round_, seconds, warm, results)
        for (name, batching), deployed in servers.items():
            record = results.server(model.name, name, batching)
            rss, pss = deployed.server.memory_bytes()
            record.rss_bytes, record.pss_bytes = max(record.rss_bytes, rss), max(record.pss_bytes, pss)


def _one(
    cell: Cell, deployed: Deployed, round_: int, seconds: float, warm: set[tuple[Key, Protocol]], results: Results
) -> None:
    """Thaw, check every message's answer, warm up where new, time, freeze."""
    result = results.cell(cell)
    protocol = cell.line.protocol
    if result.reason:
        return
    deployed.server.thaw()
    try:
        deployed.server.check()
        deployed.check(protocol)
        key = ((cell.line.system, cell.line.batching), protocol)
        if key not in warm:
            warm.add(key)
            deployed.load(protocol, cell.connections, 1.0)
        before = deployed.server.cpu_s()
        load = deployed.load(protocol, cell.connections, seconds)
        used = deployed.server.cpu_s() - before
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
        result.reason = _words(error)
        _say(f"{cell.model}: {cell.line.system} {protocol} at {cell.connections}: {result.reason}")
    finally:
        deployed.server.freeze()


def _remove_old_work(folder: Path) -> None:
    """Logs and configurations of runs whose process is gone."""
    for old in folder.glob("[0-9]*"):
        if not Path(f"/proc/{old.name}").exists():
            shutil.rmtree(old, ignore_errors=True)


def _variant(batching: bool | None) -> str:
    return "" if batching is None else "with batching" if batching else "without batching"


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300]


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
