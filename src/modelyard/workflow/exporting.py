"""Measurements written for other programs, by id or all of a version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelyard.domain.errors import BackendFailed, InvalidInput, NotFound
from modelyard.domain.measurement import Measurement
from modelyard.domain.versions import ModelRef
from modelyard.hub import Hub
from modelyard.profile.export import ExportFormat, csv_text, json_text, write_parquet
from modelyard.workflow.writing import whole_file


@dataclass(frozen=True, slots=True)
class Exported:
    """A file of measurements. `rows` are measurements, or requests in a Parquet file.

    `left_out` says for each measurement without raw samples, by id, why it is not in the Parquet file.
    """

    path: str
    format: ExportFormat
    measurements: int
    rows: int
    left_out: tuple[tuple[str, str], ...] = ()


def format_of(path: Path, named: str | None) -> ExportFormat:
    """The format that is named, else the one of the file's suffix. Raises InvalidInput."""
    word = named if named is not None else path.suffix.removeprefix(".").lower()
    if word in list(ExportFormat):
        return ExportFormat(word)
    known = ", ".join(ExportFormat)
    if named is not None:
        raise InvalidInput(f"'{named}' is not a format of exports", hint=f"write one of {known}")
    raise InvalidInput(f"{path.name} does not say in which format", hint=f"add --format ({known}), or such a suffix")


@dataclass(frozen=True)
class Exporting:
    """Writes measurements of the hub to files."""

    hub: Hub

    def select(self, ref: str | None, ids: Sequence[str]) -> tuple[Measurement, ...]:
        """All measurements of a version, or those with the ids, once each.

        Raises NotFound; InvalidInput for both or neither, and for an ambiguous id.
        """
        if (ref is None) == (not ids):
            raise InvalidInput("which measurements?", hint="give a version (digits:3), or ids with --measurement")
        if ref is not None:
            return tuple(self.hub.measurements.list(ModelRef.parse(ref)))
        return tuple({m.id: m for m in map(self.hub.measurements.get, ids)}.values())

    def write(self, measurements: Sequence[Measurement], path: Path, format_: ExportFormat) -> Exported:
        """Write the file. Raises BackendFailed; for Parquet Unsupported without pyarrow, NotFound without samples."""
        if format_ is ExportFormat.PARQUET:
            return self._samples(measurements, path)
        text = csv_text(measurements) if format_ is ExportFormat.CSV else json_text(measurements)
        with whole_file(path, "--out") as part:
            # csv ends its lines itself
            part.write_text(text, encoding="utf-8", newline="")
        return Exported(str(path.absolute()), format_, len(measurements), len(measurements))

    def _samples(self, measurements: Sequence[Measurement], path: Path) -> Exported:
        found: list[tuple[Measurement, Path]] = []
        left_out: list[tuple[str, str]] = []
        for m in measurements:
            try:
                found.append((m, self.hub.measurements.samples(m)))
            except (NotFound, BackendFailed) as error:
                left_out.append((m.id, str(error)))
        if not found:
            why = left_out[0][1] if left_out else "nothing was measured"
            raise NotFound(
                "there are no raw samples to export", why=why, hint="measure again: yard profile REF --again"
            )
        with whole_file(path, "--out") as part:
            rows = write_parquet(part, found)
        return Exported(str(path.absolute()), ExportFormat.PARQUET, len(found), rows, tuple(left_out))
