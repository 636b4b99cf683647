"""Versions: register, retrieve, search, update, delete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from modelyard.domain.artifacts import Target
from modelyard.domain.errors import InvalidInput
from modelyard.domain.versions import Definition, Description, ModelRef, Version, check_name
from modelyard.hub.artifacts import insert_artifact, new_source_artifact
from modelyard.hub.cache import Cache
from modelyard.hub.database import Database
from modelyard.hub.deletion import delete_version
from modelyard.hub.files import LocalFile, read_files
from modelyard.hub.lineage import load_lineage
from modelyard.hub.records import (
    content_digest,
    load_files,
    load_version,
    load_versions,
    lock_model,
    timestamp,
    to_json,
    unknown_model,
    version_id,
)
from modelyard.hub.schema import (
    aliases,
    models,
    version_details,
    version_files,
    version_labels,
    version_metrics,
    versions,
)
from modelyard.hub.search import find_versions
from modelyard.hub.values import (
    Clock,
    DescriptionChanges,
    Freed,
    Lineage,
    ModelSummary,
    Page,
    Registration,
    VersionQuery,
)
from modelyard.hub.vault import Vault
from modelyard.hub.words import index_words
from modelyard.manifest import check_license, framework_name

_MAX_TERM = 256  # of what is indexed as a whole: tags, task, framework, metric names


class Versions:
    """The versions of the hub. Safe for use by many threads and processes at once."""

    def __init__(self, database: Database, vault: Vault, cache: Cache, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._cache = cache
        self._clock = clock

    def register(
        self, definition: Definition, description: Description, files: Mapping[str, Path], source_files: Sequence[str]
    ) -> Registration:
        """Store `files` and make a new version of `definition.name` of them; durable once this returns.

        `files` maps paths in the version to local files; `source_files` are those of the source artifact. The same
        definition with the same content again gives the version that exists (`created` False), restoring blobs
        that were lost or damaged. Raises InvalidInput, BackendFailed, Unavailable.
        """
        _check(definition, description, files, source_files)
        local = read_files(files)
        digest = _digest(definition, local, source_files)
        with self._vault.stored(local) as held, self._database.write() as connection:
            model = _lock_or_make_model(connection, definition.name, timestamp(self._clock()))
            same = (versions.c.model_id == model) & (versions.c.digest == digest)
            row = connection.execute(select(versions.c.id).where(same)).scalar()
            created = row is None
            if row is None:
                row = self._insert(connection, model, digest, definition, description, local, source_files)
            held.confirm(connection)
            version = load_versions(connection, [int(row)])[0]
        return Registration(version, created)

    def identical(
        self, definition: Definition, files: Mapping[str, Path], source_files: Sequence[str]
    ) -> Version | None:
        """The version that `register` would find to be the same; checks all that `register` checks, writes nothing."""
        _check(definition, Description(), files, source_files)
        digest = _digest(definition, read_files(files), source_files)
        with self._database.read() as connection:
            same = (versions.c.model == definition.name) & (versions.c.digest == digest)
            row = connection.execute(select(versions.c.id).where(same)).scalar()
            return None if row is None else load_versions(connection, [int(row)])[0]

    def get(self, ref: ModelRef) -> Version:
        """The version that `ref` names. Raises NotFound."""
        with self._database.read() as connection:
            return load_version(connection, ref)

    def models(self) -> list[ModelSummary]:
        """All models that have versions, by name."""
        latest = select(
            versions.c.model_id,
            func.count().label("count"),
            func.max(versions.c.number).label("latest"),
            func.min(versions.c.created_at).label("first"),
        )
        group = latest.group_by(versions.c.model_id).subquery()
        query = (
            select(versions, group.c.count, group.c.latest, group.c.first)
            .join(group, (group.c.model_id == versions.c.model_id) & (group.c.latest == versions.c.number))
            .order_by(versions.c.model)
        )
        named = select(aliases.c.model_id, aliases.c.alias, versions.c.number).join(versions).order_by(aliases.c.alias)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            names: dict[int, dict[str, int]] = {}
            for name in connection.execute(named):
                names.setdefault(int(name.model_id), {})[str(name.alias)] = int(name.number)
        return [_summary(row, names.get(int(row.model_id), {})) for row in rows]

    def search(self, query: VersionQuery) -> Page[Version]:
        """One page of the versions that `query` asks for, newest registration first. Raises InvalidInput."""
        with self._database.read() as connection:
            return find_versions(connection, query)

    def update(self, ref: ModelRef, changes: DescriptionChanges) -> Version:
        """Change mutable fields of a version; the rest of a version never changes. Raises NotFound, InvalidInput."""
        given = {name: getattr(changes, name) for name in changes.__dataclass_fields__}
        with self._database.write() as connection:
            lock_model(connection, ref.model)
            version = load_version(connection, ref)
            row = version_id(connection, ref)
            new = replace(version.description, **{name: value for name, value in given.items() if value is not None})
            new = replace(new, license=new.license if changes.license is None else check_license(changes.license))
            _check_tags(new)
            mine = version_details.c.version_id == row
            connection.execute(update(version_details).where(mine).values(description=to_json(new)))
            labels = (version_labels.c.version_id == row) & (version_labels.c.kind == "tag")
            connection.execute(delete(version_labels).where(labels))
            _insert_tags(connection, row, new)
            index_words(connection, row, version.model, new)
            return load_version(connection, ref)

    def delete(self, ref: ModelRef, *, force: bool = False, dry_run: bool = False) -> Freed:
        """Delete a version with its artifacts and evidence, and free the blobs only it used.

        Refused (Conflict) while a service runs it; while an alias names it, unless `force` removes the alias.
        """
        removed = delete_version(
            self._database, self._vault, ref, force=force, dry_run=dry_run, now=timestamp(self._clock())
        )
        if not dry_run:
            self._vault.collect(removed.digests)
        return removed.freed

    def lineage(self, ref: ModelRef) -> Lineage:
        """Artifacts and their parents, conversions, measurements, services, replacements. Raises NotFound."""
        with self._database.read() as connection:
            return load_lineage(connection, ref)

    def checkout(self, version: Version) -> Path:
        """A local read-only directory with all files of a version, verified. Raises NotFound, BackendFailed."""
        with self._database.read() as connection:
            files = load_files(connection, version_id(connection, ModelRef(version.model, version=version.number)))
        return self._cache.tree(files)

    def list(self, model: str) -> list[Version]:
        """All versions of a model, newest first. Raises NotFound."""
        with self._database.read() as connection:
            query = select(versions.c.id).where(versions.c.model == model).order_by(versions.c.number.desc())
            ids = [int(row[0]) for row in connection.execute(query)]
            if not ids:
                raise unknown_model(connection, model)
            return load_versions(connection, ids)

    def _insert(
        self,
        connection: Connection,
        model: int,
        digest: str,
        definition: Definition,
        description: Description,
        local: Sequence[LocalFile],
        source_files: Sequence[str],
    ) -> int:
        now = timestamp(self._clock())
        higher = update(models).where(models.c.id == model).values(last_number=models.c.last_number + 1)
        number = int(connection.execute(higher.returning(models.c.last_number)).scalar_one())
        source = new_source_artifact(definition, number, local, source_files, now)
        values = {
            "model_id": model,
            "model": definition.name,
            "number": number,
            "digest": digest,
            "task": definition.task,
            "framework": framework_name(definition.framework),
            "source_artifact": source.id,
            "created_at": now,
        }
        row = int(connection.execute(insert(versions).values(values).returning(versions.c.id)).scalar_one())
        connection.execute(
            insert(version_details).values(
                version_id=row, definition=to_json(definition), description=to_json(description)
            )
        )
        entries = [file.entry for file in local]
        connection.execute(
            insert(version_files),
            [{"version_id": row, "path": e.path, "digest": e.digest, "size_bytes": e.size_bytes} for e in entries],
        )
        metrics = [{"version_id": row, "name": n, "value": float(v)} for n, v in definition.metrics.items()]
        if metrics:
            connection.execute(insert(version_metrics), metrics)
        _insert_tags(connection, row, description)
        index_words(connection, row, definition.name, description)
        insert_artifact(connection, row, source)
        return row


def _lock_or_make_model(connection: Connection, name: str, now: str) -> int:
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as upsert
    else:
        from sqlalchemy.dialects.sqlite import insert as upsert  # type: ignore[assignment]
    connection.execute(upsert(models).values(name=name, last_number=0, created_at=now).on_conflict_do_nothing())
    return lock_model(connection, name)


def _insert_tags(connection: Connection, version: int, description: Description) -> None:
    rows = [{"kind": "tag", "value": tag, "version_id": version} for tag in dict.fromkeys(description.tags)]
    if rows:
        connection.execute(insert(version_labels), rows)


def _digest(definition: Definition, local: Sequence[LocalFile], source_files: Sequence[str]) -> str:
    return content_digest(definition, [file.entry for file in local], sorted(set(source_files)))


def _check(
    definition: Definition, description: Description, files: Mapping[str, Path], source_files: Sequence[str]
) -> None:
    check_name(definition.name, "model")
    missing = [path for path in source_files if path not in files]
    if missing:
        raise InvalidInput(f"'{missing[0]}' is a source file but not among the files", hint="give its local path too")
    if definition.source.entry not in source_files:
        raise InvalidInput(
            f"the entry '{definition.source.entry}' is not among the source files",
            hint=f"the source files are {', '.join(source_files) or 'none'}",
        )
    if definition.dataset is not None and definition.dataset.path not in files:
        raise InvalidInput(
            f"the dataset '{definition.dataset.path}' is not among the files", hint="give its local path too"
        )
    Target(definition.source.format)
    terms = [definition.task, definition.framework, definition.source.format, *definition.metrics]
    for term in terms:
        _check_term(term, "task, framework, format or metric")
    _check_tags(description)


def _check_tags(description: Description) -> None:
    for tag in description.tags:
        if not tag.strip():
            raise InvalidInput("a tag is empty", hint="remove it or write a word")
        _check_term(tag, "tag")


def _check_term(term: str, what: str) -> None:
    if len(term) > _MAX_TERM or (term and not term.isprintable()):
        raise InvalidInput(f"{term[:40]!r} cannot be a {what}", hint=f"use up to {_MAX_TERM} printable characters")


def _summary(row: Any, names: Mapping[str, int]) -> ModelSummary:
    return ModelSummary(
        name=row.model,
        versions=int(row.count),
        latest=int(row.latest),
        task=row.task,
        framework=row.framework,
        aliases=names,
        created_at=row.first,
        updated_at=row.created_at,
    )
