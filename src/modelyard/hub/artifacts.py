"""Artifacts: add, list, judge, check out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, func, insert, select, update

from modelyard.domain.artifacts import Artifact, LocalArtifact, Standing, Target
from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.domain.versions import Definition, ModelRef, Version
from modelyard.hub.cache import Cache
from modelyard.hub.database import Database
from modelyard.hub.files import LocalFile, read_directory
from modelyard.hub.records import content_digest, load_artifacts, lock_model, timestamp, to_json, version_id
from modelyard.hub.schema import artifact_files, artifacts, version_labels
from modelyard.hub.values import Clock
from modelyard.hub.vault import Vault


class Artifacts:
    """The artifacts of the hub. Safe for use by many threads and processes at once."""

    def __init__(self, database: Database, vault: Vault, cache: Cache, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._cache = cache
        self._clock = clock

    def add(
        self, version: Version, local: LocalArtifact, parent: str, conversion: str | None, standing: Standing
    ) -> Artifact:
        """Store a converted artifact under the artifact `parent` of the same version; durable once this returns.

        All files below `local.directory` belong to it; links and special files are refused. The same artifact
        again gives the one that exists, with the new standing and conversion: the latest proof counts.
        Raises InvalidInput, NotFound, BackendFailed, Unavailable.
        """
        files = read_directory(Path(local.directory))
        if local.entry not in {file.entry.path for file in files}:
            raise InvalidInput(
                f"the entry '{local.entry}' is not among the artifact's files", hint=f"look into {local.directory}"
            )
        if standing is Standing.SOURCE:
            raise InvalidInput("only `register` makes a source artifact", hint="give unproven, proven or rejected")
        artifact = _converted(version, local, files, parent, conversion, standing, timestamp(self._clock()))
        with self._vault.stored(files) as held, self._database.write() as connection:
            lock_model(connection, version.model)
            row = version_id(connection, ModelRef(version.model, version=version.number))
            if not load_artifacts(connection, artifacts.c.id == parent, artifacts.c.version_id == row):
                raise NotFound(
                    f"{version.ref} has no artifact '{parent}' to be the parent",
                    hint=f"run `yard models show {version.ref}` to see its artifacts",
                )
            if load_artifacts(connection, artifacts.c.id == artifact.id):
                judged = {"standing": str(standing), "conversion": conversion}
                connection.execute(update(artifacts).where(artifacts.c.id == artifact.id).values(judged))
            else:
                insert_artifact(connection, row, artifact)
            held.confirm(connection)
            return load_artifacts(connection, artifacts.c.id == artifact.id)[0]

    def get(self, artifact_id: str) -> Artifact:
        """The artifact with this id. Raises NotFound."""
        with self._database.read() as connection:
            return _one(connection, artifact_id)

    def list(self, ref: ModelRef, *, servable_only: bool = False) -> list[Artifact]:
        """The artifacts of a version, the source first, then in the order they were added. Raises NotFound."""
        with self._database.read() as connection:
            found = load_artifacts(connection, artifacts.c.version_id == version_id(connection, ref))
        return [a for a in found if a.standing.servable or not servable_only]

    def set_standing(self, artifact_id: str, standing: Standing) -> Artifact:
        """Judge an artifact anew. Raises NotFound; InvalidInput for the source, whose standing is fixed."""
        with self._database.write() as connection:
            artifact = _one(connection, artifact_id)
            if (artifact.standing is Standing.SOURCE) != (standing is Standing.SOURCE):
                raise InvalidInput(
                    f"artifact {artifact_id} cannot become {standing}", why=f"it is {artifact.standing}", hint=_HINT
                )
            connection.execute(update(artifacts).where(artifacts.c.id == artifact_id).values(standing=str(standing)))
            return _one(connection, artifact_id)

    def checkout(self, artifact: Artifact) -> LocalArtifact:
        """A local read-only copy of an artifact, every file verified. Raises NotFound, BackendFailed."""
        return LocalArtifact(
            directory=str(self._cache.tree(artifact.files)),
            entry=artifact.entry,
            target=artifact.target,
            precision=artifact.precision,
            signature=artifact.signature,
            options=artifact.options,
            trusted=artifact.trusted,
        )


_HINT = "the source is what others are proven against; judge converted artifacts only"


def new_source_artifact(
    definition: Definition, number: int, local: Sequence[LocalFile], source_files: Sequence[str], now: str
) -> Artifact:
    """The source artifact of a version about to be registered."""
    source = definition.source
    wanted = set(source_files)
    files = tuple(file.entry for file in local if file.entry.path in wanted)
    target = Target(source.format)
    return Artifact(
        id=_artifact_id(definition.name, number, target, target.precision, source.entry, files, source.options),
        model=definition.name,
        version=number,
        target=target,
        precision=target.precision,
        entry=source.entry,
        files=files,
        signature=definition.signature,
        standing=Standing.SOURCE,
        options=source.options,
        trusted=source.trusted,
        created_at=now,
    )


def insert_artifact(connection: Connection, version: int, artifact: Artifact) -> None:
    """Insert an artifact's rows; the model must be locked."""
    mine = artifacts.c.version_id == version
    position = int(connection.execute(select(func.count()).select_from(artifacts).where(mine)).scalar_one())
    connection.execute(
        insert(artifacts).values(
            id=artifact.id,
            version_id=version,
            position=position,
            format=artifact.target.format,
            variant=artifact.target.variant,
            precision=str(artifact.precision),
            entry=artifact.entry,
            signature=to_json(artifact.signature),
            options=to_json(artifact.options),
            trusted=artifact.trusted,
            standing=str(artifact.standing),
            parent=artifact.parent,
            conversion=artifact.conversion,
            created_at=artifact.created_at,
        )
    )
    rows = [
        {"artifact_id": artifact.id, "path": f.path, "digest": f.digest, "size_bytes": f.size_bytes}
        for f in artifact.files
    ]
    connection.execute(insert(artifact_files), rows)
    label = {"kind": "format", "value": artifact.target.format, "version_id": version}
    present = select(version_labels.c.version_id).where(*(version_labels.c[name] == v for name, v in label.items()))
    if connection.execute(present).first() is None:
        connection.execute(insert(version_labels).values(label))


def _converted(
    version: Version,
    local: LocalArtifact,
    files: Sequence[LocalFile],
    parent: str,
    conversion: str | None,
    standing: Standing,
    now: str,
) -> Artifact:
    entries = tuple(file.entry for file in files)
    return Artifact(
        id=_artifact_id(
            version.model, version.number, local.target, local.precision, local.entry, entries, local.options, parent
        ),
        model=version.model,
        version=version.number,
        target=local.target,
        precision=local.precision,
        entry=local.entry,
        files=entries,
        signature=local.signature,
        standing=standing,
        options=local.options,
        trusted=local.trusted,
        parent=parent,
        conversion=conversion,
        created_at=now,
    )


def _artifact_id(model: str, number: int, *content: object) -> str:
    """Made of all that an artifact is: adding it again finds it. Numbers are never reused, so neither are ids."""
    return f"art-{content_digest(model, number, content)[:20]}"


def _one(connection: Connection, artifact_id: str) -> Artifact:
    found = load_artifacts(connection, artifacts.c.id == artifact_id)
    if not found:
        raise NotFound(f"there is no artifact '{artifact_id}'", hint="run `yard models show <model>` for its artifacts")
    return found[0]
