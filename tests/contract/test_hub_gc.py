"""Delete and gc: what they refuse, what they free, what they never touch."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from modelyard.domain.errors import BackendFailed, Conflict, NotFound, Unavailable
from modelyard.domain.versions import Description, Version
from modelyard.hub import Freed, Hub
from modelyard.hub.files import read_files
from modelyard.hub.vault import PIN_TTL
from tests.builders import measurement
from tests.contract.hub_content import Place, conversion, definition, ref, service

SOURCE = ["model.pt2", "net/model.py"]


def _stored(hub: Hub) -> set[str]:
    return {blob.digest for blob in hub._store.scan()}


def _orphan(place: Place, content: bytes = b"orphan") -> str:
    """A blob as a writer leaves it that died between storing and committing."""
    (file,) = read_files({"x": place.file("orphan", content)})
    place.hub._store.put(file.entry.digest, file.source)
    return file.entry.digest


def test_delete_frees_what_only_this_version_used(place: Place) -> None:
    one, two = place.register(content=b"one"), place.register(content=b"twotwo")
    place.add(two)
    place.hub.conversions.record(conversion(two))
    place.hub.measurements.record(replace(measurement("m1"), version=2), place.file("s", b"raw samples"))
    place.hub.aliases.set("digits", "old", 1)
    before = _stored(place.hub)
    planned = place.hub.versions.delete(ref("digits:2"), dry_run=True)
    assert (_stored(place.hub), place.hub.versions.get(ref("digits:2"))) == (before, two)
    freed = place.hub.versions.delete(ref("digits:2"))
    assert freed == Freed(
        versions=("digits:2",), artifacts=2, conversions=1, measurements=1, blobs=4, size_bytes=6 + 4 + 8 + 11
    )
    assert planned == replace(freed, dry_run=True)
    assert len(before) - len(_stored(place.hub)) == 4
    assert place.hub.gc() == Freed()
    with place.reopen() as fresh:
        assert (fresh.versions.checkout(one) / "model.pt2").read_bytes() == b"one"
        with pytest.raises(NotFound):
            fresh.versions.get(ref("digits:2"))
        with pytest.raises(NotFound):
            fresh.measurements.get("m1")


def test_delete_of_an_aliased_version_needs_force_and_notes_the_removal(place: Place) -> None:
    place.register()
    place.hub.aliases.set("digits", "production", 1)
    with pytest.raises(Conflict, match="digits@production"):
        place.hub.versions.delete(ref("digits:1"))
    assert place.hub.versions.delete(ref("digits:1"), force=True).aliases == ("production",)
    assert [e.action for e in place.hub.aliases.history("digits", "production")] == ["set", "removed"]
    assert place.hub.aliases.list("digits") == {}


@pytest.mark.parametrize("force", [False, True])
def test_delete_of_a_served_version_is_always_refused(place: Place, force: bool) -> None:
    version = place.register()
    place.hub.services.put(service("live", place.hub.artifacts.get(version.source_artifact)))
    for dry_run in (True, False):
        with pytest.raises(Conflict, match="served by live"):
            place.hub.versions.delete(ref("digits:1"), force=force, dry_run=dry_run)
    place.hub.services.remove("live")
    place.hub.versions.delete(ref("digits:1"))


def test_gc_removes_orphans_and_nothing_else(place: Place) -> None:
    version = place.register()
    artifact = place.add(version)
    kept = place.hub.measurements.record(measurement(), place.file("s", b"raw samples"))
    before = _stored(place.hub)
    orphan = _orphan(place)
    assert place.hub.gc(dry_run=True) == Freed(blobs=1, size_bytes=6, dry_run=True)
    assert _stored(place.hub) == before | {orphan}
    assert place.hub.gc() == Freed(blobs=1, size_bytes=6)
    assert _stored(place.hub) == before
    with place.reopen() as fresh:
        fresh.versions.checkout(version)
        fresh.artifacts.checkout(artifact)
        assert fresh.measurements.samples(kept).read_bytes() == b"raw samples"


def test_gc_spares_what_a_living_writer_is_about_to_reference(place: Place) -> None:
    """A writer that stored its blobs and has not committed yet; an orphan that it adopts counts as its own."""
    files = read_files(place.files())
    orphan = next(f.entry.digest for f in files if f.entry.path == "model.pt2")
    place.hub._store.put(orphan, place.files()["model.pt2"])
    with place.reopen() as collector:
        with place.hub._vault.stored(files) as held:
            assert collector.gc(dry_run=True).blobs == 0
            assert collector.gc().blobs == 0
            assert _stored(collector) == {f.entry.digest for f in files}
            with place.hub._database.write() as connection:
                held.confirm(connection)
        assert collector.gc().blobs == 3


def test_a_failed_writer_leaves_nothing(place: Place) -> None:
    def fail() -> None:
        with place.hub._vault.stored(read_files(place.files())):
            assert len(_stored(place.hub)) == 3
            raise BackendFailed("conversion of the rows failed")

    with pytest.raises(BackendFailed):
        fail()
    assert _stored(place.hub) == set()
    assert place.hub.gc() == Freed()


def test_pins_of_a_dead_process_lapse_at_once_and_of_a_far_one_in_time(database_place: Place) -> None:
    """A writer on another machine cannot be seen; it gets its time, and is told when it took longer."""
    place = database_place
    files = read_files(place.files())
    pid = os.fork()
    if pid == 0:  # the child dies holding its pins, as after kill -9
        hub = Hub.open(place.database_url, place.blobs_url, place.directory / "child", place.clock)
        with hub._vault.stored(files):
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert place.hub.gc(dry_run=True).blobs == 3
    assert place.hub.gc().blobs == 3

    def far() -> None:
        with place.hub._vault.stored(files) as held:
            with place.hub._database.write() as connection:
                connection.exec_driver_sql("UPDATE pins SET holder = 'elsewhere 1 1'")
            assert place.hub.gc().blobs == 0
            place.clock.forward(PIN_TTL + timedelta(seconds=1))
            assert place.hub.gc().blobs == 3
            with place.hub._database.write() as connection:
                held.confirm(connection)

    with pytest.raises(Unavailable, match="too long"):
        far()


def test_gc_beside_writers_loses_nothing(every_place: Place) -> None:
    """Writers register, and delete what they registered, while collections run without pause."""
    place = every_place
    stop = threading.Event()
    kept: list[Version] = []

    def collect() -> None:
        with place.reopen() as hub:
            while not stop.is_set():
                hub.gc()

    def write(writer: int) -> None:
        with Hub.open(place.database_url, place.blobs_url, place.directory / f"w{writer}", place.clock) as hub:
            for turn in range(6):
                files = place.files(b"content %d" % (turn % 3))
                made = hub.versions.register(definition(f"model-{writer}"), Description(), files, SOURCE)
                if turn < 3:
                    hub.versions.delete(ref(made.version.ref))
                else:
                    kept.append(made.version)

    for content in range(3):
        place.files(b"content %d" % content)
    with ThreadPoolExecutor(3) as pool:
        collecting = pool.submit(collect)
        try:
            list(pool.map(write, range(2)))
        finally:
            stop.set()
        collecting.result()
    assert len(kept) == 6
    with place.reopen() as fresh:
        for version in kept:
            assert (fresh.versions.checkout(version) / "model.pt2").read_bytes().startswith(b"content")
    assert place.hub.gc().blobs == 0


def test_gc_drops_old_copies_but_none_that_a_service_runs_from(place: Place) -> None:
    version = place.register()
    artifact = place.add(version)
    place.hub.services.put(service("live", artifact))
    running = Path(place.hub.artifacts.checkout(artifact).directory)
    data = place.hub.versions.checkout(version)
    source = Path(place.hub.artifacts.checkout(place.hub.artifacts.get(version.source_artifact)).directory)
    assert place.hub.gc().cache_entries == 0
    assert place.hub.gc(dry_run=True, cache_max_age_s=0).cache_entries == 1
    assert place.hub.gc(cache_max_age_s=0).cache_entries == 1
    assert (running.exists(), data.exists(), source.exists()) == (True, True, False)
    place.hub.services.remove("live")
    assert place.hub.gc(cache_max_age_s=0).cache_entries == 2
    assert place.hub.artifacts.checkout(artifact).directory == str(running)
