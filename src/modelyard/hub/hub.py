"""The hub: the registry of models, their artifacts and the evidence, over a database and a blob store."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from sqlalchemy import select

from modelyard.hub.aliases import Aliases
from modelyard.hub.artifacts import Artifacts
from modelyard.hub.blobs import BlobStore, open_store
from modelyard.hub.cache import Cache, tree_key
from modelyard.hub.conversions import Conversions
from modelyard.hub.database import Database
from modelyard.hub.decisions import Decisions
from modelyard.hub.measurements import Measurements
from modelyard.hub.records import file_lists
from modelyard.hub.schema import measurements
from modelyard.hub.services import Services, owners
from modelyard.hub.studies import Studies
from modelyard.hub.values import Clock, Freed, utc_now
from modelyard.hub.vault import Vault
from modelyard.hub.versions import Versions

CACHE_MAX_AGE_S = 7 * 24 * 3600.0


class Hub:
    """Versions, aliases, artifacts, the evidence (conversions, measurements, decisions, studies), services, and gc.

    Safe for use by many threads; many processes may open the same hub. Use as a context manager or `close` it.
    """

    def __init__(self, database: Database, store: BlobStore, cache_dir: Path, clock: Clock) -> None:
        self._database = database
        self._store = store
        self._cache = Cache(cache_dir, store)
        self._vault = Vault(database, store, clock)
        self.versions = Versions(database, self._vault, self._cache, clock)
        self.aliases = Aliases(database, clock)
        self.artifacts = Artifacts(database, self._vault, self._cache, clock)
        self.conversions = Conversions(database, clock)
        self.measurements = Measurements(database, self._vault, self._cache, clock)
        self.decisions = Decisions(database, clock)
        self.studies = Studies(database, clock)
        self.services = Services(database)

    @classmethod
    def open(cls, database_url: str, blobs_url: str, cache_dir: Path, clock: Clock = utc_now) -> Hub:
        """Open, and make or migrate if need be, the hub at these places.

        `database_url`: `sqlite:////path/hub.db` or `postgresql://user@host/database`. `blobs_url`: a directory or
        an fsspec URL such as `s3://bucket/prefix?endpoint_url=...`. Raises InvalidInput, Unsupported,
        BackendFailed, Unavailable.
        """
        database = Database.open(database_url)
        try:
            return cls(database, open_store(blobs_url, owner=database.identity()), cache_dir, clock)
        except BaseException:
            database.close()
            raise

    def gc(self, dry_run: bool = False, *, cache_max_age_s: float = CACHE_MAX_AGE_S) -> Freed:
        """Remove blobs that nothing references, leftovers of dead writers, and cached copies not used lately.

        Never touches what a version, artifact, measurement or service references, nor what a living writer is
        about to reference. `dry_run` counts and removes nothing.
        """
        if not dry_run:
            self._vault.drop_lapsed_pins()
        sizes = {blob.digest: blob.size_bytes for blob in self._store.scan()}
        gone = self._vault.collectable(sizes) if dry_run else self._vault.collect(sizes)
        temp_files, temp_bytes = self._store.sweep(dry_run=dry_run)
        known, served = self._cached_names()
        entries, cache_bytes = self._cache.sweep(served, known, max_age_s=cache_max_age_s, dry_run=dry_run)
        return Freed(
            blobs=len(gone),
            temp_files=temp_files,
            cache_entries=entries,
            size_bytes=sum(sizes[digest] for digest in gone) + temp_bytes + cache_bytes,
            dry_run=dry_run,
        )

    def close(self) -> None:
        """Close the database's connections."""
        self._database.close()

    def __enter__(self) -> Hub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cached_names(self) -> tuple[set[str], set[str]]:
        """Names in the cache of all that the hub has, and of what services run from."""
        with self._database.read() as connection:
            samples = connection.execute(select(measurements.c.samples).where(measurements.c.samples.is_not(None)))
            known = {str(row[0]) for row in samples}
            trees = file_lists(connection)
            known.update(tree_key(files) for files in trees.values())
            running = {owner for _, *both in owners(connection) for owner in both}
        return known, {tree_key(trees[owner]) for owner in running if owner in trees}
