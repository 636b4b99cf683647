"""Results of a run that never was, for the tests of aims and report."""

from __future__ import annotations

from collections.abc import Sequence

from bench.serving.plan import Cell, Line
from bench.serving.results import Environment, Results, Timing


def timing(round_: int, rate: float, *, p50_ms: float = 1.0, failed: int = 0, client_cores: float = 0.1) -> Timing:
    return Timing(round_, rate, p50_ms, 2 * p50_ms, 1000, failed, client_cores, 50.0)


def empty() -> Results:
    return Results(Environment("2026-11-22 09:00", "a CPU", 2, 24, "Linux", "3.11", "abc", 0.1, 1, 3, 1, {}, {}))


def add(results: Results, model: str, line: Line, connections: int, timings: Sequence[Timing]) -> None:
    results.cell(Cell(model, line, connections)).timings.extend(timings)
