"""The aims of the data plane as ratios of cells, each met, missed or not measured in this run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from bench.serving.plan import INPROCESS, Line
from bench.serving.results import CellResult, Results, Side, Timing, median, paired
from bench.serving.systems.ports import BINARY, GRPC, JSON
from modelyard.domain.workload import Protocol

PYTHON_PEERS = ("fastapi", "bentoml", "litserve", "mlserver", "kserve", "ray")
"""TorchServe has an aim of its own: what takes its requests, and forms its batches, is Java (Netty)."""
_OURS = Side("modelyard", True)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One aim: what was found (None: not measured), and whether it is at least (`sign` 1) or at most (-1) the aim."""

    text: str
    aim: float
    found: float | None
    unit: str = "x"
    sign: int = 1
    note: str = ""

    @property
    def word(self) -> str:
        """`met`, `missed` or `not measured`."""
        if self.found is None:
            return "not measured"
        return "met" if self.sign * self.found >= self.sign * self.aim else "missed"


def verdicts(results: Results) -> Iterator[Verdict]:
    """All aims, in the order of the issue."""
    yield from _mlp(results)
    yield from _grpc(results)
    yield from _resnet(results)
    yield from _batching(results)
    yield _replicas(results)


def _mlp(results: Results) -> Iterator[Verdict]:
    def at(system: str, protocol: Protocol, batching: bool | None, connections: int = 32) -> CellResult | None:
        return results.find("mlp", Line(system, batching, protocol), connections)

    for protocol, aim in ((JSON, 0.35), (BINARY, 0.40)):
        found = _ratio(at("modelyard", protocol, True), at("nginx", protocol, None))
        yield Verdict(f"MLP, REST {_name(protocol)}, 32 connections: of nginx's constant response", aim, found)
    best = max(
        (c for c in _cells(results, "mlp", 32, JSON, PYTHON_PEERS)), key=lambda c: median(c, _rate) or 0, default=None
    )
    found = _ratio(at("modelyard", JSON, True), best)
    note = f"the best is {best.system}" if best else ""
    yield Verdict("MLP, REST JSON, 32 connections: of the best peer whose server is Python", 20, found, note=note)
    found = _ratio(at("modelyard", JSON, True), at("torchserve", JSON, True))
    yield Verdict("MLP, REST JSON, 32 connections: of TorchServe (Java before Python workers)", 20, found)
    for protocol in (BINARY, JSON):
        found = _ratio(at("modelyard", protocol, True), at("triton", protocol, True))
        yield Verdict(f"MLP, REST {_name(protocol)}, 32 connections: of Triton with its Python backend", 3, found)
    for protocol in (JSON, BINARY):
        turns = results.rounds_of("mlp", _OURS, Side("floor", None), protocol)
        found = statistics.median(t.difference_ms * 1e3 for t in turns) if turns else None
        note = f"{statistics.median(t.other_ms * 1e3 for t in turns):.0f} us" if turns else ""
        text = f"MLP, REST {_name(protocol)}, 1 connection: p50 above the raw protocol floor"
        yield Verdict(text, 30, found, " us", -1, f"asked in turns; the floor's is {note}" if note else "")


def _grpc(results: Results) -> Iterator[Verdict]:
    def at(system: str, batching: bool | None, connections: int) -> CellResult | None:
        return results.find("mlp", Line(system, batching, GRPC), connections)

    for connections in (1, 8, 32, 128):
        found = _ratio(at("modelyard", True, connections), at("triton", True, connections))
        if found is not None or connections == 32:
            yield Verdict(f"MLP, gRPC, {_connections(connections)}: of Triton's (C++) gRPC", 1, found)
    for peer, title in (("mlserver", "MLServer"), ("kserve", "KServe")):
        best = max(_cells(results, "mlp", 32, GRPC, (peer,)), key=lambda c: median(c, _rate) or 0, default=None)
        yield Verdict(f"MLP, gRPC, 32 connections: of {title}", 5, _ratio(at("modelyard", True, 32), best))


def _resnet(results: Results) -> Iterator[Verdict]:
    for batching, batch in ((False, 1), (True, 8)):
        served = results.find("resnet50", Line("modelyard", batching, BINARY), 8)
        alone = results.find("resnet50", Line(INPROCESS, None, BINARY), batch)
        text = f"ResNet-50, 8 connections, batch {batch}: of the in-process runtime at that batch"
        yield Verdict(text, 0.97, _ratio(served, alone))
    turns = results.rounds_of("resnet50", _OURS, Side(INPROCESS, None), BINARY)
    found = statistics.median(t.difference_ms for t in turns) if turns else None
    note = f"asked in turns; in process {statistics.median(t.other_ms for t in turns):.1f} ms" if turns else ""
    yield Verdict("ResNet-50, 1 connection: p50 above the in-process runtime", 0.3, found, " ms", -1, note)


def _batching(results: Results) -> Iterator[Verdict]:
    def both(protocol: Protocol, connections: int) -> tuple[CellResult | None, CellResult | None]:
        on = results.find("cnn", Line("modelyard", True, protocol), connections)
        return on, results.find("cnn", Line("modelyard", False, protocol), connections)

    for protocol in (BINARY, JSON):
        turns = results.rounds_of("cnn", _OURS, Side("modelyard", False), protocol)
        found = statistics.median(t.one_ms / t.other_ms for t in turns) if turns else None
        text = f"small CNN, {_name(protocol)}, 1 connection: p50, batching on of off"
        yield Verdict(text, 1.05, found, sign=-1, note="asked in turns" if turns else "")
        on, off = both(protocol, 32)
        yield Verdict(f"small CNN, {_name(protocol)}, 32 connections: rate, batching on of off", 1.5, _ratio(on, off))


def _replicas(results: Results) -> Verdict:
    two = results.find("resnet50", Line("modelyard-2", False, BINARY), 8)
    one = results.find("resnet50", Line("modelyard", False, BINARY), 8)
    threads = results.environment.threads
    note = "" if threads == 1 else f"with {threads} threads each; the aim is for 1"
    return Verdict("ResNet-50, 8 connections, batching off: 2 replicas of one", 1.7, _ratio(two, one), note=note)


def _ratio(a: CellResult | None, b: CellResult | None) -> float | None:
    return paired(a, b, lambda x, y: x.rate / y.rate)


def _cells(
    results: Results, model: str, connections: int, protocol: Protocol, systems: tuple[str, ...]
) -> Iterator[CellResult]:
    for cell in results.cells:
        wanted = (cell.model, cell.connections, cell.protocol) == (model, connections, protocol)
        if wanted and cell.system in systems and cell.timings:
            yield cell


def _rate(timing: Timing) -> float:
    return timing.rate


def _name(protocol: Protocol) -> str:
    return {JSON: "JSON", BINARY: "binary", GRPC: "gRPC"}[protocol]


def _connections(number: int) -> str:
    return "1 connection" if number == 1 else f"{number} connections"
