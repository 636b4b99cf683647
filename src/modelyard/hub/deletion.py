"""Deleting a version: what refuses it, what goes with it, what it frees."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select, union

from modelyard.domain.errors import Conflict
from modelyard.domain.versions import ModelRef
from modelyard.hub.aliases import remove_alias
from modelyard.hub.database import Database
from modelyard.hub.records import load_version, lock_model, version_id
from modelyard.hub.schema import (
    artifact_files,
    artifacts,
    conversions,
    measurements,
    studies,
    version_files,
    versions,
)
from modelyard.hub.services import owners
from modelyard.hub.values import Freed
from modelyard.hub.vault import Vault
from modelyard.hub.words import drop_words


@dataclass(frozen=True, slots=True)
class Removed:
    """What a deletion freed, and the digests that the collector may now look at."""

    freed: Freed
    digests: frozenset[str]


def delete_version(database: Database, vault: Vault, ref: ModelRef, *, force: bool, dry_run: bool, now: str) -> Removed:
    """Delete the rows of a version in one transaction. Raises NotFound, Conflict."""
    with database.read() if dry_run else database.write() as connection:
        model = lock_model(connection, ref.model) if not dry_run else 0
        row = version_id(connection, ref)
        version = load_version(connection, ref)
        _refuse_if_served(connection, row, version.ref)
        if version.aliases and not force:
            named = ", ".join(f"{version.model}@{alias}" for alias in version.aliases)
            raise Conflict(
                f"{version.ref} is named by {named}",
                hint="point the alias elsewhere first, or add --force to remove it",
            )
        blobs = _blobs(connection, row)
        counts = {
            "artifacts": _count(connection, artifacts.c.version_id, row),
            "conversions": _count(connection, conversions.c.version_id, row),
            "measurements": _count(connection, measurements.c.version_id, row),
            "studies": _count(connection, studies.c.version_id, row),
        }
        if dry_run:
            free = _only_used_by(connection, row, set(blobs))
        else:
            for alias in version.aliases:
                remove_alias(connection, version.model, model, alias, now)
            drop_words(connection, row)
            connection.execute(delete(versions).where(versions.c.id == row))
            free = vault.unreferenced(connection, blobs)
        freed = Freed(
            versions=(version.ref,),
            aliases=version.aliases,
            blobs=len(free),
            size_bytes=sum(blobs[digest] for digest in free),
            dry_run=dry_run,
            **counts,
        )
    return Removed(freed, frozenset(free))


def _refuse_if_served(connection: Connection, row: int, ref: str) -> None:
    names = [name for name, version, _ in owners(connection) if version == row]
    if names:
        raise Conflict(
            f"{ref} is served by {', '.join(names)}",
            hint=f"run `yard services stop {names[0]}` first",
        )


def _blobs(connection: Connection, row: int) -> dict[str, int]:
    """Digest and size of every blob that a version references."""
    converted = select(artifact_files.c.digest, artifact_files.c.size_bytes).join(artifacts)
    query = union(
        select(version_files.c.digest, version_files.c.size_bytes).where(version_files.c.version_id == row),
        converted.where(artifacts.c.version_id == row),
        select(measurements.c.samples, measurements.c.samples_bytes).where(
            measurements.c.version_id == row, measurements.c.samples.is_not(None)
        ),
    )
    return {str(digest): int(size) for digest, size in connection.execute(query)}


def _only_used_by(connection: Connection, row: int, digests: set[str]) -> set[str]:
    """Those of `digests` that no other version references."""
    other = union(
        select(version_files.c.digest).where(version_files.c.version_id != row),
        select(artifact_files.c.digest).join(artifacts).where(artifacts.c.version_id != row),
        select(measurements.c.samples).where(measurements.c.version_id != row, measurements.c.samples.is_not(None)),
    )
    used = other.subquery()
    ordered = sorted(digests)
    for start in range(0, len(ordered), 500):
        batch = ordered[start : start + 500]
        query = select(used.c[0]).where(used.c[0].in_(batch))
        digests = digests - {str(r[0]) for r in connection.execute(query)}
    return digests


def _count(connection: Connection, column: object, row: int) -> int:
    query = select(func.count()).where(column == row)  # type: ignore[arg-type]
    return int(connection.execute(query).scalar_one())
