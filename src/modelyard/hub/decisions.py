"""Decisions: what each publish of a version chose, and why."""

from __future__ import annotations

import uuid
from dataclasses import replace

from sqlalchemy import insert, select

from modelyard.domain.decision import Decision
from modelyard.domain.versions import ModelRef
from modelyard.hub.database import Database
from modelyard.hub.records import from_json, lock_model, timestamp, to_json, version_id
from modelyard.hub.schema import decisions
from modelyard.hub.values import Clock


class Decisions:
    """The decisions of the hub: append-only. Safe for use by many threads and processes at once."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def record(self, decision: Decision) -> Decision:
        """Keep a decision; an empty `id` or `created_at` is filled in. Raises NotFound for an unknown version."""
        new = replace(
            decision,
            id=decision.id or uuid.uuid4().hex,
            created_at=decision.created_at or timestamp(self._clock()),
        )
        with self._database.write() as connection:
            lock_model(connection, new.model)
            row = version_id(connection, ModelRef(new.model, version=new.version))
            values = {"id": new.id, "version_id": row, "body": to_json(new), "created_at": new.created_at}
            connection.execute(insert(decisions).values(values))
        return new

    def list(self, ref: ModelRef) -> list[Decision]:
        """The decisions of a version, oldest first. Raises NotFound."""
        with self._database.read() as connection:
            mine = decisions.c.version_id == version_id(connection, ref)
            bodies = connection.execute(select(decisions.c.body).where(mine).order_by(decisions.c.sequence)).all()
        return [from_json(row[0], Decision) for row in bodies]
