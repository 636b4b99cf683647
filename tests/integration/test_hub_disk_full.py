"""A full disk: one clear error, nothing half-made, everything before it still there."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from modelyard.domain.errors import BackendFailed
from modelyard.domain.versions import Definition, Description, SourceSpec
from modelyard.hub import Hub
from modelyard.hub.blobs import local
from modelyard.hub.blobs.ports import Blob
from tests.contract.hub_content import Clock, Place, definition, ref


def _open(directory: Path, blobs: Path) -> Place:
    url = f"sqlite:///{directory}/hub.db"
    return Place(Hub.open(url, str(blobs), directory / "cache", Clock()), url, str(blobs), directory, Clock())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB; only root may mount one."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"this machine allows no mounts: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def _files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


def test_a_register_that_fills_the_disk_keeps_nothing_half_made(tmp_path: Path, small_disk: Path) -> None:
    place = _open(tmp_path, small_disk / "blobs")
    version = place.register(content=b"small")
    before = _files(small_disk)
    with pytest.raises(BackendFailed, match="disk is full") as caught:
        place.register(content=os.urandom(4 << 20))
    assert "free space" in caught.value.hint
    assert _files(small_disk) == before
    assert [v.ref for v in place.hub.versions.list("digits")] == [version.ref]
    assert (place.hub.versions.checkout(version) / "model.pt2").read_bytes() == b"small"
    assert place.register(content=b"small again").number == 2
    place.hub.close()


def test_a_full_database_disk_keeps_nothing_half_made(tmp_path: Path, small_disk: Path) -> None:
    place = _open(small_disk, tmp_path / "blobs")
    content = place.file("content", b"x")
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    with pytest.raises(BackendFailed, match="disk is full"):
        place.hub.versions.register(*_registration(content))
    filler.unlink()
    assert place.hub.versions.models() == []
    assert place.hub.gc(dry_run=True).blobs == 0
    made = place.hub.versions.register(*_registration(content))
    assert place.hub.versions.get(ref("digits")) == made.version
    place.hub.close()


def _registration(content: Path) -> tuple[Definition, Description, dict[str, Path], list[str]]:
    made = definition(dataset=None, source=SourceSpec("onnx", "model.onnx"))
    return made, Description(), {"model.onnx": content}, ["model.onnx"]


@pytest.mark.parametrize("call", ["write", "fsync", "directory fsync"])
def test_any_failing_step_of_storing_is_an_error_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """After a failed fsync nothing is acknowledged (reference T5)."""
    place = _open(tmp_path, tmp_path / "blobs")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def half(source: BinaryIO, target: BinaryIO | None) -> Blob:
        if target is not None:
            target.write(source.read(3))
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "write":
        monkeypatch.setattr(local, "copy_hashed", half)
    elif call == "fsync":
        monkeypatch.setattr(local.os, "fsync", full)
    else:
        monkeypatch.setattr(local, "_sync_directory", full)
    with pytest.raises(BackendFailed, match="disk is full"):
        place.register()
    monkeypatch.undo()
    assert place.hub.versions.models() == []
    place.hub.gc()
    assert {path.name for path in _files(tmp_path / "blobs")} <= {"owner"}
    assert place.register().number == 1
    place.hub.close()
