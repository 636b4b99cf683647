"""The HTML report of a version, from the evidence in the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from modelyard.domain.errors import BackendFailed
from modelyard.domain.measurement import Measurement
from modelyard.domain.services import Service
from modelyard.domain.versions import ModelRef, Version
from modelyard.hub import Hub
from modelyard.profile.report import ReportData, render_html
from modelyard.workflow.choosing import cost_ratio, is_naive
from modelyard.workflow.deploying import CHOSEN
from modelyard.workflow.values import Choice


@dataclass(frozen=True)
class Reporting:
    """Writes reports; everything in them is read from the hub or handed in with the choice."""

    hub: Hub

    def write(self, version: Version, choice: Choice, service: Service | None, path: Path) -> Path:
        """The report of a publish that has just ended."""
        ref = ModelRef(version.model, version.number)
        considered = {m.id: m for m in (*choice.considered, *((choice.chosen,) if choice.chosen else ()))}
        data = ReportData(
            version=version,
            conversions=tuple(self.hub.conversions.list(ref)),
            measurements=tuple(considered.values()),
            chosen=choice.chosen.id if choice.chosen else None,
            naive=choice.naive.id if choice.naive else None,
            reason=choice.reason,
            slo=choice.slo,
            samples=self._samples(tuple(considered.values())),
            service=service,
            commands=_commands(version),
        )
        return _write(path, render_html(data))

    def write_latest(self, version: Version, path: Path) -> Path:
        """The report of a version as the hub knows it now."""
        ref = ModelRef(version.model, version.number)
        measured = self.hub.measurements.list(ref)
        chosen = next((m for m in reversed(measured) if m.purpose == CHOSEN), None)
        naive = next((m for m in reversed(measured) if _comparable(m, chosen, version)), None)
        ratio = cost_ratio(naive, chosen) if chosen else None
        reason = "the last published choice" if chosen else "nothing published yet"
        if ratio:
            reason += f"; {ratio:.2g} times cheaper per request than the naive deployment"
        services = [s for s in self.hub.services.list() if (s.model, s.version) == (version.model, version.number)]
        data = ReportData(
            version=version,
            conversions=tuple(self.hub.conversions.list(ref)),
            measurements=tuple(measured),
            chosen=chosen.id if chosen else None,
            naive=naive.id if naive else None,
            reason=reason,
            slo=version.definition.slo,
            samples=self._samples(tuple(measured)),
            service=services[0] if services else None,
            commands=_commands(version),
        )
        return _write(path, render_html(data))

    def _samples(self, measured: tuple[Measurement, ...]) -> dict[str, Path]:
        return {m.id: self.hub.measurements.samples(m) for m in measured if m.samples}


def _comparable(m: Measurement, chosen: Measurement | None, version: Version) -> bool:
    """A measurement of the naive deployment under the load that the chosen one was chosen by."""
    if chosen is None or not is_naive(m, version.source_artifact):
        return False
    return (m.workload.arrival, m.workload.rate_rps) == (chosen.workload.arrival, chosen.workload.rate_rps)


def _commands(version: Version) -> tuple[tuple[str, str], ...]:
    return (
        ("measure and choose again", f"yard publish {version.ref}"),
        ("list the measurements", f"yard measurements ls {version.ref}"),
        ("deploy what was chosen", f"yard deploy {version.ref}"),
    )


def _write(path: Path, html: str) -> Path:
    """Write the report in one step, so that a full disk leaves no half one. Raises BackendFailed."""
    path = path.absolute()
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(html, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BackendFailed(
            f"the report cannot be written to {path}", why=str(error), hint="give another --html"
        ) from error
    return path
