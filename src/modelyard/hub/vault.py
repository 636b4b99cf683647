"""Blobs and the database together: what a row references is stored first, and never collected meanwhile.

A writer announces digests as *pins* (a committed row each), stores the blobs, then commits the rows that reference
them and drops its pins in that same transaction. The collector decides and deletes inside a transaction that
excludes announcing. So a blob is at every moment pinned, referenced, or free to go. Pins of dead writers lapse: at
once where this machine can see that the process is gone, else after `PIN_TTL`.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select, text, union

from modelyard.domain.errors import ModelyardError, Unavailable
from modelyard.hub.blobs import BlobStore
from modelyard.hub.database import Database, rows_changed
from modelyard.hub.files import LocalFile
from modelyard.hub.records import timestamp
from modelyard.hub.schema import artifact_files, measurements, pins, version_files
from modelyard.hub.values import Clock

PIN_TTL = timedelta(hours=24)
_BATCH = 100
_GC_LOCK = 0x6D6F6763  # advisory lock on PostgreSQL: shared while announcing, exclusive while collecting


class Held:
    """Blobs that are stored and pinned; `confirm` belongs into the transaction that references them."""

    def __init__(self, token: str, digests: frozenset[str]) -> None:
        self._token = token
        self._digests = digests

    def confirm(self, connection: Connection) -> None:
        """Drop the pins; raises Unavailable where they had lapsed, so that the blobs may be gone."""
        dropped = rows_changed(connection.execute(delete(pins).where(pins.c.token == self._token)))
        if dropped != len(self._digests):
            raise Unavailable("storing took too long and was given up", hint="try again", retry_after_s=1.0)


class Vault:
    """Stores blobs for rows to reference, and collects those that nothing references."""

    def __init__(self, database: Database, store: BlobStore, clock: Clock) -> None:
        self._database = database
        self._store = store
        self._clock = clock

    @contextmanager
    def stored(self, files: Sequence[LocalFile]) -> Iterator[Held]:
        """Pin and store `files`; inside, commit the rows that reference them, with `Held.confirm`.

        On any error the pins are dropped and what was newly stored is collected.
        """
        sources = {file.entry.digest: file.source for file in files}
        held = Held(secrets.token_hex(16), frozenset(sources))
        new: set[str] = set()
        self._pin(held)
        try:
            new.update(digest for digest, source in sources.items() if self._store.put(digest, source))
            yield held
        except BaseException as error:
            self._give_up(held, new, error)
            raise

    def unreferenced(
        self, connection: Connection, digests: Iterable[str], *, except_pins: Iterable[str] = ()
    ) -> set[str]:
        """Those of `digests` that no row references and no writer holds, but for the pins with these tokens."""
        pinned = select(pins.c.digest).where(pins.c.token.not_in(list(except_pins)))
        wanted, used = set(digests), set[str]()
        ordered = sorted(wanted)
        for start in range(0, len(ordered), _BATCH):
            batch = ordered[start : start + _BATCH]
            columns = (version_files.c.digest, artifact_files.c.digest, measurements.c.samples)
            rows = [select(column).where(column.in_(batch)) for column in columns]
            found = connection.execute(union(*rows, pinned.where(pins.c.digest.in_(batch))))
            used.update(str(row[0]) for row in found)
        return wanted - used

    def collect(self, digests: Iterable[str]) -> set[str]:
        """Delete those of `digests` that nothing references or holds; return them. Safe beside any writer."""
        gone: set[str] = set()
        ordered = sorted(set(digests))
        for start in range(0, len(ordered), _BATCH):
            with self._database.write() as connection:
                self._lock(connection, shared=False)
                free = self.unreferenced(connection, ordered[start : start + _BATCH])
                for digest in sorted(free):
                    self._store.delete(digest)
                gone |= free
        return gone

    def collectable(self, digests: Iterable[str]) -> set[str]:
        """What `collect` would delete if the pins of dead writers were dropped first."""
        with self._database.read() as connection:
            lapsed = self._lapsed(connection)
            return self.unreferenced(connection, digests, except_pins=lapsed)

    def drop_lapsed_pins(self) -> None:
        """Forget the pins of writers that are dead or overdue."""
        with self._database.write() as connection:
            for token in self._lapsed(connection):
                connection.execute(delete(pins).where(pins.c.token == token))

    def _lapsed(self, connection: Connection) -> set[str]:
        now = timestamp(self._clock())
        rows = connection.execute(select(pins.c.token, pins.c.holder, pins.c.expires_at).distinct())
        return {str(token) for token, holder, expires in rows if expires < now or _is_dead(holder)}

    def _pin(self, held: Held) -> None:
        expires = timestamp(self._clock() + PIN_TTL)
        rows = [
            {"token": held._token, "digest": digest, "holder": _holder(os.getpid()), "expires_at": expires}
            for digest in sorted(held._digests)
        ]
        if not rows:
            return
        with self._database.write() as connection:
            self._lock(connection, shared=True)
            connection.execute(insert(pins), rows)

    def _give_up(self, held: Held, new: set[str], cause: BaseException) -> None:
        try:
            with self._database.write() as connection:
                connection.execute(delete(pins).where(pins.c.token == held._token))
            self.collect(new)
        except ModelyardError as error:
            # The cause is what the user must hear of; what stays behind goes with the next gc.
            cause.add_note(f"cleaning up also failed: {error}")

    def _lock(self, connection: Connection, *, shared: bool) -> None:
        """Keep announcing and collecting apart; on SQLite the write transaction itself does."""
        if self._database.dialect == "postgresql":
            call = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
            connection.execute(text(f"SELECT {call}(:key)"), {"key": _GC_LOCK})


def _holder(pid: int) -> str:
    """Names a process so that a process with the same pid later, or elsewhere, is not taken for it."""
    return f"{_place()} {pid} {_start_ticks(pid)}"


def _is_dead(holder: str) -> bool:
    """Whether the process is seen from here to be gone; False where it cannot be seen from here."""
    place, pid, start = holder.rsplit(" ", 2)
    return place == _place() and _start_ticks(int(pid)) != start


def _place() -> str:
    """This host, boot and pid namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"


def _start_ticks(pid: int) -> str:
    """When the process started, in clock ticks since boot (proc(5), field 22); empty if there is none or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # the name before may hold spaces and parentheses
    return "" if fields[0] in "ZX" else fields[19]
