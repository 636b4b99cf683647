"""Conversions: every run of every route, with its proof, its failure and its log."""

from __future__ import annotations

import uuid
from dataclasses import replace

from sqlalchemy import insert, select

from modelyard.domain.artifacts import Conversion
from modelyard.domain.errors import Conflict
from modelyard.domain.versions import ModelRef
from modelyard.hub.database import Database
from modelyard.hub.records import from_json, lock_model, timestamp, to_json, version_id
from modelyard.hub.schema import conversions
from modelyard.hub.values import Clock


class Conversions:
    """The conversions of the hub: append-only. Safe for use by many threads and processes at once."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def record(self, conversion: Conversion) -> Conversion:
        """Keep a conversion; an empty `id` or `created_at` is filled in. Recording the same one again changes nothing.

        Raises NotFound for an unknown version, Conflict where another conversion has that id.
        """
        new = replace(
            conversion,
            id=conversion.id or f"cnv-{uuid.uuid4().hex[:20]}",
            created_at=conversion.created_at or timestamp(self._clock()),
        )
        with self._database.write() as connection:
            lock_model(connection, new.model)
            row = version_id(connection, ModelRef(new.model, version=new.version))
            body = connection.execute(select(conversions.c.body).where(conversions.c.id == new.id)).scalar()
            if body is not None:
                present = from_json(body, Conversion)
                if replace(conversion, created_at="") != replace(present, created_at=""):
                    raise Conflict(
                        f"conversion {new.id} is recorded already, with another content", hint="use a new id"
                    )
                return present
            connection.execute(
                insert(conversions).values(
                    id=new.id,
                    key=new.key,
                    version_id=row,
                    outcome=str(new.outcome),
                    body=to_json(new),
                    created_at=new.created_at,
                )
            )
        return new

    def find(self, key: str) -> Conversion | None:
        """The latest conversion with this key, of any version: it need not run again."""
        query = select(conversions.c.body).where(conversions.c.key == key).order_by(conversions.c.sequence.desc())
        with self._database.read() as connection:
            body = connection.execute(query.limit(1)).scalar()
        return None if body is None else from_json(body, Conversion)

    def list(self, ref: ModelRef) -> list[Conversion]:
        """The conversions of a version, oldest first. Raises NotFound."""
        with self._database.read() as connection:
            mine = conversions.c.version_id == version_id(connection, ref)
            bodies = connection.execute(select(conversions.c.body).where(mine).order_by(conversions.c.sequence)).all()
        return [from_json(row[0], Conversion) for row in bodies]
