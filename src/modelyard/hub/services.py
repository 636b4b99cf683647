"""Services: which configuration runs under which name."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from modelyard.domain.errors import Conflict, NotFound
from modelyard.domain.services import Service
from modelyard.domain.versions import ModelRef, check_name
from modelyard.hub.database import Database
from modelyard.hub.records import from_json, lock_model, to_json, version_id
from modelyard.hub.schema import services


class Services:
    """The services of the hub, by name. A version with a service cannot be deleted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, service: Service) -> Service:
        """Keep a service, or what changed of it; it is the same one while its `created_at` is the same.

        Raises NotFound for an unknown version, Conflict where another service has the name.
        """
        check_name(service.name, "service")
        with self._database.write() as connection:
            lock_model(connection, service.model)
            row = version_id(connection, ModelRef(service.model, version=service.version))
            values = {"version_id": row, "artifact_id": service.configuration.artifact, "body": to_json(service)}
            present = _get(connection, service.name)
            if present is None:
                connection.execute(insert(services).values(name=service.name, created_at=service.created_at, **values))
            elif present.created_at == service.created_at:
                connection.execute(update(services).where(services.c.name == service.name).values(values))
            else:
                raise Conflict(
                    f"the service name '{service.name}' is taken by {present.model}:{present.version}",
                    hint=f"run `yard services stop {service.name}` first, or choose another name",
                )
        return service

    def get(self, name: str) -> Service:
        """The service with this name. Raises NotFound."""
        with self._database.read() as connection:
            found = _get(connection, name)
        if found is None:
            raise _unknown(name)
        return found

    def list(self) -> list[Service]:
        """All services, by name."""
        with self._database.read() as connection:
            bodies = connection.execute(select(services.c.body).order_by(services.c.name)).all()
        return [from_json(row[0], Service) for row in bodies]

    def remove(self, name: str) -> Service:
        """Forget a service and return what it was. Raises NotFound."""
        with self._database.write() as connection:
            found = _get(connection, name)
            if found is None:
                raise _unknown(name)
            connection.execute(delete(services).where(services.c.name == name))
        return found


def owners(connection: Connection) -> list[tuple[str, int, str]]:
    """Of every service: its name, and the version's row and the artifact that it runs from; one for each version."""
    found = []
    for row in connection.execute(select(services).order_by(services.c.name)):
        found.append((str(row.name), int(row.version_id), str(row.artifact_id)))
        service = from_json(row.body, Service)
        for other in service.others:
            ref = ModelRef(service.model, version=other.version)
            found.append((service.name, version_id(connection, ref), other.configuration.artifact))
    return found


def _get(connection: Connection, name: str) -> Service | None:
    body = connection.execute(select(services.c.body).where(services.c.name == name)).scalar()
    return None if body is None else from_json(body, Service)


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no service '{name}'", hint="run `yard services ls` to see what runs")
