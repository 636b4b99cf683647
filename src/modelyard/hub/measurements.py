"""Measurements: the numbers, what they were made on, and their raw samples."""

from __future__ import annotations

import uuid
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection, Select, insert, select

from modelyard.domain.errors import Conflict, NotFound
from modelyard.domain.measurement import Measurement
from modelyard.domain.versions import ModelRef
from modelyard.hub.cache import Cache
from modelyard.hub.database import Database
from modelyard.hub.files import LocalFile
from modelyard.hub.records import (
    LEAST_PREFIX,
    content_digest,
    from_json,
    lock_model,
    only_with_prefix,
    timestamp,
    to_json,
    version_id,
)
from modelyard.hub.schema import measurements, versions
from modelyard.hub.values import Clock, MeasurementQuery
from modelyard.hub.vault import Vault


class Measurements:
    """The measurements of the hub: append-only. Safe for use by many threads and processes at once."""

    def __init__(self, database: Database, vault: Vault, cache: Cache, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._cache = cache
        self._clock = clock

    def record(self, measurement: Measurement, samples: Path | None) -> Measurement:
        """Keep a measurement with its raw samples; empty `id`, `created_at` and `samples` are filled in.

        Recording the same id again changes nothing. Raises NotFound for an unknown version, Conflict where
        another measurement has that id.
        """
        local = None if samples is None else LocalFile.read("samples", samples)
        new = replace(
            measurement,
            id=measurement.id or f"msr-{uuid.uuid4().hex[:20]}",
            created_at=measurement.created_at or timestamp(self._clock()),
            samples=local.entry.digest if local else "",
        )
        holding = self._vault.stored([local]) if local else nullcontext()
        with holding as held, self._database.write() as connection:
            lock_model(connection, new.model)
            row = version_id(connection, ModelRef(new.model, version=new.version))
            present = _get(connection, new.id)
            if present is None:
                _insert(connection, row, new, local.entry.size_bytes if local else 0)
            elif replace(present, created_at="") != replace(new, created_at=""):
                raise Conflict(f"measurement {new.id} is recorded already, with another content", hint="use a new id")
            if held is not None:
                held.confirm(connection)
        return present or new

    def get(self, measurement_id: str) -> Measurement:
        """The measurement with this id, or the only one whose id begins so (six characters at least).

        Raises NotFound; InvalidInput where several begin so.
        """
        with self._database.read() as connection:
            found = _get(connection, measurement_id)
            if found is None:
                only = only_with_prefix(connection, measurements.c.id, measurement_id, "measurements")
                found = _get(connection, only) if only else None
        if found is None:
            raise NotFound(
                f"there is no measurement '{measurement_id}'",
                hint=f"yard measurements ls REF shows the ids; their first {LEAST_PREFIX} characters may do",
            )
        return found

    def find(self, query: MeasurementQuery) -> list[Measurement]:
        """The measurements that `query` asks for, newest first."""
        statement = _statement(query).order_by(measurements.c.sequence.desc()).limit(query.limit)
        with self._database.read() as connection:
            bodies = connection.execute(statement).all()
        return [from_json(row[0], Measurement) for row in bodies]

    def list(self, ref: ModelRef) -> list[Measurement]:
        """The measurements of a version, oldest first. Raises NotFound."""
        with self._database.read() as connection:
            mine = measurements.c.version_id == version_id(connection, ref)
            query = select(measurements.c.body).where(mine).order_by(measurements.c.sequence)
            bodies = connection.execute(query).all()
        return [from_json(row[0], Measurement) for row in bodies]

    def samples(self, measurement: Measurement) -> Path:
        """A read-only local copy of a measurement's raw samples, verified. Raises NotFound, BackendFailed."""
        if not measurement.samples:
            raise NotFound(
                f"measurement {measurement.id} has no raw samples", hint="measure again; samples are kept by default"
            )
        return self._cache.blob(measurement.samples)


def _get(connection: Connection, measurement_id: str) -> Measurement | None:
    query = select(measurements.c.body).where(measurements.c.id == measurement_id)
    body = connection.execute(query).scalar()
    return None if body is None else from_json(body, Measurement)


def _insert(connection: Connection, row: int, new: Measurement, samples_bytes: int) -> None:
    configuration = new.configuration
    connection.execute(
        insert(measurements).values(
            id=new.id,
            version_id=row,
            artifact_id=configuration.artifact,
            format=configuration.target.format,
            runtime=configuration.runtime,
            purpose=new.purpose,
            fingerprint=new.fingerprint.id,
            validity=str(new.verdict.validity),
            configuration_digest=content_digest(configuration),
            workload_digest=content_digest(new.workload),
            samples=new.samples or None,
            samples_bytes=samples_bytes,
            body=to_json(new),
            created_at=new.created_at,
        )
    )


def _statement(query: MeasurementQuery) -> Select[str]:
    m, q = measurements.c, query
    exact = [
        (versions.c.model, q.model),
        (versions.c.number, q.version),
        (m.artifact_id, q.artifact),
        (m.format, q.format),
        (m.runtime, q.runtime),
        (m.purpose, q.purpose),
        (m.fingerprint, q.fingerprint),
        (m.validity, None if q.validity is None else str(q.validity)),
        (m.configuration_digest, None if q.configuration is None else content_digest(q.configuration)),
        (m.workload_digest, None if q.workload is None else content_digest(q.workload)),
    ]
    statement = select(m.body).join(versions)
    for column, wanted in exact:
        if wanted is not None:
            statement = statement.where(column == wanted)
    return statement
