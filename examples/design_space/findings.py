"""What the design-space experiment found: values, comparisons between searches, and their tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from modelyard.domain.figures import figure
from modelyard.profile.statistics import half_width

DEFAULT, UNCAPPED = "default", "default, no caps"


@dataclass(frozen=True, slots=True)
class Load:
    """The default configuration with so many requests in flight. Milliseconds; `low`, `high`: 95 % of the mean."""

    concurrency: int
    mean_ms: float | None
    low: float | None
    high: float | None
    p99_ms: float | None
    throughput_rps: float
    verdict: str
    measurement: str


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A configuration, measured with fresh seeds in turns with the others of its cell.

    `logs`: the logarithm of every block's mean in ms; blocks with the same place are pairs. `measured` is False where
    it did not run or its number is not to be believed; `verdict` then says why.
    """

    configuration: str
    measured: bool
    verdict: str
    mean_ms: float = 0.0
    low: float | None = None
    high: float | None = None
    logs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """One search. `seen_ms`: its winner's mean as the search saw it, which is too good; `best` is None without one."""

    label: str
    words: str
    study: str
    trials: int
    failed: int
    seen_ms: float | None
    best: Confirmed | None
    report: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """All searches of one model at one concurrency with one seed, and the defaults beside them."""

    model: str
    concurrency: int
    seed: int
    runs: tuple[Run, ...]
    defaults: dict[str, Confirmed]

    @property
    def place(self) -> tuple[str, int, int]:
        """What sets it apart from the other cells."""
        return self.model, self.concurrency, self.seed

    def confirmed(self, label: str) -> Confirmed | None:
        """The winner of the run with that label, or the default of that name; None where there is none."""
        if label in self.defaults:
            return self.defaults[label]
        return next((run.best for run in self.runs if run.label == label), None)


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything, as `results.json` has it. `machine` is the fingerprint's id; `capped`: replicas had caps on CPU."""

    machine: str
    capped: bool
    default_by_model: dict[str, tuple[Load, ...]]
    cells: tuple[Cell, ...]

    def having(self, cell: Cell) -> Findings:
        """With this cell in place of an earlier one of the same model, concurrency and seed."""
        by_place = {c.place: c for c in (*self.cells, cell)}
        return replace(self, cells=tuple(by_place[place] for place in sorted(by_place)))


@dataclass(frozen=True, slots=True)
class Gain:
    """How much lower the mean of one is than the other's: 1 - ratio, 95 % bounds by Student's t over paired blocks."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:+.1%}"
        return f"{self.value:+.1%} [{self.low:+.1%}, {self.high:+.1%}]"


QUESTIONS = (
    ("C", "B", "equal budgets: bayesian against random"),
    ("D", "A", "simulate-verify against the first half of random"),
    ("D", "B", "simulate-verify against random"),
    ("C", "A", "as in the paper: twice the budget for bayesian"),
    ("B", "A", "what the second half of random gains by itself"),
)
"""Who against whom, and what that comparison is."""


def gain(cell: Cell, one: str, other: str) -> Gain | None:
    """Of `one` over `other` in a cell, positive where `one` is faster; None where one of them has no number."""
    a, b = cell.confirmed(one), cell.confirmed(other)
    if a is None or b is None or not (a.measured and b.measured):
        return None
    if a.configuration == b.configuration:
        return Gain(0.0, 0.0, 0.0)
    if len(a.logs) < 2 or len(a.logs) != len(b.logs):
        return Gain(1 - a.mean_ms / b.mean_ms)
    differences = np.subtract(a.logs, b.logs)
    middle, half = float(differences.mean()), half_width(differences)
    return Gain(1 - math.exp(middle), 1 - math.exp(middle + half), 1 - math.exp(middle - half))


def together(gains: Sequence[Gain]) -> Gain:
    """Of several seeds: from the geometric mean of their ratios, bounds by Student's t over seeds."""
    if len(gains) == 1:
        return gains[0]
    logs = np.log([1 - g.value for g in gains])
    middle, half = float(logs.mean()), half_width(logs)
    return Gain(1 - math.exp(middle), 1 - math.exp(middle + half), 1 - math.exp(middle - half))


def markdown(findings: Findings) -> str:
    """Every table."""
    return "\n".join(line for part in (_loads(findings), _runs(findings), _gains(findings)) for line in part)


def _loads(findings: Findings) -> Iterator[str]:
    for model, loads in findings.default_by_model.items():
        yield f"### {model}: round trips of the default configuration\n"
        yield "| concurrent | mean ms | p99 ms | requests/s | verdict |"
        yield "|---|---|---|---|---|"
        for x in loads:
            mean, p99 = _interval(x.mean_ms, x.low, x.high), _interval(x.p99_ms, None, None)
            yield f"| {x.concurrency} | {mean} | {p99} | {figure(x.throughput_rps)} | {x.verdict} |"
        yield ""


def _runs(findings: Findings) -> Iterator[str]:
    for cell in findings.cells:
        yield f"### {cell.model}, {cell.concurrency} concurrent, seed {cell.seed}\n"
        over = " | ".join(f"gain over {name}" for name in cell.defaults)
        yield f"| | search | trials (failed) | mean ms, searched | mean ms, confirmed | {over} | found |"
        yield f"|---|---|---|---|---|{'---|' * len(cell.defaults)}---|"
        for run in cell.runs:
            seen = "-" if run.seen_ms is None else figure(run.seen_ms)
            gains = " | ".join(_gain(gain(cell, run.label, name)) for name in cell.defaults)
            found = run.best.configuration if run.best else "nothing that ran"
            tried = f"{run.trials} ({run.failed})"
            yield f"| {run.label} | {run.words} | {tried} | {seen} | {_confirmed(run.best)} | {gains} | {found} |"
        for name, default in cell.defaults.items():
            nothing = " | ".join("" for _ in cell.defaults)
            yield f"| | {name} | | | {_confirmed(default)} | {nothing} | {default.configuration} |"
        yield ""


def _gains(findings: Findings) -> Iterator[str]:
    if not findings.cells:
        return
    yield "### Gains: how much lower the mean round trip is\n"
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in findings.cells:
        groups.setdefault((cell.model, cell.concurrency), []).append(cell)
    yield f"| model | concurrent | seeds | {' | '.join(f'{one} over {other}' for one, other, _ in QUESTIONS)} |"
    yield f"|---|---|---|{'---|' * len(QUESTIONS)}"
    for (model, concurrency), cells in groups.items():
        row = []
        for one, other, _ in QUESTIONS:
            known = [g for cell in cells if (g := gain(cell, one, other)) is not None]
            row.append(_gain(together(known) if known else None))
        yield f"| {model} | {concurrency} | {len(cells)} | {' | '.join(row)} |"
    yield ""
    yield from (f"- {one} over {other}: {words}" for one, other, words in QUESTIONS)
    yield ""


def _confirmed(found: Confirmed | None) -> str:
    if found is None:
        return "-"
    return _interval(found.mean_ms, found.low, found.high) if found.measured else found.verdict


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    return figure(value) if low is None or high is None else f"{figure(value)} [{figure(low)}, {figure(high)}]"


def _gain(value: Gain | None) -> str:
    return "-" if value is None else str(value)
