"""Aliases: movable names of versions with an append-only history."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select, update

from modelyard.domain.errors import Conflict, NotFound
from modelyard.domain.versions import AliasEvent, ModelRef, check_name
from modelyard.hub.database import Database
from modelyard.hub.records import lock_model, timestamp, unknown_model, version_id
from modelyard.hub.schema import alias_events, aliases, models, versions
from modelyard.hub.values import Clock

SET, REMOVED, ROLLED_BACK = "set", "removed", "rolled-back"


class Aliases:
    """The aliases of the hub. Safe for use by many threads and processes at once."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def set(self, model: str, alias: str, number: int) -> AliasEvent:
        """Point `alias` at a version. Pointing it where it is already adds nothing to the history.

        Raises NotFound, InvalidInput.
        """
        check_name(alias, "alias")
        with self._database.write() as connection:
            model_id = lock_model(connection, model)
            row = version_id(connection, ModelRef(model, version=number))
            if current_number(connection, model_id, alias) == number:
                return _events(connection, model, model_id, alias)[-1]
            return self._move(connection, model, model_id, alias, (row, number), SET)

    def remove(self, model: str, alias: str) -> AliasEvent:
        """Remove an alias; its history stays. Raises NotFound."""
        with self._database.write() as connection:
            model_id = lock_model(connection, model)
            if current_number(connection, model_id, alias) is None:
                raise _unknown_alias(connection, model, alias)
            return remove_alias(connection, model, model_id, alias, timestamp(self._clock()))

    def rollback(self, model: str, alias: str) -> AliasEvent:
        """Point an alias at its previous target, or bring back a removed one; again goes further back.

        Targets deleted meanwhile are passed over. Raises NotFound; Conflict where there is nothing to go back to.
        """
        with self._database.write() as connection:
            model_id = lock_model(connection, model)
            events = _events(connection, model, model_id, alias)
            if not events:
                raise _unknown_alias(connection, model, alias)
            mine = versions.c.model_id == model_id
            present = {
                int(r.number): int(r.id)
                for r in connection.execute(select(versions.c.id, versions.c.number).where(mine))
            }
            number = _previous(events, present)
            if number is None:
                raise Conflict(
                    f"{model}@{alias} has no earlier version to go back to",
                    hint=f"run `yard models alias {model} {alias} <version>` to point it elsewhere",
                )
            return self._move(connection, model, model_id, alias, (present[number], number), ROLLED_BACK)

    def history(self, model: str, alias: str) -> list[AliasEvent]:
        """All that happened to an alias, oldest first. Raises NotFound."""
        with self._database.read() as connection:
            model_id = connection.execute(select(models.c.id).where(models.c.name == model)).scalar()
            if model_id is None:
                raise unknown_model(connection, model)
            events = _events(connection, model, int(model_id), alias)
            if not events:
                raise _unknown_alias(connection, model, alias)
            return events

    def list(self, model: str) -> dict[str, int]:
        """The aliases of a model and the versions they name. Raises NotFound."""
        query = select(aliases.c.alias, versions.c.number).join(versions).where(versions.c.model == model)
        with self._database.read() as connection:
            if connection.execute(select(models.c.id).where(models.c.name == model)).first() is None:
                raise unknown_model(connection, model)
            return {str(r.alias): int(r.number) for r in connection.execute(query.order_by(aliases.c.alias))}

    def _move(
        self, connection: Connection, model: str, model_id: int, alias: str, to: tuple[int, int], action: str
    ) -> AliasEvent:
        row, number = to
        previous = current_number(connection, model_id, alias)
        if previous is None:
            connection.execute(insert(aliases).values(model_id=model_id, alias=alias, version_id=row))
        else:
            mine = (aliases.c.model_id == model_id) & (aliases.c.alias == alias)
            connection.execute(update(aliases).where(mine).values(version_id=row))
        event = AliasEvent(model, alias, number, previous, action, timestamp(self._clock()))
        _append(connection, model_id, event)
        return event


def current_number(connection: Connection, model_id: int, alias: str) -> int | None:
    """The number of the version that an alias names now."""
    mine = (aliases.c.model_id == model_id) & (aliases.c.alias == alias)
    found = connection.execute(select(versions.c.number).join(aliases).where(mine)).scalar()
    return None if found is None else int(found)


def remove_alias(connection: Connection, model: str, model_id: int, alias: str, now: str) -> AliasEvent:
    """Remove a present alias of a locked model and note it in the history."""
    event = AliasEvent(model, alias, None, current_number(connection, model_id, alias), REMOVED, now)
    connection.execute(delete(aliases).where(aliases.c.model_id == model_id, aliases.c.alias == alias))
    _append(connection, model_id, event)
    return event


def _append(connection: Connection, model_id: int, event: AliasEvent) -> None:
    connection.execute(
        insert(alias_events).values(
            model_id=model_id,
            alias=event.alias,
            version=event.version,
            previous=event.previous,
            action=event.action,
            created_at=event.created_at,
        )
    )


def _events(connection: Connection, model: str, model_id: int, alias: str) -> list[AliasEvent]:
    mine = (alias_events.c.model_id == model_id) & (alias_events.c.alias == alias)
    rows = connection.execute(select(alias_events).where(mine).order_by(alias_events.c.id))
    return [AliasEvent(model, alias, r.version, r.previous, r.action, r.created_at) for r in rows]


def _previous(events: Sequence[AliasEvent], present: dict[int, int]) -> int | None:
    """Replay the history as an undo stack; the target below the present one that still exists."""
    stack: list[int | None] = []
    for event in events:
        if event.action == ROLLED_BACK:
            while stack and stack[-1] != event.version:
                stack.pop()
        else:
            stack.append(event.version)
    current = stack.pop() if stack else None
    while stack:
        number = stack.pop()
        if number in present and number != current:
            return number
    return None


def _unknown_alias(connection: Connection, model: str, alias: str) -> NotFound:
    query = select(aliases.c.alias).join(versions).where(versions.c.model == model).order_by(aliases.c.alias)
    known = ", ".join(str(row[0]) for row in connection.execute(query))
    return NotFound(f"{model} has no alias '{alias}'", hint=f"it has {known}" if known else "it has no alias yet")
