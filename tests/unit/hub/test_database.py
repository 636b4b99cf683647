"""The database: migrated once, durable settings, and one clear error for each way it can fail."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text

from modelyard.domain.errors import BackendFailed, InvalidInput, ModelyardError, Unavailable
from modelyard.domain.versions import Description, ModelRef
from modelyard.hub import Hub, database, migrations
from modelyard.hub.database import Database
from modelyard.hub.records import to_json
from modelyard.hub.schema import metadata
from tests.builders import measurement
from tests.contract.hub_content import Clock, Place, definition, study, trial


@pytest.fixture
def place(tmp_path: Path) -> Place:
    hub = Hub.open(f"sqlite:///{tmp_path}/hub.db", str(tmp_path / "blobs"), tmp_path / "cache", Clock())
    return Place(hub, f"sqlite:///{tmp_path}/hub.db", str(tmp_path / "blobs"), tmp_path, Clock())


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_migrations_make_the_schema_that_the_code_uses(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/x.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    opened = Database.open(url)
    with opened.read() as connection:
        options = {"include_name": lambda name, kind, _: not (kind == "table" and name.startswith("version_text"))}
        difference = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    opened.close()
    assert difference == []


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == migrations.HEAD


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_a_hub_of_an_older_modelyard_is_migrated_with_what_it_has(
    revision: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/x.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    engine = create_engine(url)
    with engine.begin() as connection:
        _migrate_to(revision, connection)
        assert not inspect(connection).has_table("studies")
        _insert_a_measured_version(connection)
    engine.dispose()
    with Hub.open(url, str(tmp_path / "blobs"), tmp_path / "cache", Clock()) as hub:
        ref = ModelRef("digits", version=1)
        assert hub.versions.get(ref).definition == definition()
        assert hub.measurements.list(ref) == [measurement("msr-old")]
        kept = hub.studies.save(study(hub.versions.get(ref), trials=(trial(1, measurements=("msr-old",)),)))
        assert hub.studies.latest(ref) == kept
        assert hub.versions.delete(ref).studies == 1


def _migrate_to(revision: str, connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _insert_a_measured_version(connection: Connection) -> None:
    """One version and one measurement, by the columns that the first schema has."""
    old = {"created_at": "2026-11-22T00:00:00.000000+00:00"}
    m = measurement("msr-old")
    rows: dict[str, dict[str, object]] = {
        "models": {"id": 1, "name": "digits", "last_number": 1, **old},
        "versions": {
            "id": 1, "model_id": 1, "model": "digits", "number": 1, "digest": "d", "task": "", "framework": "pytorch",
            "source_artifact": "a0", **old,
        },
        "version_details": {
            "version_id": 1, "definition": to_json(definition()), "description": to_json(Description()),
        },
        "measurements": {
            "id": m.id, "version_id": 1, "artifact_id": "a1", "format": "onnx", "runtime": "onnxruntime",
            "purpose": "", "fingerprint": m.fingerprint.id, "validity": "valid", "configuration_digest": "c",
            "workload_digest": "w", "samples_bytes": 0, "body": to_json(m), **old,
        },
    }  # fmt: skip
    for table, values in rows.items():
        names = ", ".join(values)
        connection.execute(text(f"INSERT INTO {table} ({names}) VALUES (:{', :'.join(values)})"), values)


def test_sqlite_commits_are_durable_and_keys_are_kept(place: Place) -> None:
    with place.hub._database.read() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("synchronous", "journal_mode", "foreign_keys")
        }
    wal_is_safe = sqlite3.sqlite_version_info >= (3, 51, 3)
    assert found == {"synchronous": 2, "journal_mode": "wal" if wal_is_safe else "truncate", "foreign_keys": 1}


def test_a_locked_database_is_unavailable_for_writers_and_open_to_readers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = place.register()
    place.hub.close()
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.1)
    blocker = sqlite3.connect(place.directory / "hub.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with Hub.open(place.database_url, place.blobs_url, place.directory / "c", place.clock) as hub:
        assert hub.versions.list("digits") == [version]
        with pytest.raises(Unavailable, match="locked") as caught:
            hub.aliases.set("digits", "production", 1)
        assert caught.value.retry_after_s
        blocker.execute("ROLLBACK")
        hub.aliases.set("digits", "production", 1)
    blocker.close()


def test_a_full_database_is_one_clear_error_and_loses_nothing(place: Place) -> None:
    version = place.register()
    with place.hub._database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    @database.event.listens_for(place.hub._database._engine, "checkout")
    def _limit(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(BackendFailed, match="disk is full") as caught:
        place.register(content=b"two", description=Description(card="word " * 50_000))
    assert "free space" in caught.value.hint
    database.event.remove(place.hub._database._engine, "checkout", _limit)
    with place.reopen() as hub:
        assert hub.versions.list("digits") == [version]
        assert hub.gc(dry_run=True).blobs == 0


def test_a_read_only_database_can_be_read(place: Place) -> None:
    place.register()
    place.hub.close()
    opened = Database.open(f"sqlite:///file:{place.directory}/hub.db?mode=ro&uri=true")
    with opened.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM versions")).scalar() == 1
    with pytest.raises(BackendFailed, match="read-only"), opened.write() as connection:
        connection.execute(text("DELETE FROM versions"))
    opened.close()


def test_a_damaged_file_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "hub.db").write_bytes(b"this is no database " * 100)
    with pytest.raises(BackendFailed, match="damaged"):
        Database.open(f"sqlite:///{tmp_path}/hub.db")


def test_a_hub_of_a_newer_modelyard_is_left_alone(place: Place) -> None:
    with place.hub._database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(BackendFailed, match="newer Modelyard") as caught:
        place.reopen()
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("nonsense", InvalidInput),
        ("sqlite://", InvalidInput),
        ("mysql://host/db", ModelyardError),
        ("postgresql://u:hidden-secret@127.0.0.1:1/x", Unavailable),
        ("oracle9000://u:hidden-secret@host/x", InvalidInput),
    ],
)
def test_a_wrong_database_url_is_told_without_its_password(url: str, kind: type[ModelyardError]) -> None:
    with pytest.raises(kind) as caught:
        Database.open(url)
    assert caught.value.hint
    assert "hidden-secret" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_many_processes_may_make_the_hub_at_once(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path}/x.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    code = "import sys; from modelyard.hub.database import Database; input(); Database.open(sys.argv[1]).close()"
    children = [
        subprocess.Popen([sys.executable, "-c", code, url], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
    assert [child.communicate(timeout=60)[1] for child in children] == [b""] * 4
    assert [child.returncode for child in children] == [0] * 4
