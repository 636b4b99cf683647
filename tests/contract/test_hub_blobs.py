"""The BlobStore contract over every store: a local directory, S3, and an fsspec file system without atomic uploads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelyard.domain.errors import BackendFailed, Conflict, NotFound, Unavailable
from modelyard.domain.versions import Description
from modelyard.hub import Hub
from modelyard.hub.blobs import Blob, BlobStore, open_store
from modelyard.hub.blobs.local import LocalBlobs
from modelyard.hub.blobs.remote import RemoteBlobs
from tests.contract.hub_content import Place, definition, ref

CONTENT = b"content of a blob" * 100
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(params=["local", "s3", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    if request.param == "local":
        yield open_store(str(tmp_path / "blobs"), owner="me")
    elif request.param == "s3":
        yield open_store(request.getfixturevalue("s3_url"), owner="me")
    else:
        yield open_store(f"memory://{tmp_path.name}", owner="me")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


def _damage(store: BlobStore, content: bytes) -> None:
    if isinstance(store, LocalBlobs):
        path = store._path(DIGEST)
        path.chmod(0o644)
        path.write_bytes(content)
    else:
        assert isinstance(store, RemoteBlobs)
        store._fs.pipe_file(store._path(DIGEST), content)


def test_a_stored_blob_comes_back(store: BlobStore, source: Path, tmp_path: Path) -> None:
    assert store.put(DIGEST, source) is True
    store.fetch(DIGEST, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert list(store.scan()) == [Blob(DIGEST, len(CONTENT))]
    assert store.sweep(dry_run=False) == (0, 0)


def test_an_empty_blob_comes_back(store: BlobStore, tmp_path: Path) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    (tmp_path / "empty").touch()
    store.put(empty, tmp_path / "empty")
    store.fetch(empty, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b""


def test_storing_again_changes_nothing(store: BlobStore, source: Path) -> None:
    store.put(DIGEST, source)
    assert store.put(DIGEST, source) is False
    assert [blob.digest for blob in store.scan()] == [DIGEST]


def test_many_writers_of_one_blob_leave_one(store: BlobStore, source: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.put(DIGEST, source), range(16)))
    store.fetch(DIGEST, tmp_path / "copy")
    assert [blob.digest for blob in store.scan()] == [DIGEST]
    assert store.sweep(dry_run=True) == (0, 0)


def test_a_source_that_changed_is_refused_and_not_kept(store: BlobStore, source: Path) -> None:
    source.write_bytes(b"something else")
    with pytest.raises(Conflict, match="changed"):
        store.put(DIGEST, source)
    assert list(store.scan()) == []
    assert store.sweep(dry_run=True) == (0, 0)


@pytest.mark.parametrize("harm", [b"Content" + CONTENT[7:], CONTENT[:-1], CONTENT + b"x", b""])
def test_a_damaged_blob_is_refused_and_leaves_no_file(
    store: BlobStore, source: Path, tmp_path: Path, harm: bytes
) -> None:
    store.put(DIGEST, source)
    _damage(store, harm)
    with pytest.raises(BackendFailed, match="damaged") as caught:
        store.fetch(DIGEST, tmp_path / "copy")
    assert "yard register" in caught.value.hint
    assert not (tmp_path / "copy").exists()


def test_storing_again_replaces_a_truncated_blob(store: BlobStore, source: Path, tmp_path: Path) -> None:
    store.put(DIGEST, source)
    _damage(store, CONTENT[:-1])
    assert store.put(DIGEST, source) is True
    store.fetch(DIGEST, tmp_path / "copy")


def test_a_missing_blob_is_not_found_and_leaves_no_file(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        store.fetch(DIGEST, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_deleted_blob_is_gone_and_deleting_again_is_no_error(store: BlobStore, source: Path) -> None:
    store.put(DIGEST, source)
    for _ in range(2):
        store.delete(DIGEST)
    assert list(store.scan()) == []


def test_a_thousand_harmed_copies_are_a_thousand_refusals(source: Path, tmp_path: Path) -> None:
    """Any flipped bit and any cut is noticed (reference T6)."""
    import random

    draw = random.Random(6)
    store = open_store(str(tmp_path / "blobs"), owner="me")
    store.put(DIGEST, source)
    served = 0
    for _ in range(1000):
        harmed = bytearray(CONTENT)
        if draw.random() < 0.2:
            del harmed[draw.randrange(len(harmed)) :]
        else:
            harmed[draw.randrange(len(harmed))] ^= 1 << draw.randrange(8)
        _damage(store, bytes(harmed))
        try:
            store.fetch(DIGEST, tmp_path / "copy")
            served += 1
        except BackendFailed:
            pass
    assert served == 0


def test_an_unreachable_s3_server_is_unavailable(source: Path) -> None:
    pytest.importorskip("s3fs")
    store = open_store("s3://bucket/x?endpoint_url=http://127.0.0.1:1&key=k&secret=hidden-secret", owner="me")
    with pytest.raises(Unavailable) as caught:
        store.put(DIGEST, source)
    assert "s3://bucket/x" in caught.value.what
    assert "hidden-secret" not in f"{caught.value} {caught.value.hint}"


def test_a_missing_bucket_is_named(s3_url: str, source: Path) -> None:
    store = open_store(s3_url.replace("s3://test-", "s3://missing-"), owner="me")
    with pytest.raises((NotFound, BackendFailed), match="missing-"):
        store.put(DIGEST, source)


def test_a_local_blob_that_is_a_link_is_refused(source: Path, tmp_path: Path) -> None:
    store = LocalBlobs(tmp_path / "blobs", "me")
    store.put(DIGEST, source)
    store._path(DIGEST).unlink()
    store._path(DIGEST).symlink_to(source)
    with pytest.raises(BackendFailed):
        store.fetch(DIGEST, tmp_path / "copy")


def test_sweep_takes_dead_writers_files_and_spares_the_living(tmp_path: Path) -> None:
    store = LocalBlobs(tmp_path / "blobs", "me")
    (tmp_path / "blobs" / "tmp" / "dead").write_bytes(b"half")
    with store._temp_file() as (file, path):
        file.write(b"alive")
        assert store.sweep(dry_run=True) == (1, 4)
        assert store.sweep(dry_run=False) == (1, 4)
        assert path.exists()
    assert list((tmp_path / "blobs" / "tmp").iterdir()) == []


def test_a_store_belongs_to_the_hub_that_first_wrote_into_it(place: Place) -> None:
    """A hub with another database would take all blobs for garbage: it may read, and changes nothing."""
    version = place.register()
    stranger = Hub.open(f"sqlite:///{place.directory}/other.db", place.blobs_url, place.directory / "other")
    before = sorted(blob.digest for blob in place.hub._store.scan())
    with pytest.raises(Conflict, match="belongs to another hub"):
        stranger.gc()
    with pytest.raises(Conflict, match="belongs to another hub"):
        stranger.versions.register(definition(), Description(), place.files(), ["model.pt2", "net/model.py"])
    stranger.close()
    assert sorted(blob.digest for blob in place.hub._store.scan()) == before
    with place.reopen() as hub:
        assert hub.versions.get(ref("digits")) == version
        assert hub.gc().blobs == 0
