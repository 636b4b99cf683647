"""Rows to domain values and back. JSON texts are msgspec's encoding of the domain's dataclasses."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Column, ColumnElement, Connection, Row, Select, select

from modelyard.domain.artifacts import Artifact, ArtifactFile, Precision, Standing, Target
from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.domain.tensors import Signature
from modelyard.domain.versions import Definition, Description, ModelRef, Version
from modelyard.hub.schema import aliases, artifact_files, artifacts, models, version_details, version_files, versions

T = TypeVar("T")
LEAST_PREFIX = 6
"""Characters of an id that may stand for all of it."""
_MOST_TOLD = 5
_IN_BATCH = 500  # ids per IN list; SQLite's oldest limit is 999 parameters


def to_json(value: object) -> str:
    """Encode a domain value."""
    return msgspec.json.encode(value).decode()


def from_json(text: str, kind: type[T]) -> T:
    """Decode what `to_json` wrote."""
    return msgspec.json.decode(text, type=kind)


def content_digest(*values: object) -> str:
    """SHA-256 of values in one canonical form: equal values have equal digests, whatever the order of mappings."""
    return hashlib.sha256(msgspec.json.encode(values, order="sorted")).hexdigest()


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds: texts that sort as the moments do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def only_with_prefix(connection: Connection, ids: Column[str], prefix: str, things: str) -> str | None:
    """The only id of a column that begins so (`LEAST_PREFIX` characters at least); None if none does.

    Raises InvalidInput where several do: `things` says of what, in the plural.
    """
    if len(prefix) < LEAST_PREFIX:
        return None
    begins = ids.startswith(prefix, autoescape=True)
    found = [str(r[0]) for r in connection.execute(select(ids).where(begins).order_by(ids).limit(_MOST_TOLD + 1))]
    if len(found) > 1:
        more = ", ..." if len(found) > _MOST_TOLD else ""
        raise InvalidInput(
            f"the ids of several {things} begin with '{prefix}'",
            why=", ".join(found[:_MOST_TOLD]) + more,
            hint="write more of the id",
        )
    return found[0] if found else None


def lock_model(connection: Connection, name: str) -> int:
    """The id of a model, locked until the transaction ends: writers to one model take turns. Raises NotFound."""
    found = connection.execute(select(models.c.id).where(models.c.name == name).with_for_update()).scalar()
    if found is None:
        raise unknown_model(connection, name)
    return int(found)


def unknown_model(connection: Connection, name: str) -> NotFound:
    """The error for a model name that the hub does not know, with the nearest ones."""
    import difflib

    known = [str(row[0]) for row in connection.execute(select(versions.c.model).distinct().limit(1000))]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "run `yard models ls` to see what is there"
    return NotFound(f"there is no model '{name}'", hint=hint)


def version_id(connection: Connection, ref: ModelRef) -> int:
    """The row id of the version that `ref` names. Raises NotFound."""
    mine = versions.c.model == ref.model
    if ref.version is not None:
        found = connection.execute(select(versions.c.id).where(mine, versions.c.number == ref.version)).scalar()
    elif ref.alias is not None:
        query = select(aliases.c.version_id).join(models, models.c.id == aliases.c.model_id)
        found = connection.execute(query.where(models.c.name == ref.model, aliases.c.alias == ref.alias)).scalar()
    else:
        query = select(versions.c.id).where(mine).order_by(versions.c.number.desc()).limit(1)
        found = connection.execute(query).scalar()
    if found is not None:
        return int(found)
    if not connection.execute(select(versions.c.id).where(mine).limit(1)).first():
        raise unknown_model(connection, ref.model)
    what = f"alias '{ref.alias}'" if ref.alias else f"version {ref.version}"
    raise NotFound(f"{ref.model} has no {what}", hint=f"run `yard models show {ref.model}` to see what it has")


def load_version(connection: Connection, ref: ModelRef) -> Version:
    """The version that `ref` names. Raises NotFound."""
    return load_versions(connection, [version_id(connection, ref)])[0]


def load_versions(connection: Connection, ids: Sequence[int]) -> list[Version]:
    """The versions with these row ids, in that order, each with its aliases."""
    rows: dict[int, Row[Any]] = {}
    names: dict[int, list[str]] = defaultdict(list)
    for batch in _batches(ids):
        query = select(versions, version_details.c.definition, version_details.c.description).join(version_details)
        rows.update({int(row.id): row for row in connection.execute(query.where(versions.c.id.in_(batch)))})
        wanted = select(aliases.c.version_id, aliases.c.alias).where(aliases.c.version_id.in_(batch))
        for found in connection.execute(wanted):
            names[int(found.version_id)].append(str(found.alias))
    return [_version(rows[i], names[i]) for i in ids]


def load_files(connection: Connection, of_version: int) -> tuple[ArtifactFile, ...]:
    """All files of a version."""
    query = select(version_files).where(version_files.c.version_id == of_version).order_by(version_files.c.path)
    return tuple(_file(r) for r in connection.execute(query))


def file_lists(connection: Connection) -> dict[int | str, list[ArtifactFile]]:
    """The files of every version (by row id) and of every artifact (by its id)."""
    found: dict[int | str, list[ArtifactFile]] = defaultdict(list)
    for of_version in connection.execute(select(version_files)):
        found[int(of_version.version_id)].append(_file(of_version))
    for of_artifact in connection.execute(select(artifact_files)):
        found[str(of_artifact.artifact_id)].append(_file(of_artifact))
    return found


def load_artifacts(connection: Connection, *conditions: ColumnElement[bool]) -> list[Artifact]:
    """The artifacts that meet all conditions, in the order they were added to their version."""
    query: Select[Any] = select(artifacts, versions.c.model, versions.c.number).join(versions)
    rows = connection.execute(query.where(*conditions).order_by(artifacts.c.version_id, artifacts.c.position)).all()
    files: dict[str, list[ArtifactFile]] = defaultdict(list)
    for batch in _batches([str(row.id) for row in rows]):
        wanted = select(artifact_files).where(artifact_files.c.artifact_id.in_(batch)).order_by(artifact_files.c.path)
        for r in connection.execute(wanted):
            files[str(r.artifact_id)].append(_file(r))
    return [_artifact(row, files[str(row.id)]) for row in rows]


def _file(row: Row[Any]) -> ArtifactFile:
    return ArtifactFile(row.path, row.digest, int(row.size_bytes))


def _version(row: Row[Any], names: Iterable[str]) -> Version:
    return Version(
        model=row.model,
        number=int(row.number),
        digest=row.digest,
        definition=from_json(row.definition, Definition),
        description=from_json(row.description, Description),
        source_artifact=row.source_artifact,
        created_at=row.created_at,
        aliases=tuple(sorted(names)),
    )


def _artifact(row: Row[Any], files: Iterable[ArtifactFile]) -> Artifact:
    options: Mapping[str, str] = from_json(row.options, dict[str, str])
    return Artifact(
        id=row.id,
        model=row.model,
        version=int(row.number),
        target=Target(row.format, row.variant),
        precision=Precision(row.precision),
        entry=row.entry,
        files=tuple(files),
        signature=from_json(row.signature, Signature),
        standing=Standing(row.standing),
        options=options,
        trusted=bool(row.trusted),
        parent=row.parent,
        conversion=row.conversion,
        created_at=row.created_at,
    )


def _batches(ids: Sequence[T]) -> Iterable[Sequence[T]]:
    return (ids[start : start + _IN_BATCH] for start in range(0, len(ids), _IN_BATCH))
