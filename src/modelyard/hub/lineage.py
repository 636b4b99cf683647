"""Lineage: where a version's artifacts come from, what was measured on them, which version replaced which."""

from __future__ import annotations

from sqlalchemy import Connection, or_, select

from modelyard.domain.artifacts import Conversion
from modelyard.domain.decision import Decision
from modelyard.domain.measurement import Measurement
from modelyard.domain.versions import ModelRef
from modelyard.hub.records import from_json, load_artifacts, load_version, version_id
from modelyard.hub.schema import alias_events, artifacts, conversions, decisions, measurements, studies, versions
from modelyard.hub.services import owners
from modelyard.hub.studies import load_studies
from modelyard.hub.values import Lineage, Replacement


def load_lineage(connection: Connection, ref: ModelRef) -> Lineage:
    """The lineage of the version that `ref` names. Raises NotFound."""
    row = version_id(connection, ref)
    tried = select(conversions.c.body).where(conversions.c.version_id == row).order_by(conversions.c.sequence)
    measured = select(measurements.c.body).where(measurements.c.version_id == row).order_by(measurements.c.sequence)
    decided = select(decisions.c.body).where(decisions.c.version_id == row).order_by(decisions.c.sequence)
    return Lineage(
        version=load_version(connection, ref),
        artifacts=tuple(load_artifacts(connection, artifacts.c.version_id == row)),
        conversions=tuple(from_json(r[0], Conversion) for r in connection.execute(tried)),
        measurements=tuple(from_json(r[0], Measurement) for r in connection.execute(measured)),
        decisions=tuple(from_json(r[0], Decision) for r in connection.execute(decided)),
        studies=tuple(load_studies(connection, studies.c.version_id == row)),
        services=tuple(name for name, version, _ in owners(connection) if version == row),
        replacements=_replacements(connection, row),
    )


def _replacements(connection: Connection, row: int) -> tuple[Replacement, ...]:
    model, number = connection.execute(select(versions.c.model_id, versions.c.number).where(versions.c.id == row)).one()
    e = alias_events.c
    query = select(e.alias, e.version, e.previous, e.created_at).where(
        e.model_id == model,
        e.version.is_not(None),
        e.previous.is_not(None),
        or_(e.version == number, e.previous == number),
    )
    rows = connection.execute(query.order_by(e.id))
    return tuple(Replacement(r.alias, int(r.version), int(r.previous), r.created_at) for r in rows)
