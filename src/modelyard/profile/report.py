"""The report of a version: one HTML file with everything in it, readable offline, in light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelyard.domain.artifacts import Conversion
from modelyard.domain.configuration import Slo
from modelyard.domain.measurement import Interval, Measurement, Validity
from modelyard.domain.services import Service
from modelyard.domain.versions import Version
from modelyard.profile.compare import Comparison, compare
from modelyard.profile.plots import (
    Curve,
    Plot,
    latency_distribution,
    memory_and_utilisation,
    stage_split,
    throughput_against_p99,
)
from modelyard.profile.price import Price
from modelyard.profile.samples import Samples


@dataclass(frozen=True, slots=True)
class ReportData:
    """What a report shows. `chosen` and `naive` are measurement ids; `samples` maps measurement ids to raw samples.

    `commands` are (what it does, command line) to make the numbers again. `reason` says why `chosen` was chosen, or why
    nothing was; `cost_ratio` is the decision's: cost of naive over chosen, None where no difference is shown.
    """

    version: Version
    conversions: tuple[Conversion, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    chosen: str | None = None
    naive: str | None = None
    reason: str = ""
    slo: Slo | None = None
    cost_ratio: float | None = None
    samples: Mapping[str, Path] = field(default_factory=dict)
    service: Service | None = None
    commands: tuple[tuple[str, str], ...] = ()
    price: Price = field(default_factory=Price)


@dataclass(frozen=True, slots=True)
class _Choice:
    """The chosen measurement against the naive one; ratios > 1 mean the chosen is better.

    `compared` is the measurement of the chosen configuration that `comparison` holds against the naive one.
    """

    chosen: Measurement
    naive: Measurement | None
    cost_ratio: float | None
    compared: Measurement
    comparison: Comparison | None


def render_html(data: ReportData) -> str:
    """The report as one self-contained HTML document: no script, no address, everything escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("modelyard.profile"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number, interval=_interval, size=_size, percent=_percent, badge=_badge, error=_error, when=_when
    )
    numbers = {m.id: n for n, m in enumerate(data.measurements, 1)}
    choice = _choice(data)
    context: dict[str, Any] = {
        "data": data,
        "definition": data.version.definition,
        "numbers": numbers,
        "choice": choice,
        "plots": _plots(data, numbers, choice),
        "fingerprints": list({m.fingerprint.id: m.fingerprint for m in data.measurements}.values()),
        "INVALID": Validity.INVALID,
    }
    return environment.get_template("report.html.j2").render(context)


def _choice(data: ReportData) -> _Choice | None:
    by_id = {m.id: m for m in data.measurements}
    chosen = by_id.get(data.chosen or "")
    if chosen is None:
        return None
    naive = by_id.get(data.naive or "")
    if naive is None or naive.configuration == chosen.configuration:
        return _Choice(chosen, None, None, chosen, None)
    compared = _under_the_load_of(naive, chosen, data)
    both = compared.id in data.samples and naive.id in data.samples
    return _Choice(
        chosen,
        naive,
        data.cost_ratio,
        compared,
        compare(naive, data.samples[naive.id], compared, data.samples[compared.id]) if both else None,
    )


def _under_the_load_of(naive: Measurement, chosen: Measurement, data: ReportData) -> Measurement:
    """The measurement of the chosen configuration with the naive one's schedules, so that blocks compare in pairs.

    What was chosen was measured again under fresh seeds to confirm it; that number stands for the choice, but against
    the naive one it compares less sharply. It is the one compared where there is no other.
    """
    alike = (
        m
        for m in (chosen, *reversed(data.measurements))
        if m.configuration == chosen.configuration
        and (m.workload, m.fingerprint.id) == (naive.workload, naive.fingerprint.id)
        and m.verdict.validity is not Validity.INVALID
        and m.id in data.samples
    )
    return next(alike, chosen)


def _plots(data: ReportData, numbers: Mapping[str, int], choice: _Choice | None) -> list[Plot]:
    slo_ms = data.slo.p99_ms if data.slo else None
    measured = data.measurements
    found = (
        throughput_against_p99(measured, numbers, data.chosen, slo_ms),
        latency_distribution(_curves(data, numbers, choice), slo_ms),
        stage_split(measured, numbers),
        memory_and_utilisation(measured, numbers),
    )
    return [plot for plot in found if plot is not None]


def _curves(data: ReportData, numbers: Mapping[str, int], choice: _Choice | None) -> Sequence[Curve]:
    curves = []
    for name, m in (("chosen", choice.compared), ("naive", choice.naive)) if choice else ():
        if m is None or m.id not in data.samples:
            continue
        blocks = Samples.load(data.samples[m.id]).blocks()
        latencies = tuple(block.latencies_ms(m.workload.timeout_s) for block in blocks)
        curves.append(Curve(f"{name} ({numbers[m.id]}): {m.configuration.label}", latencies))
    return curves


def _number(value: float | None, digits: int = 3) -> str:
    """Three significant digits without an exponent for the sizes that occur; `-` for nothing."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def _interval(interval: Interval | None) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f"{_number(interval.low)} – {_number(interval.high)}"


def _size(count: int | None) -> str:
    if count is None:
        return "–"
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{share:.3%}" if 0 < share < 0.01 else f"{share:.1%}"


def _error(value: float) -> str:
    return f"{value:.2e}" if value else "0"


def _when(stamp: str) -> str:
    """A stored ISO time in UTC to the second; one without a zone is UTC, as all that is stored."""
    at = datetime.fromisoformat(stamp)
    return at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _badge(value: object) -> str:
    """CSS class of a badge for an outcome or a validity."""
    good, middling = {"proven", "valid", "source"}, {"provisional", "unproven"}
    return "good" if str(value) in good else "fair" if str(value) in middling else "poor"
