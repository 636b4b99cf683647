"""Artifacts: stored once, servable only when proven, verified whenever they are read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from modelyard.domain.artifacts import Standing
from modelyard.domain.errors import BackendFailed, InvalidInput, NotFound
from modelyard.domain.versions import Description
from tests.contract.hub_content import Place, definition, ref


def test_the_source_artifact_holds_the_source_files_only(place: Place) -> None:
    version = place.register()
    (source,) = place.hub.artifacts.list(ref("digits"))
    local = place.hub.artifacts.checkout(source)
    assert (source.id, source.standing, source.parent) == (version.source_artifact, Standing.SOURCE, None)
    assert [file.path for file in source.files] == ["model.pt2", "net/model.py"]
    assert {p.name for p in Path(local.directory).rglob("*") if p.is_file()} == {"model.pt2", "model.py"}
    assert (local.entry, dict(local.options), local.trusted) == ("model.pt2", {"factory": "net.model:build"}, True)


def test_a_converted_artifact_comes_back_as_it_was_added(place: Place) -> None:
    version = place.register()
    given = place.converted("onnx:int8-dynamic")
    added = place.hub.artifacts.add(version, given, version.source_artifact, "cnv-1", Standing.PROVEN)
    with place.reopen() as other:
        found = other.artifacts.get(added.id)
        local = other.artifacts.checkout(found)
        content = {
            p.relative_to(local.directory).as_posix(): p.read_bytes() for p in Path(local.directory).rglob("*.*")
        }
    assert found == added
    assert (found.parent, found.conversion, found.version) == (version.source_artifact, "cnv-1", 1)
    assert (local.entry, local.target, local.precision, local.signature, dict(local.options), local.trusted) == (
        given.entry,
        given.target,
        given.precision,
        given.signature,
        dict(given.options),
        given.trusted,
    )
    assert content == {"model.onnx": b"onnx", "data/model.onnx.data": b"onnxonnx"}


def test_only_the_source_and_the_proven_are_servable(place: Place) -> None:
    version = place.register()
    added = [place.add(version, f"onnx:v{i}", s) for i, s in enumerate((Standing.PROVEN, Standing.REJECTED))]
    servable = place.hub.artifacts.list(ref("digits"), servable_only=True)
    assert [a.id for a in servable] == [version.source_artifact, added[0].id]
    assert [a.id for a in place.hub.artifacts.list(ref("digits"))] == [version.source_artifact, *(a.id for a in added)]
    place.hub.artifacts.set_standing(added[0].id, Standing.REJECTED)
    assert [a.id for a in place.hub.artifacts.list(ref("digits"), servable_only=True)] == [version.source_artifact]


def test_adding_the_same_artifact_again_judges_it_anew(place: Place) -> None:
    version = place.register()
    first = place.add(version, standing=Standing.REJECTED)
    second = place.add(version, standing=Standing.PROVEN)
    assert (second.id, second.standing) == (first.id, Standing.PROVEN)
    assert len(place.hub.artifacts.list(ref("digits"))) == 2


def test_the_same_files_in_two_versions_are_two_artifacts_and_one_blob_each(place: Place) -> None:
    one, two = place.register(content=b"one"), place.register(content=b"two")
    assert place.add(one).id != place.add(two).id
    freed = place.hub.versions.delete(ref("digits:1"))
    assert freed.blobs == 1  # only its own weights; dataset, factory and converted files serve version 2
    assert place.hub.artifacts.checkout(place.hub.artifacts.list(ref("digits:2"))[1]).entry == "model.onnx"


def test_the_sources_standing_is_fixed(place: Place) -> None:
    version = place.register()
    with pytest.raises(InvalidInput):
        place.hub.artifacts.set_standing(version.source_artifact, Standing.REJECTED)
    with pytest.raises(InvalidInput):
        place.add(version, standing=Standing.SOURCE)
    with pytest.raises(InvalidInput):
        place.hub.artifacts.set_standing(place.add(version).id, Standing.SOURCE)


def test_unknown_artifacts_parents_and_versions_are_not_found(place: Place) -> None:
    version = place.register()
    other = place.register("other")
    with pytest.raises(NotFound):
        place.hub.artifacts.get("art-unknown")
    with pytest.raises(NotFound, match="parent"):
        place.hub.artifacts.add(version, place.converted(), other.source_artifact, None, Standing.PROVEN)
    place.hub.versions.delete(ref("digits:1"))
    with pytest.raises(NotFound):
        place.add(version)
    assert place.hub.gc(dry_run=True).blobs == 0


@pytest.mark.parametrize("kind", ["symlink", "hard link", "folder link", "fifo"])
def test_an_artifact_with_a_link_or_special_file_is_refused(place: Place, kind: str) -> None:
    version = place.register()
    secret = place.file("secret/file", b"secret")
    given = place.converted()
    bad = Path(given.directory) / "data" / "bad"
    if kind == "symlink":
        bad.symlink_to(secret)
    elif kind == "hard link":
        bad.hardlink_to(secret)
    elif kind == "folder link":
        bad.symlink_to(secret.parent, target_is_directory=True)
    else:
        os.mkfifo(bad)
    with pytest.raises(InvalidInput, match="link or a special file"):
        place.hub.artifacts.add(version, given, version.source_artifact, None, Standing.PROVEN)


def test_a_checkout_is_read_only_and_made_of_unlinked_files(place: Place) -> None:
    directory = place.hub.versions.checkout(place.register())
    assert all(p.stat().st_mode & 0o222 == 0 for p in [directory, *directory.rglob("*")])
    assert all(p.lstat().st_nlink == 1 for p in directory.rglob("*") if p.is_file())


@pytest.mark.parametrize("harm", ["flip", "truncate", "extra", "link", "remove"])
def test_a_harmed_checkout_is_made_anew(place: Place, harm: str) -> None:
    """Files are verified each time they are handed out; a good copy in the store heals the cache."""
    version = place.register()
    directory = place.hub.versions.checkout(version)
    for path in [directory, *directory.rglob("*")]:
        path.chmod(0o755)
    victim = directory / "model.pt2"
    if harm == "flip":
        victim.write_bytes(b"Weights")
    elif harm == "truncate":
        victim.write_bytes(b"weight")
    elif harm == "extra":
        (directory / "evil.py").write_bytes(b"")
    elif harm == "link":
        victim.rename(place.directory / "elsewhere")
        victim.symlink_to(place.directory / "elsewhere")
    else:
        shutil.rmtree(directory / "net")
    again = place.hub.versions.checkout(version)
    assert again == directory
    assert {p.name: p.read_bytes() for p in again.rglob("*") if p.is_file()} == {
        "model.pt2": b"weights",
        "model.py": b"def build(): ...",
        "holdout.npz": b"dataset",
    }
    assert not victim.is_symlink()
    assert [p.name for p in directory.parent.iterdir()] == [directory.name]


def test_two_processes_may_check_out_the_same_at_once(place: Place) -> None:
    from concurrent.futures import ThreadPoolExecutor

    version = place.register()
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: place.hub.versions.checkout(version), range(8)))
    (directory,) = found
    assert [p.name for p in directory.parent.iterdir()] == [directory.name]


def test_a_lost_blob_is_reported_and_restored_by_registering_again(place: Place) -> None:
    version = place.register()
    victim = next(f for f in place.hub.artifacts.get(version.source_artifact).files if f.path == "model.pt2")
    place.hub._store.delete(victim.digest)
    with place.reopen() as fresh:
        with pytest.raises((NotFound, BackendFailed)) as caught:
            fresh.versions.checkout(version)
        assert "yard register" in caught.value.hint
        assert not any(fresh._cache._trees.iterdir())
        again = fresh.versions.register(definition(), Description(), place.files(), ["model.pt2", "net/model.py"])
        assert (again.created, again.version) == (False, version)
        assert (fresh.versions.checkout(version) / "model.pt2").read_bytes() == b"weights"
