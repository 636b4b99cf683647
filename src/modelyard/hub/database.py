"""The metadata database: engine, durable settings, transactions, and its failures as the hub's errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from modelyard.domain.errors import BackendFailed, Conflict, InvalidInput, ModelyardError, Unavailable, Unsupported
from modelyard.hub.migrations import migrate, up_to_date
from modelyard.hub.schema import hub_identity

BUSY_TIMEOUT_S = 4.0
"""How long a transaction waits for another one's lock before it reports the database as locked."""
WAL_SAFE_SINCE = (3, 51, 3)
"""Older SQLite can corrupt a WAL database when two connections reset the log at once (design, section 5)."""


class Database:
    """Transactions on the metadata database. Safe for use by many threads; processes share it through the database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Database:
        """Connect and migrate. Raises InvalidInput, Unsupported, BackendFailed, Unavailable."""
        try:
            parsed = make_url(url)
            engine = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _server(parsed)
        except (ArgumentError, NoSuchModuleError) as error:
            raise InvalidInput(
                f"'{_shown(url)}' is not a database URL",
                why=str(error),
                hint="write sqlite:////path/to/hub.db or postgresql://user@host/database",
            ) from error
        except ModuleNotFoundError as error:
            raise Unsupported(
                "this database needs a driver that is not installed",
                why=str(error),
                hint="pip install 'modelyard[postgres]'",
            ) from error
        database = cls(engine)
        try:
            # Look first: an up-to-date hub opens without the write lock, also while another process holds it.
            with database.read() as connection:
                current = up_to_date(connection)
            if not current:
                with database.write() as connection:
                    migrate(connection)
        except BaseException:
            database.close()
            raise
        return database

    def identity(self) -> str:
        """The id that this hub got when it was made; it moves with the database."""
        with self.read() as connection:
            return str(connection.execute(select(hub_identity.c.id)).scalar_one())

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads; keep it short, a SQLite writer waits for it."""
        with self._transaction("read") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: committed durably on the way out, rolled back on an error.

        On SQLite it holds the one write lock from its start, so that it never fails half-way for want of it.
        """
        with self._transaction("write") as connection:
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, mode: str) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(hub_mode=mode) as connection, connection.begin():
                yield connection
        except DBAPIError as error:
            raise _failure(error, self.dialect) from error
        except PoolTimeout as error:
            raise Unavailable("all database connections are in use", hint="try again", retry_after_s=1.0) from error


def _sqlite(url: URL) -> Engine:
    place = str(url.database or "")
    if place in ("", ":memory:"):
        raise InvalidInput("the hub needs a database file", hint="write sqlite:////path/to/hub.db")
    try:
        if not place.startswith("file:"):
            Path(place).absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackendFailed(
            f"cannot make the folder of {place}", why=str(error), hint="set MODELYARD_HOME to a writable folder"
        ) from error
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, pool_timeout=10)

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions on its own; `_begin` does
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        # TRUNCATE and not DELETE: under FULL the truncation is synced, an unlinked journal's directory is not,
        # and a journal that comes back after a power cut undoes the last commit.
        mode = "WAL" if sqlite3.sqlite_version_info >= WAL_SAFE_SINCE else "TRUNCATE"
        connection.execute(f"PRAGMA journal_mode = {mode}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("hub_mode") == "write"
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _server(url: URL) -> Engine:
    if url.get_backend_name() != "postgresql":
        raise InvalidInput(
            f"the hub cannot use {url.get_backend_name()}", hint="write sqlite:////path or postgresql://host/database"
        )
    return create_engine(url, connect_args={"connect_timeout": 5}, pool_pre_ping=True, pool_timeout=10)


def _shown(url: str) -> str:
    """The URL without what may be a password."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://...@{tail}" if at else url


def _failure(error: DBAPIError, dialect: str) -> ModelyardError:
    why = str(error.orig).strip()
    if dialect == "sqlite":
        return _sqlite_failure(getattr(error.orig, "sqlite_errorname", "") or "", why, error)
    return _postgres_failure(getattr(error.orig, "sqlstate", None), why, error)


def _sqlite_failure(name: str, why: str, error: DBAPIError) -> ModelyardError:
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Unavailable(
            "the hub's database is locked by another process",
            why=why,
            hint="try again; if it stays locked, find who holds it with `fuser` on the database file",
            retry_after_s=1.0,
        )
    if name.startswith("SQLITE_READONLY"):
        return BackendFailed(
            "the hub's database is read-only", why=why, hint="check owner and mode of the database file and its folder"
        )
    if name.startswith("SQLITE_FULL"):
        return BackendFailed(
            "the disk is full: the hub's database cannot grow",
            why=why,
            hint="free space, then try again; nothing half-made was kept",
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return BackendFailed(
            "the hub's database file is damaged or no database",
            why=why,
            hint="restore it from a backup, or set MODELYARD_HOME to a new folder",
        )
    if name.startswith("SQLITE_CANTOPEN"):
        return BackendFailed(
            "the hub's database file cannot be opened", why=why, hint="check that its folder exists and is writable"
        )
    return _other(why, error)


def _postgres_failure(state: str | None, why: str, error: DBAPIError) -> ModelyardError:
    if error.connection_invalidated or state is None or state.startswith(("08", "57P", "53300")):
        return Unavailable(
            "the hub's database server cannot be reached",
            why=why,
            hint="check that PostgreSQL runs and the database URL, then try again",
            retry_after_s=5.0,
        )
    if state in ("40001", "40P01", "55P03"):
        return Unavailable("another writer was in the way", why=why, hint="try again", retry_after_s=0.5)
    if state == "53100":
        return BackendFailed(
            "the database server's disk is full", why=why, hint="free space there; nothing half-made was kept"
        )
    if state == "25006":
        return BackendFailed(
            "the hub's database is read-only", why=why, hint="connect to the primary, or end its read-only mode"
        )
    if state.startswith(("28", "3D", "42501")):
        return BackendFailed(
            "the database server refused the hub", why=why, hint="check user, password, database name and its grants"
        )
    return _other(why, error)


def _other(why: str, error: DBAPIError) -> ModelyardError:
    if isinstance(error, IntegrityError):
        return Conflict("another writer changed the same thing meanwhile", why=why, hint="look again, then try again")
    return BackendFailed("the hub's database failed", why=why, hint="run `yard doctor`")


def rows_changed(result: Any) -> int:
    """How many rows an UPDATE or DELETE touched."""
    return int(result.rowcount)
