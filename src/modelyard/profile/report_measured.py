"""The part of every report that shows measurements, and the report of measurements alone, two of them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.domain.configuration import Batching, Configuration, Slo
from modelyard.domain.measurement import Fingerprint, Indicators, Measurement, Validity
from modelyard.profile.compare import Comparison
from modelyard.profile.distribution import Distribution
from modelyard.profile.plots import (
    Plot,
    Shown,
    latency_distribution,
    memory_and_utilisation,
    round_trips,
    stage_split,
    throughput_against_p99,
)
from modelyard.profile.plots.figure import distinct, load
from modelyard.profile.price import Price
from modelyard.profile.report_page import number, percent, render, size
from modelyard.profile.samples import Samples


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements in the order of their rows, and their raw samples by id.

    `missing` says for each measurement whose samples are not there why.
    """

    measurements: tuple[Measurement, ...] = ()
    samples: Mapping[str, Path] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, int]:
        """Rows of the table, from 1, by measurement id."""
        return {m.id: n for n, m in enumerate(self.measurements, 1)}

    @property
    def fingerprints(self) -> list[Fingerprint]:
        """The nodes they were made on."""
        return list({m.fingerprint.id: m.fingerprint for m in self.measurements}.values())

    def shown(self) -> list[Shown]:
        """As plots take them: what is needed of the raw samples, loaded one measurement at a time."""
        return [Shown(m, n, self._distribution(m)) for n, m in enumerate(self.measurements, 1)]

    def missing_rows(self) -> dict[str, list[int]]:
        """Rows without samples by the reason."""
        found: dict[str, list[int]] = {}
        for id_, row in self.numbers.items():
            if id_ in self.missing:
                found.setdefault(self.missing[id_], []).append(row)
        return found

    def _distribution(self, m: Measurement) -> Distribution | None:
        if m.id not in self.samples:
            return None
        samples = Samples.load(self.samples[m.id])
        return Distribution.of(samples, m.workload.timeout_s) if len(samples) else None


@dataclass(frozen=True, slots=True)
class MeasurementsData:
    """What a report of measurements shows.

    `comparison` holds the second against the first, where the two are to be compared: `compared` asks for that, and
    `why_not` says why there is none.
    """

    title: str
    subtitle: str
    measured: Measured
    price: Price = field(default_factory=Price)
    slo: Slo | None = None
    compared: bool = False
    comparison: Comparison | None = None
    why_not: str = ""
    commands: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Side:
    """One cell of the side-by-side table."""

    text: str
    struck: bool = False


@dataclass(frozen=True, slots=True)
class SideRow:
    """One line of the side-by-side table; `differs`: a setting that is not the same."""

    name: str
    a: Side
    b: Side
    differs: bool


def render_measurements(data: MeasurementsData) -> str:
    """The report as one self-contained HTML document."""
    measurements = data.measured.measurements
    sides = side_by_side(*measurements) if data.compared and len(measurements) == 2 else ()
    return render(
        "measurements.html.j2",
        data=data,
        sides=sides,
        marks={m.id: name for m, name in zip(measurements, "AB", strict=False)} if sides else {},
        versions=len({(m.model, m.version) for m in measurements}) > 1,
        missing=data.measured.missing_rows(),
        plots=_plots(data.measured.shown(), data.slo.p99_ms if data.slo else None, side_by_side=bool(sides)),
        fingerprints=data.measured.fingerprints,
    )


def plots(
    shown: Sequence[Shown], curves: Sequence[tuple[str, Shown]], *, chosen: str | None, slo_ms: float | None
) -> list[Plot]:
    """Every plot that the measurements have data for."""
    found = (
        throughput_against_p99(shown, chosen=chosen, slo_ms=slo_ms),
        latency_distribution(curves, slo_ms),
        stage_split(shown),
        round_trips(shown),
        memory_and_utilisation(shown),
    )
    return [plot for plot in found if plot is not None]


def curves(shown: Sequence[Shown]) -> list[tuple[str, Shown]]:
    """What the distribution shows where nobody chose: open loops, for latency is theirs, if there are any.

    Believable ones first; each named by what tells it from the others.
    """
    some = [s for s in shown if s.distribution is not None]
    preferred = [s for s in some if s.measurement.workload.open_loop] or some
    preferred.sort(key=lambda s: s.doubtful)
    versions = {(s.measurement.model, s.measurement.version) for s in preferred}
    knobs = distinct([s.measurement.configuration.label for s in preferred])
    return [(_name(s, knobs, versioned=len(versions) > 1), s) for s in preferred]


def _name(s: Shown, knobs: Mapping[str, str], *, versioned: bool) -> str:
    m = s.measurement
    version = [f"{m.model}:{m.version}"] if versioned else []
    return ", ".join([*version, knobs[m.configuration.label], load(m.workload)])


def _plots(shown: Sequence[Shown], slo_ms: float | None, *, side_by_side: bool) -> list[Plot]:
    named = [(name, s) for name, s in zip("AB", shown, strict=False)] if side_by_side else curves(shown)
    return plots(shown, named, chosen=None, slo_ms=slo_ms)


def side_by_side(a: Measurement, b: Measurement) -> tuple[SideRow, ...]:
    """Two measurements line by line: what they are of, then their numbers with intervals."""
    rows = []
    for (name, left), (_, right) in zip(_facts(a), _facts(b), strict=True):
        rows.append(SideRow(name, Side(left), Side(right), left != right))
    bad = [m.verdict.validity is Validity.INVALID for m in (a, b)]
    for (name, left), (_, right) in zip(_numbers(a), _numbers(b), strict=True):
        rows.append(SideRow(name, Side(left, bad[0]), Side(right, bad[1]), False))
    return tuple(rows)


def _facts(m: Measurement) -> list[tuple[str, str]]:
    c, w = m.configuration, m.workload
    return [
        ("measurement", m.id[:12]),
        ("version", f"{m.model}:{m.version}"),
        ("artifact", f"{c.target} {c.precision} ({c.artifact[:12]})"),
        ("runtime", f"{c.runtime}, {c.device}"),
        ("threads, replicas", f"{c.threads}, {c.replicas}"),
        (
            "batching",
            _batching(c.batching),
        ),
        ("limits", _limits(c)),
        ("engine, serving system", f"{c.engine}, {c.serving_system}"),
        ("load", w.label),
        ("blocks, seed", f"{w.blocks} of {w.requests} requests or {w.duration_s:g} s, seed {w.seed}"),
        ("node", m.fingerprint.id),
        ("verdict", str(m.verdict)),
    ]


def _numbers(m: Measurement) -> list[tuple[str, str]]:
    i, blocks = m.indicators, m.workload.blocks

    return [
        ("throughput", f"{i.throughput_rps.told(blocks)} requests/s"),
        ("p50", f"{i.p50_ms.told(blocks)} ms"),
        ("p95", f"{i.p95_ms.told(blocks)} ms"),
        ("p99", f"{i.p99_ms.told(blocks)} ms" if i.p99_ms else "too few requests"),
        ("p99.9", f"{number(i.p999_ms)} ms" if i.p999_ms else "too few requests"),
        ("errors", percent(i.error_fraction)),
        ("memory", size(i.memory_rss_bytes)),
        ("CPU cores busy", number(i.cpu_cores)),
        ("cost per 1M requests", _cost(i, blocks)),
    ]


def _batching(b: Batching) -> str:
    return f"up to {b.max_size} rows, wait {b.max_delay_us} µs" if b.max_size > 1 else "off"


def _limits(c: Configuration) -> str:
    cpu = [] if c.cpu_limit is None else [f"{c.cpu_limit:g} cores"]
    memory = [] if c.memory_limit_bytes is None else [size(c.memory_limit_bytes)]
    return ", ".join([*cpu, *memory]) or "none"


def _cost(i: Indicators, blocks: int) -> str:
    if not i.cost_known:
        return "too little CPU time to tell"
    return i.cost_interval.told(blocks) if i.cost_interval else number(i.cost_per_million)
