"""The report of a version: one HTML file with everything in it, readable offline, in light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from modelyard.domain.artifacts import Conversion
from modelyard.domain.configuration import Slo
from modelyard.domain.measurement import Measurement, Validity
from modelyard.domain.services import Service
from modelyard.domain.versions import Version
from modelyard.profile.compare import Comparison, compare
from modelyard.profile.plots import Shown
from modelyard.profile.price import Price
from modelyard.profile.report_measured import Measured, curves, plots
from modelyard.profile.report_page import render


@dataclass(frozen=True, slots=True)
class ReportData:
    """What a report shows. `chosen` and `naive` are measurement ids.

    `met` is whether `chosen` meets the SLO; where it does not, it is only what came closest, and shown as that.
    `commands` are (what it does, command line) to make the numbers again. `reason` says why `chosen` was chosen, or why
    nothing was; `cost_ratio` is the decision's: cost of naive over chosen, None where no difference is shown.
    """

    version: Version
    conversions: tuple[Conversion, ...] = ()
    measured: Measured = field(default_factory=Measured)
    chosen: str | None = None
    met: bool | None = None
    naive: str | None = None
    reason: str = ""
    slo: Slo | None = None
    cost_ratio: float | None = None
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
    choice = _choice(data)
    shown = data.measured.shown()
    star = None if data.met is False else data.chosen
    return render(
        "report.html.j2",
        data=data,
        definition=data.version.definition,
        numbers=data.measured.numbers,
        choice=choice,
        marks=_marks(data),
        word=_word(data),
        missing=data.measured.missing_rows(),
        plots=plots(
            shown, _curves(shown, choice, _word(data)), chosen=star, slo_ms=data.slo.p99_ms if data.slo else None
        ),
        fingerprints=data.measured.fingerprints,
    )


def _marks(data: ReportData) -> dict[str, str]:
    """What is said beside a measurement; the choice may be the naive one."""
    marks = {data.naive: "naive", data.chosen: _word(data)}
    return {name: mark for name, mark in marks.items() if name is not None}


def _word(data: ReportData) -> str:
    """What the chosen measurement is called."""
    return "closest" if data.met is False else "chosen"


def _choice(data: ReportData) -> _Choice | None:
    by_id = {m.id: m for m in data.measured.measurements}
    chosen = by_id.get(data.chosen or "")
    if chosen is None:
        return None
    naive = by_id.get(data.naive or "")
    if naive is None or naive.configuration == chosen.configuration:
        return _Choice(chosen, None, None, chosen, None)
    compared = _under_the_load_of(naive, chosen, data)
    both = compared.id in data.measured.samples and naive.id in data.measured.samples
    return _Choice(
        chosen,
        naive,
        data.cost_ratio,
        compared,
        compare(naive, data.measured.samples[naive.id], compared, data.measured.samples[compared.id]) if both else None,
    )


def _under_the_load_of(naive: Measurement, chosen: Measurement, data: ReportData) -> Measurement:
    """The measurement of the chosen configuration with the naive one's schedules, so that blocks compare in pairs.

    What was chosen was measured again under fresh seeds to confirm it; that number stands for the choice, but against
    the naive one it compares less sharply. It is the one compared where there is no other.
    """
    alike = (
        m
        for m in (chosen, *reversed(data.measured.measurements))
        if m.configuration == chosen.configuration
        and (m.workload, m.fingerprint.id) == (naive.workload, naive.fingerprint.id)
        and m.verdict.validity is not Validity.INVALID
        and m.id in data.measured.samples
    )
    return next(alike, chosen)


def _curves(shown: Sequence[Shown], choice: _Choice | None, word: str) -> list[tuple[str, Shown]]:
    """The chosen measurement and the naive one; where nothing was chosen, what there is."""
    if choice is None:
        return curves(shown)
    by_id = {s.measurement.id: s for s in shown}
    named = [(word, choice.compared), *((("naive", choice.naive),) if choice.naive else ())]
    return [(f"{name}: {m.configuration.label}", by_id[m.id]) for name, m in named]
