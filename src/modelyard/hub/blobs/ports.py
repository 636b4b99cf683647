"""What a blob store is, and how one is opened by URL."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from modelyard.domain.errors import BackendFailed, Conflict, InvalidInput

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored blob: SHA-256 of its content in hex, and its size."""

    digest: str
    size_bytes: int


class BlobStore(Protocol):
    """Blobs addressed by the SHA-256 of their content. Safe for use by many threads and processes at once.

    Every method raises BackendFailed when the store cannot do it, Unavailable when it cannot be reached; `put`,
    `delete` and `sweep` raise Conflict where the store belongs to another hub.
    """

    def put(self, digest: str, source: Path) -> bool:
        """Store the content of `source`, durably and all or nothing; False if it was there already.

        A damaged copy that the store can recognise is replaced. Raises Conflict where the content of `source` is
        not `digest` any more.
        """

    def fetch(self, digest: str, target: Path) -> None:
        """Copy a blob into the new file `target`, verified; on any error no `target` is left.

        Raises NotFound; BackendFailed where the content does not have its digest.
        """

    def delete(self, digest: str) -> None:
        """Remove a blob; no error if it is not there."""

    def scan(self) -> Iterator[Blob]:
        """All stored blobs, in no order."""

    def sweep(self, *, dry_run: bool) -> tuple[int, int]:
        """Remove what dead writers left half-written; count and bytes. Never touches a living writer's file."""


def open_store(url: str, *, owner: str) -> BlobStore:
    """The store at `url`: a local path or `file://` URL, else any fsspec URL with options in its query.

    The store belongs to the hub that first writes into it: another `owner` may read, and gets Conflict when it
    writes or deletes, because its garbage may be the owner's treasure.
    `s3://bucket/prefix?endpoint_url=...` passes options to the file system; AWS_* variables work as usual.
    """
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        from modelyard.hub.blobs.local import LocalBlobs

        path = unquote(parts.path) if parts.scheme else url
        if not path:
            raise InvalidInput("the blob store has no path", hint="give a directory or a URL like s3://bucket/prefix")
        return LocalBlobs(Path(path).expanduser().absolute(), owner)
    from modelyard.hub.blobs.remote import RemoteBlobs

    return RemoteBlobs.open(url, owner)


def hash_file(path: Path) -> Blob:
    """Digest and size of a file's content. Raises OSError."""
    with path.open("rb") as file:
        return copy_hashed(file, None)


def copy_hashed(source: BinaryIO, target: BinaryIO | None) -> Blob:
    """Copy `source` to `target` (if any) from where both are; digest and size of what was copied."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return Blob(digest.hexdigest(), size)


def disk_failure(error: OSError, doing: str) -> BackendFailed:
    """An OSError of a disk as the user's error: what could not be done, why, what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BackendFailed(
            f"the disk is full while {doing}",
            why=str(error),
            hint="free space or run `yard gc`, then try again; nothing half-made was kept",
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return BackendFailed(f"no permission while {doing}", why=str(error), hint="check owner and mode of that path")
    return BackendFailed(
        f"the disk failed while {doing}", why=str(error), hint="check the disk (`dmesg`), then try again"
    )


def check_owner(owner: str, present: str, where: str) -> None:
    """Raise Conflict where a store belongs to another hub."""
    if present != owner:
        raise Conflict(
            f"the blob store {where} belongs to another hub",
            why="its file `owner` names another database than the one that is open",
            hint="open the hub with its own database, or give this one a blob store of its own",
        )


def damaged(digest: str, where: str) -> BackendFailed:
    """The error for a blob whose content does not have its digest."""
    return BackendFailed(
        f"blob {digest[:12]} is damaged and was not used",
        why=f"the content of {where} does not have the SHA-256 that names it",
        hint="remove that file and run `yard register` with the original files again: it restores the blob",
    )
