"""The tables of the hub. Changed only together with a migration; a test compares the two.

`versions` is slim on purpose: listing and searching walk it, the long texts live in `version_details`.
Timestamps are ISO 8601 texts in UTC; nested values are JSON texts of the domain's dataclasses.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_id = BigInteger().with_variant(Integer(), "sqlite")


def _version_key(*, primary: bool = False) -> Column[int]:
    return Column("version_id", _id, ForeignKey("versions.id", ondelete="CASCADE"), primary_key=primary, nullable=False)


models = Table(
    "models",
    metadata,
    Column("id", _id, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("last_number", Integer, nullable=False),  # highest number ever given: numbers are never reused
    Column("created_at", Text, nullable=False),
    sqlite_autoincrement=True,
)

versions = Table(
    "versions",
    metadata,
    Column("id", _id, primary_key=True),  # grows with every registration: the order of listings and cursors
    Column("model_id", _id, ForeignKey("models.id"), nullable=False),
    Column("model", String(128), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("task", Text, nullable=False),
    Column("framework", Text, nullable=False),
    Column("source_artifact", String(64), nullable=False),
    Column("created_at", Text, nullable=False),
    UniqueConstraint("model_id", "number"),
    UniqueConstraint("model_id", "digest"),
    Index(None, "task", "id"),
    Index(None, "framework", "id"),
    Index(None, "model", "id"),
    sqlite_autoincrement=True,
)

version_details = Table(
    "version_details",
    metadata,
    _version_key(primary=True),
    Column("definition", Text, nullable=False),
    Column("description", Text, nullable=False),
)

version_labels = Table(  # inverted index: what a version is found by exactly; kind is `tag` or `format`
    "version_labels",
    metadata,
    Column("kind", String(8), primary_key=True),
    Column("value", Text, primary_key=True),
    _version_key(primary=True),
    Index(None, "version_id"),
    sqlite_with_rowid=False,
)

version_metrics = Table(
    "version_metrics",
    metadata,
    Column("name", Text, primary_key=True),
    _version_key(primary=True),
    Column("value", Float(53), nullable=False),
    Index(None, "name", "value", "version_id"),
    Index(None, "version_id"),
    sqlite_with_rowid=False,
)

version_files = Table(
    "version_files",
    metadata,
    _version_key(primary=True),
    Column("path", Text, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Index(None, "digest"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", String(64), primary_key=True),
    _version_key(),
    Column("position", Integer, nullable=False),
    Column("format", Text, nullable=False),
    Column("variant", Text, nullable=False),
    Column("precision", Text, nullable=False),
    Column("entry", Text, nullable=False),
    Column("signature", Text, nullable=False),
    Column("options", Text, nullable=False),
    Column("trusted", Boolean, nullable=False),
    Column("standing", Text, nullable=False),
    Column("parent", String(64), ForeignKey("artifacts.id", ondelete="CASCADE")),
    Column("conversion", Text),
    Column("created_at", Text, nullable=False),
    UniqueConstraint("version_id", "position"),
    Index(None, "parent"),
)

artifact_files = Table(
    "artifact_files",
    metadata,
    Column("artifact_id", String(64), ForeignKey("artifacts.id", ondelete="CASCADE"), primary_key=True),
    Column("path", Text, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Index(None, "digest"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("model_id", _id, ForeignKey("models.id"), primary_key=True),
    Column("alias", String(128), primary_key=True),
    Column("version_id", _id, ForeignKey("versions.id"), nullable=False),
    Index(None, "version_id"),
)

alias_events = Table(  # append-only; versions by number, so that history outlives them
    "alias_events",
    metadata,
    Column("id", _id, primary_key=True),
    Column("model_id", _id, ForeignKey("models.id"), nullable=False),
    Column("alias", String(128), nullable=False),
    Column("version", Integer),
    Column("previous", Integer),
    Column("action", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Index(None, "model_id", "alias", "id"),
    sqlite_autoincrement=True,
)

conversions = Table(
    "conversions",
    metadata,
    Column("sequence", _id, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("key", Text, nullable=False),
    _version_key(),
    Column("outcome", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Index(None, "key", "sequence"),
    Index(None, "version_id", "sequence"),
    sqlite_autoincrement=True,
)

measurements = Table(
    "measurements",
    metadata,
    Column("sequence", _id, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    _version_key(),
    Column("artifact_id", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("runtime", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("validity", Text, nullable=False),
    Column("configuration_digest", String(64), nullable=False),
    Column("workload_digest", String(64), nullable=False),
    Column("samples", String(64)),
    Column("samples_bytes", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Index(None, "version_id", "sequence"),
    Index(None, "configuration_digest", "workload_digest"),
    Index(None, "samples"),
    sqlite_autoincrement=True,
)

decisions = Table(
    "decisions",
    metadata,
    Column("sequence", _id, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    _version_key(),
    Column("body", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Index(None, "version_id", "sequence"),
    sqlite_autoincrement=True,
)

studies = Table(  # `settings` is a digest: what a search was asked, by which an unfinished one is found again
    "studies",
    metadata,
    Column("sequence", _id, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    _version_key(),
    Column("settings", String(64), nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("strategy", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("answer", Text),
    Column("created_at", Text, nullable=False),
    Index(None, "version_id", "sequence"),
    Index(None, "settings", "sequence"),
    sqlite_autoincrement=True,
)

study_trials = Table(
    "study_trials",
    metadata,
    Column("study_id", Text, ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("body", Text, nullable=False),
)

services = Table(
    "services",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("version_id", _id, ForeignKey("versions.id"), nullable=False),
    Column("artifact_id", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Index(None, "version_id"),
)

hub_identity = Table("hub_identity", metadata, Column("id", String(64), primary_key=True))  # one row

pins = Table(  # blobs that a writer has announced and not yet referenced; see vault.py
    "pins",
    metadata,
    Column("token", String(64), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("holder", Text, nullable=False),
    Column("expires_at", Text, nullable=False),
    Index(None, "digest"),
)
