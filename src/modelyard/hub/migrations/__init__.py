"""Migrations of the hub's database, shipped in the package and run when a hub is opened."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from modelyard.domain.errors import BackendFailed

HEAD = "0003"
"""The newest revision; known here so that opening an up-to-date hub need not load Alembic."""
_LOCK = 0x6D6F64656C  # any constant: the advisory lock of hub migrations on PostgreSQL


def up_to_date(connection: Connection) -> bool:
    """Whether the database needs no migration."""
    return _revision(connection) == HEAD


def migrate(connection: Connection) -> None:
    """Bring the database to HEAD inside the caller's write transaction; one process at a time.

    On SQLite the caller's write lock keeps others out, on PostgreSQL an advisory lock does.
    Raises BackendFailed where the database was written by a newer Modelyard.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    present = _revision(connection)
    if present == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    if present is not None:
        try:
            ScriptDirectory.from_config(config).get_revision(present)
        except CommandError as error:
            raise BackendFailed(
                "this hub was written by a newer Modelyard",
                why=f"its database is at revision {present}, this installation knows up to {HEAD}",
                hint="upgrade Modelyard: pip install --upgrade modelyard",
            ) from error
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return str(found) if found is not None else None
