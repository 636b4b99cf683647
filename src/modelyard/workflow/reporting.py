"""HTML reports from the evidence in the hub: of a version, of measurements, of two of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelyard.domain.configuration import Slo
from modelyard.domain.errors import BackendFailed, NotFound
from modelyard.domain.measurement import Measurement
from modelyard.domain.study import Study
from modelyard.domain.versions import ModelRef, Version
from modelyard.hub import Hub
from modelyard.profile import Price, compare
from modelyard.profile.report import ReportData, render_html
from modelyard.profile.report_measured import Measured, MeasurementsData, render_measurements
from modelyard.profile.report_study import StudyData, render_study
from modelyard.workflow import study_words
from modelyard.workflow.comparing import comparable
from modelyard.workflow.writing import whole_file


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
            met=decision.met if decision else None,
            naive=decision.naive if decision else None,
            reason=decision.reason if decision else "nothing has been published yet",
            slo=decision.slo if decision else version.definition.slo,
            cost_ratio=decision.cost_ratio if decision else None,
            service=services[0] if services else None,
            commands=_commands(version),
            price=self.price,
        )
        return _write(path, render_html(data))

    def write_measurements(self, measurements: Sequence[Measurement], path: Path) -> Path:
        """The report of measurements, in their order. Raises BackendFailed."""
        ids = " ".join(f"--measurement {m.id}" for m in measurements)
        versions = sorted({f"{m.model}:{m.version}" for m in measurements})
        count = len(measurements)
        data = MeasurementsData(
            title=f"{count} measurement{'s' if count != 1 else ''} of {', '.join(versions) or 'nothing'}",
            subtitle=_made(measurements),
            measured=self._measured(tuple(measurements)),
            price=self.price,
            slo=self._slo(measurements),
            commands=(
                ("write this report again", f"yard report {ids} --html {path.name}"),
                *_inspection(measurements),
            ),
        )
        return _write(path, render_measurements(data))

    def write_comparison(self, a: str, b: str, path: Path) -> Path:
        """The report of two measurements, or of what was chosen of two versions, side by side.

        Raises NotFound; InvalidInput for an ambiguous id; BackendFailed.
        """
        left, right = comparable(self.hub, a, b)
        measured = self._measured((left, right))
        comparison, why_not = None, "; ".join(dict.fromkeys(measured.missing.values()))
        if not why_not:
            comparison = compare(left, measured.samples[left.id], right, measured.samples[right.id])
        data = MeasurementsData(
            title=f"{a} and {b}",
            subtitle=f"A is {left.configuration.label} of {left.model}:{left.version}, "
            f"B is {right.configuration.label} of {right.model}:{right.version}.",
            measured=measured,
            price=self.price,
            slo=self._slo((left, right)),
            compared=True,
            comparison=comparison,
            why_not=why_not,
            commands=(
                ("write this report again", f"yard report --compare {a} {b} --html {path.name}"),
                ("the differences alone", f"yard measurements compare {left.id} {right.id}"),
                *_inspection((left, right)),
            ),
        )
        return _write(path, render_measurements(data))

    def write_study(self, study: Study, path: Path) -> Path:
        """The report of a study: what it found, every trial, plots. Raises BackendFailed."""
        named = {m for trial in study.trials if trial.result for m in trial.result.measurements}
        measured = (self.hub.measurements.get(name) for name in sorted(named))
        deploy, short = study_words.deploy_command(study), study.id[: study_words.SHORT_ID]
        data = StudyData(
            study=study,
            answer=tuple(study_words.answer(study)),
            outcomes=tuple(study_words.outcome(trial) for trial in study.trials),
            nodes=tuple({m.fingerprint.id: m.fingerprint for m in measured}.values()),
            commands=(
                *((("deploy what was found", deploy),) if deploy else ()),
                *((("go on with it", study_words.resume_command(study)),) if study.answer is None else ()),
                ("write this report again", f"yard studies show {short} --html {path.name}"),
            ),
            load=study_words.load(study),
        )
        return _write(path, render_study(data))

    def _slo(self, measurements: Sequence[Measurement]) -> Slo | None:
        """The target of the measurements' versions, where they have the same one."""
        refs = {(m.model, m.version) for m in measurements}
        found = {self.hub.versions.get(ModelRef(model, version=number)).definition.slo for model, number in refs}
        return found.pop() if len(found) == 1 else None

    def _measured(self, measurements: tuple[Measurement, ...]) -> Measured:
        """Measurements with their raw samples; one whose samples are gone or damaged is shown without, and told."""
        samples, missing = {}, {}
        for m in measurements:
            try:
                samples[m.id] = self.hub.measurements.samples(m)
            except (NotFound, BackendFailed) as error:
                missing[m.id] = f"{error.what}: {error.why}" if error.why else error.what
        return Measured(measurements, samples, missing)


def _made(measurements: Sequence[Measurement]) -> str:
    days = sorted({m.created_at[:10] for m in measurements if m.created_at})
    return f"Measured on {' to '.join(dict.fromkeys((days[0], days[-1])))}." if days else ""


def _inspection(measurements: Sequence[Measurement]) -> tuple[tuple[str, str], ...]:
    """How to look closer, and at every request."""
    if not measurements:
        return ()
    ids = " ".join(f"--measurement {m.id}" for m in measurements)
    return (
        ("everything about one", f"yard measurements show {measurements[0].id}"),
        ("every request", f"yard measurements export {ids} --out samples.parquet"),
    )


def _commands(version: Version) -> tuple[tuple[str, str], ...]:
    return (
        ("measure and choose again", f"yard publish {version.ref}"),
        ("list the measurements", f"yard measurements ls {version.ref}"),
        ("deploy what was chosen", f"yard deploy {version.ref}"),
    )


def _write(path: Path, html: str) -> Path:
    with whole_file(path, "--html") as part:
        part.write_text(html, encoding="utf-8")
    return path.absolute()
