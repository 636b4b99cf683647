"""What a run found, as it is written to the JSON file."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import msgspec

from bench.serving.plan import Cell, Line
from modelyard.domain.workload import Protocol


class Timing(msgspec.Struct, frozen=True):
    """One cell in one round. `server_core_us`: CPU of the server's processes per request, in microseconds."""

    round: int
    rate: float
    p50_ms: float
    p99_ms: float
    count: int
    failed: int
    client_cores: float
    server_core_us: float


class CellResult(msgspec.Struct):
    """A cell of all rounds, or why it has none."""

    model: str
    system: str
    batching: bool | None
    protocol: Protocol
    connections: int
    timings: list[Timing] = []
    reason: str = ""


class ServerResult(msgspec.Struct):
    """A system serving a model: seconds to the first right answer at each start, the most memory seen over its
    processes (RSS, and PSS: shared pages divided), or why not."""

    model: str
    system: str
    batching: bool | None
    cold_starts_s: list[float] = []
    rss_bytes: int = 0
    pss_bytes: int = 0
    reason: str = ""


class Side(msgspec.Struct, frozen=True):
    """One of two that are asked in turns."""

    system: str
    batching: bool | None


class Turns(msgspec.Struct, frozen=True):
    """Medians over the turns of a round: of the difference of the two sides' median latencies, and of these.

    `stages_us`: medians of what Modelyard's side says of its last requests (`GET /requests`).
    """

    round: int
    difference_ms: float
    one_ms: float
    other_ms: float
    stages_us: dict[str, float] = {}


class TurnsResult(msgspec.Struct):
    """Two sides asked in turns over one connection each, all rounds: see turns.py."""

    model: str
    one: Side
    other: Side
    protocol: Protocol
    rounds: list[Turns] = []


class Environment(msgspec.Struct):
    """Where, when and with what."""

    started: str
    cpu: str
    cores: int
    memory_gib: int
    os: str
    python: str
    commit: str
    load_average: float
    threads: int
    rounds: int
    seconds: float
    tools: dict[str, str]
    packages: dict[str, dict[str, str]]


class Results(msgspec.Struct):
    """A whole run."""

    environment: Environment
    cells: list[CellResult] = []
    servers: list[ServerResult] = []
    turns: list[TurnsResult] = []
    wall_s: float = 0.0

    def cell(self, cell: Cell) -> CellResult:
        """The result of a cell, made if it is new."""
        found = self.find(cell.model, cell.line, cell.connections)
        if found is None:
            line = cell.line
            found = CellResult(cell.model, line.system, line.batching, line.protocol, cell.connections)
            self.cells.append(found)
        return found

    def find(self, model: str, line: Line, connections: int) -> CellResult | None:
        """The result of a cell, if it was part of the run."""
        for cell in self.cells:
            if (cell.model, cell.connections) == (model, connections) and line_of(cell) == line:
                return cell
        return None

    def turns_of(self, model: str, one: Side, other: Side, protocol: Protocol) -> TurnsResult:
        """The record of two sides asked in turns, made if it is new."""
        for found in self.turns:
            if (found.model, found.one, found.other, found.protocol) == (model, one, other, protocol):
                return found
        self.turns.append(TurnsResult(model, one, other, protocol))
        return self.turns[-1]

    def rounds_of(self, model: str, one: Side, other: Side, protocol: Protocol) -> list[Turns]:
        """The rounds of two sides asked in turns; none where they were not."""
        wanted = (model, one, other, protocol)
        return next((t.rounds for t in self.turns if (t.model, t.one, t.other, t.protocol) == wanted), [])

    def server(self, model: str, system: str, batching: bool | None) -> ServerResult:
        """The record of a server, made if it is new."""
        for server in self.servers:
            if (server.model, server.system, server.batching) == (model, system, batching):
                return server
        self.servers.append(ServerResult(model, system, batching))
        return self.servers[-1]


def line_of(cell: CellResult) -> Line:
    """The line a cell stands in."""
    return Line(cell.system, cell.batching, cell.protocol)


def median(cell: CellResult, figure: Callable[[Timing], float]) -> float | None:
    """The median of a figure over the rounds; None where nothing was measured."""
    return statistics.median(figure(t) for t in cell.timings) if cell.timings else None


def paired(a: CellResult | None, b: CellResult | None, figure: Callable[[Timing, Timing], float]) -> float | None:
    """The median over the rounds of a figure of two cells measured in the same round; None without such rounds."""
    if a is None or b is None:
        return None
    others = {t.round: t for t in b.timings}
    found = [figure(t, others[t.round]) for t in a.timings if t.round in others]
    return statistics.median(found) if found else None
