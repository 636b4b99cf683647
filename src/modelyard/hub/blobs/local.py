"""Blobs in a local directory: `objects/ab/abcdef...`, written to `tmp/`, fsynced, renamed, directory fsynced."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from modelyard.domain.errors import Conflict, NotFound
from modelyard.hub.blobs.ports import Blob, check_owner, copy_hashed, damaged, disk_failure, hash_file


class LocalBlobs:
    """A BlobStore in a directory. A temp file is locked while its writer lives, so that `sweep` knows the dead ones."""

    def __init__(self, root: Path, owner: str) -> None:
        self._root = root
        self._owner = owner
        self._claimed = False
        self._objects = root / "objects"
        self._tmp = root / "tmp"
        try:
            for directory in (self._objects, self._tmp):
                directory.mkdir(parents=True, exist_ok=True)
            _sync_directory(root)
        except OSError as error:
            raise disk_failure(error, f"making the blob store {root}") from error

    def put(self, digest: str, source: Path) -> bool:
        target = self._path(digest)
        try:
            self._claim()
            if target.is_file() and hash_file(target).digest == digest:
                # Another writer may have renamed it a moment ago and not yet synced the directory.
                _sync_directory(target.parent)
                return False
            if not target.parent.is_dir():
                target.parent.mkdir(exist_ok=True)
                _sync_directory(self._objects)
            with source.open("rb") as content, self._temp_file() as (temp, path):
                if copy_hashed(content, temp).digest != digest:
                    raise Conflict(f"{source} changed while it was being stored", hint="try again when it is at rest")
                temp.flush()
                os.fchmod(temp.fileno(), 0o444)
                os.fsync(temp.fileno())
                path.replace(target)
            _sync_directory(target.parent)
        except OSError as error:
            raise disk_failure(error, f"storing {source.name}") from error
        return True

    def fetch(self, digest: str, target: Path) -> None:
        path = self._path(digest)
        try:
            with _open_regular(path) as content, target.open("xb") as copy:
                found = copy_hashed(content, copy).digest
        except FileNotFoundError as error:
            target.unlink(missing_ok=True)
            raise _missing(digest, path) from error
        except OSError as error:
            target.unlink(missing_ok=True)
            raise disk_failure(error, f"reading blob {digest[:12]}") from error
        if found != digest:
            target.unlink()
            raise damaged(digest, str(path))

    def delete(self, digest: str) -> None:
        try:
            self._claim()
            self._path(digest).unlink(missing_ok=True)
        except OSError as error:
            raise disk_failure(error, f"removing blob {digest[:12]}") from error

    def scan(self) -> Iterator[Blob]:
        try:
            for directory in os.scandir(self._objects):
                for entry in os.scandir(directory.path):
                    with suppress(FileNotFoundError):  # removed since the directory was read
                        yield Blob(entry.name, entry.stat(follow_symlinks=False).st_size)
        except OSError as error:
            raise disk_failure(error, "listing the blob store") from error

    def sweep(self, *, dry_run: bool) -> tuple[int, int]:
        count = size = 0
        try:
            self._claim()
            for entry in os.scandir(self._tmp):
                with suppress(FileNotFoundError, BlockingIOError), Path(entry.path).open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    size += os.fstat(file.fileno()).st_size
                    if not dry_run:
                        Path(entry.path).unlink()
                    count += 1
        except OSError as error:
            raise disk_failure(error, "sweeping temp files") from error
        return count, size

    def _claim(self) -> None:
        """Become the store's owner if it has none; raises Conflict where another hub is."""
        if self._claimed:
            return
        path = self._root / "owner"
        if not path.exists():
            with self._temp_file() as (file, temp), suppress(FileExistsError):
                file.write(self._owner.encode())
                file.flush()
                os.fsync(file.fileno())
                path.hardlink_to(temp)  # unlike a rename, never in place of another's
            _sync_directory(self._root)
        check_owner(self._owner, path.read_text(encoding="utf-8"), str(self._root))
        self._claimed = True

    @contextmanager
    def _temp_file(self) -> Iterator[tuple[BinaryIO, Path]]:
        """A new locked file in `tmp/`; removed on the way out unless it was renamed."""
        while True:
            path = self._tmp / secrets.token_hex(16)
            with path.open("xb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not path.exists():
                    continue  # a sweep took it between open and lock
                try:
                    yield file, path
                finally:
                    path.unlink(missing_ok=True)
                return

    def _path(self, digest: str) -> Path:
        return self._objects / digest[:2] / digest


def _missing(digest: str, path: Path) -> NotFound:
    return NotFound(
        f"blob {digest[:12]} is not in the blob store",
        why=f"{path} does not exist",
        hint="run `yard register` with the original files again: it restores the blob",
    )


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, never through a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
