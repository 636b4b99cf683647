"""The HTML report of a version, from the evidence in the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from modelyard.domain.errors import BackendFailed, NotFound
from modelyard.domain.measurement import Measurement
from modelyard.domain.versions import ModelRef, Version
from modelyard.hub import Hub
from modelyard.profile import Price
from modelyard.profile.report import ReportData, render_html
from modelyard.profile.report_measured import Measured


@dataclass(frozen=True)
class Reporting:
    """Writes reports; everything in them is read from the hub. `price` is the one of the settings."""

    hub: Hub
    price: Price

    def write(self, version: Version, path: Path) -> Path:
        """The report of a version: its conversions, its last decision, all that was measured. Raises BackendFailed."""
        ref = ModelRef(version.model, version.number)
        decisions = self.hub.decisions.list(ref)
        decision = decisions[-1] if decisions else None
        measured = tuple(m for m in self.hub.measurements.list(ref) if not decision or m.id in decision.considered)
        services = [s for s in self.hub.services.list() if (s.model, s.version) == (version.model, version.number)]
        data = ReportData(
            version=version,
            conversions=tuple(self.hub.conversions.list(ref)),
            measured=self._measured(measured),
            chosen=decision.chosen if decision else None,
            naive=decision.naive if decision else None,
            reason=decision.reason if decision else "nothing has been published yet",
            slo=decision.slo if decision else version.definition.slo,
            cost_ratio=decision.cost_ratio if decision else None,
            service=services[0] if services else None,
            commands=_commands(version),
            price=self.price,
        )
        return _write(path, render_html(data))

    def _measured(self, measurements: tuple[Measurement, ...]) -> Measured:
        """Measurements with their raw samples; one whose samples are gone or damaged is shown without, and told."""
        samples, missing = {}, {}
        for m in measurements:
            try:
                samples[m.id] = self.hub.measurements.samples(m)
            except (NotFound, BackendFailed) as error:
                missing[m.id] = f"{error.what}: {error.why}" if error.why else error.what
        return Measured(measurements, samples, missing)


def _commands(version: Version) -> tuple[tuple[str, str], ...]:
    return (
        ("measure and choose again", f"yard publish {version.ref}"),
        ("list the measurements", f"yard measurements ls {version.ref}"),
        ("deploy what was chosen", f"yard deploy {version.ref}"),
    )


def _write(path: Path, html: str) -> Path:
    """Write the report in one step, so that a full disk leaves no half one. Raises BackendFailed."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
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
