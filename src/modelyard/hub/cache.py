"""Local copies of stored files: read-only directories and files, verified each time they are handed out.

Files are copied, never hard-linked: loaders rightly refuse external data with more than one link, and a write through
a link would damage the store.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from modelyard.domain.artifacts import ArtifactFile
from modelyard.hub.blobs import BlobStore, hash_file
from modelyard.hub.blobs.ports import disk_failure

_PARTIAL = ".partial-"
_BYTECODE = "__pycache__"


def tree_key(files: Sequence[ArtifactFile]) -> str:
    """Name of the directory that holds exactly these files."""
    listing = "".join(f"{f.digest} {f.path}\n" for f in sorted(files, key=lambda f: f.path))
    return hashlib.sha256(listing.encode()).hexdigest()


class Cache:
    """Checked-out trees and blobs under one local directory. Safe for use by many threads and processes at once."""

    def __init__(self, root: Path, store: BlobStore) -> None:
        self._store = store
        self._trees = root / "trees"
        self._blobs = root / "blobs"
        try:
            for directory in (self._trees, self._blobs):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_failure(error, f"making the cache {root}") from error

    def tree(self, files: Sequence[ArtifactFile]) -> Path:
        """A read-only directory with exactly `files`; each is verified now. Raises BackendFailed, NotFound."""
        target = self._trees / tree_key(files)
        try:
            if not _intact(target, files):
                with self._partial(self._trees) as partial:
                    for file in files:
                        path = partial / file.path
                        path.parent.mkdir(parents=True, exist_ok=True)
                        self._store.fetch(file.digest, path)
                    _make_read_only(partial)
                    self._install(partial, target, files)
            os.utime(target)  # last use, for `sweep`
        except OSError as error:
            raise disk_failure(error, "writing the cache") from error
        return target

    def blob(self, digest: str) -> Path:
        """A read-only local copy of one blob, verified now. Raises BackendFailed, NotFound."""
        target = self._blobs / digest
        try:
            if not (target.is_file() and not target.is_symlink() and hash_file(target).digest == digest):
                with self._partial(self._blobs) as partial:
                    self._store.fetch(digest, partial / "blob")
                    (partial / "blob").chmod(0o444)
                    (partial / "blob").replace(target)
            os.utime(target)
        except OSError as error:
            raise disk_failure(error, "writing the cache") from error
        return target

    def sweep(self, keep: set[str], known: set[str], *, max_age_s: float, dry_run: bool) -> tuple[int, int]:
        """Remove dead writers' leftovers and copies last used over `max_age_s` ago; count and bytes.

        `keep` names trees that services run from: they stay. `known` names trees and blobs the hub still has:
        a copy of anything else goes once it was not used for an hour.
        """
        count = size = 0
        now = time.time()
        try:
            for entry in [*os.scandir(self._trees), *os.scandir(self._blobs)]:
                path = Path(entry.path)
                with suppress(FileNotFoundError):
                    age = now - entry.stat(follow_symlinks=False).st_mtime
                    if entry.name.startswith(_PARTIAL):
                        freed = _drop_abandoned(path, dry_run=dry_run)
                    elif entry.name in keep or age < (max_age_s if entry.name in known else min(max_age_s, 3600.0)):
                        freed = None
                    else:
                        freed = _drop(path, dry_run=dry_run)
                    if freed is not None:
                        count, size = count + 1, size + freed
        except OSError as error:
            raise disk_failure(error, "sweeping the cache") from error
        return count, size

    def _install(self, partial: Path, target: Path, files: Sequence[ArtifactFile]) -> None:
        """Rename into place; where another process was faster its tree is used, a damaged one is moved aside."""
        try:
            partial.rename(target)
        except OSError:
            if _intact(target, files):
                return
            aside = self._trees / f"{_PARTIAL}{secrets.token_hex(8)}"
            target.rename(aside)
            partial.rename(target)
            _remove(aside)

    @contextmanager
    def _partial(self, parent: Path) -> Iterator[Path]:
        """A new directory, locked while its writer lives; removed on the way out unless it was renamed."""
        while True:
            path = parent / f"{_PARTIAL}{secrets.token_hex(8)}"
            path.mkdir()
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not path.exists():
                    continue  # a sweep took it between making and locking
                yield path
                return
            finally:
                os.close(descriptor)
                _remove(path)


def _intact(tree: Path, files: Sequence[ArtifactFile]) -> bool:
    """Whether `tree` holds exactly `files`, all regular, unlinked and with their digests.

    Bytecode folders do not count: Python writes them beside a factory when the user may write anywhere.
    """
    if not tree.is_dir() or tree.is_symlink():
        return False
    found: set[str] = set()
    for directory, folders, names in os.walk(tree):
        if any((Path(directory) / folder).is_symlink() for folder in folders):
            return False
        folders[:] = [folder for folder in folders if folder != _BYTECODE]
        found.update((Path(directory) / name).relative_to(tree).as_posix() for name in names)
    return found == {file.path for file in files} and all(_same(tree / file.path, file) for file in files)


def _same(path: Path, file: ArtifactFile) -> bool:
    status = path.lstat()
    plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_size == file.size_bytes
    return plain and hash_file(path).digest == file.digest


def _make_read_only(tree: Path) -> None:
    for directory, _, names in os.walk(tree, topdown=False):
        for name in names:
            (Path(directory) / name).chmod(0o444)
        Path(directory).chmod(0o555)


def _drop_abandoned(path: Path, *, dry_run: bool) -> int | None:
    """Drop a partial directory whose writer is dead (its lock is free); its bytes, or None where the writer lives."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _drop(path, dry_run=dry_run)
    except BlockingIOError:
        return None
    finally:
        os.close(descriptor)


def _drop(path: Path, *, dry_run: bool) -> int:
    size = _size(path)
    if not dry_run:
        _remove(path)
    return size


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum((Path(directory) / name).lstat().st_size for directory, _, names in os.walk(path) for name in names)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
        return
    for directory, _, _ in os.walk(path):
        Path(directory).chmod(0o755)
    with suppress(FileNotFoundError):
        shutil.rmtree(path)
