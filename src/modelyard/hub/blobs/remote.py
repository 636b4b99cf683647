"""Blobs behind any fsspec URL (`s3://bucket/prefix`): `objects/ab/abcdef...`, as in a local directory."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from modelyard.domain.errors import BackendFailed, Conflict, InvalidInput, NotFound, Unavailable, Unsupported
from modelyard.hub.blobs.ports import Blob, check_owner, damaged, disk_failure, hash_file

# Object stores publish an object only when its upload is complete; elsewhere we upload aside and rename.
_ATOMIC_UPLOADS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "r2"})
# The store cannot tell whether a writer elsewhere still lives: what it began longer ago than this is dead.
_STALE = timedelta(hours=24)
_S3_TIMEOUTS = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2}}
_EXTRAS = {"s3": "modelyard[s3]", "s3a": "modelyard[s3]", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}


class RemoteBlobs:
    """A BlobStore on an fsspec file system. `label` names it in errors, without credentials."""

    def __init__(self, fs: Any, root: str, owner: str, *, label: str, atomic_uploads: bool) -> None:
        self._owner = owner
        self._claimed = False
        self._fs = fs
        self._root = root.rstrip("/")
        self._label = label
        self._atomic = atomic_uploads

    @classmethod
    def open(cls, url: str, owner: str) -> RemoteBlobs:
        """Open by URL; the query's options go to the file system. Raises Unsupported, InvalidInput."""
        import fsspec

        parts = urlsplit(url)
        options: dict[str, Any] = dict(parse_qsl(parts.query))
        label = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        if parts.scheme in ("s3", "s3a"):
            options |= {"config_kwargs": _S3_TIMEOUTS, "use_listings_cache": False}
        try:
            fs, root = fsspec.core.url_to_fs(parts._replace(query="").geturl(), **options)
        except ImportError as error:
            package = _EXTRAS.get(parts.scheme, f"the fsspec package for {parts.scheme}")
            raise Unsupported(
                f"blob stores at {parts.scheme}:// need a package that is not installed",
                why=str(error),
                hint=f"pip install '{package}'",
            ) from error
        except (ValueError, TypeError) as error:
            raise InvalidInput(
                f"'{label}' is not a blob store", why=str(error), hint="give a directory or s3://bucket/prefix"
            ) from error
        return cls(fs, root, owner, label=label, atomic_uploads=parts.scheme in _ATOMIC_UPLOADS)

    def put(self, digest: str, source: Path) -> bool:
        path = self._path(digest)
        try:
            size = source.stat().st_size
        except OSError as error:
            raise disk_failure(error, f"reading {source}") from error
        with self._reported(f"storing {source.name}"):
            self._claim()
            if self._size(path) == size:
                return False
            upload = path if self._atomic else f"{self._root}/incoming/{secrets.token_hex(16)}"
            try:
                self._make_folder(upload)
                self._fs.put_file(str(source), upload)
                if hash_file(source).digest != digest:
                    raise Conflict(f"{source} changed while it was being stored", hint="try again when it is at rest")
                if upload != path:
                    self._make_folder(path)
                    self._fs.mv(upload, path)
            except BaseException:
                if self._fs.exists(upload):
                    self._fs.rm_file(upload)
                raise
            if self._size(path) != size:
                raise BackendFailed(
                    f"{self._label} kept only a part of {source.name}", hint="try again; check the store's own log"
                )
        return True

    def fetch(self, digest: str, target: Path) -> None:
        path = self._path(digest)
        try:
            with self._reported(f"reading blob {digest[:12]}"):
                self._fs.get_file(path, str(target))
            found = hash_file(target).digest
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        if found != digest:
            target.unlink()
            raise damaged(digest, f"{self._label}/objects/{digest[:2]}/{digest}")

    def delete(self, digest: str) -> None:
        with self._reported(f"removing blob {digest[:12]}"):
            self._claim()
            if self._size(self._path(digest)) is not None:
                self._fs.rm_file(self._path(digest))

    def scan(self) -> Iterator[Blob]:
        with self._reported("listing blobs"):
            found = self._fs.find(f"{self._root}/objects", detail=True)
        for path, info in found.items():
            yield Blob(path.rpartition("/")[2], int(info["size"]))

    def sweep(self, *, dry_run: bool) -> tuple[int, int]:
        with self._reported("sweeping temp files"):
            self._claim()
            if hasattr(self._fs, "list_multipart_uploads"):
                return self._sweep_multipart(dry_run=dry_run)
            if self._atomic or not self._fs.exists(f"{self._root}/incoming"):
                return 0, 0
            count = size = 0
            for path, info in self._fs.find(f"{self._root}/incoming", detail=True).items():
                if _age(self._fs.modified(path)) > _STALE:
                    count, size = count + 1, size + int(info["size"])
                    if not dry_run:
                        self._fs.rm_file(path)
        return count, size

    def _sweep_multipart(self, *, dry_run: bool) -> tuple[int, int]:
        """Abort S3 uploads of dead writers under our prefix: invisible, but paid for. Their size is not told."""
        bucket, _, prefix = f"{self._root}/objects/".partition("/")
        count = 0
        for upload in self._fs.list_multipart_uploads(bucket):
            if upload["Key"].startswith(prefix) and _age(upload["Initiated"]) > _STALE:
                count += 1
                if not dry_run:
                    self._fs.call_s3(
                        "abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
        return count, 0

    def _path(self, digest: str) -> str:
        return f"{self._root}/objects/{digest[:2]}/{digest}"

    def _claim(self) -> None:
        """Become the store's owner if it has none; raises Conflict where another hub is."""
        if self._claimed:
            return
        path = f"{self._root}/owner"
        if self._size(path) is None:
            self._make_folder(path)
            self._fs.pipe_file(path, self._owner.encode())
        check_owner(self._owner, self._fs.cat_file(path).decode(), self._label)
        self._claimed = True

    def _make_folder(self, path: str) -> None:
        if not self._atomic:  # object stores have no folders, and s3fs would make a mistyped bucket
            self._fs.makedirs(self._fs._parent(path), exist_ok=True)

    def _size(self, path: str) -> int | None:
        try:
            return int(self._fs.info(path)["size"])
        except FileNotFoundError:
            return None

    @contextmanager
    def _reported(self, doing: str) -> Iterator[None]:
        """Turn what the file system's client raises into the hub's errors."""
        try:
            yield
        except FileNotFoundError as error:
            raise NotFound(
                f"{self._label} has no such bucket or blob while {doing}",
                why=str(error),
                hint="check the store's URL; `yard register` with the original files restores a lost blob",
            ) from error
        except PermissionError as error:
            raise BackendFailed(
                f"{self._label} refused access while {doing}", why=str(error), hint="check the credentials (AWS_*)"
            ) from error
        except OSError as error:
            if error.errno is not None and not isinstance(error, (ConnectionError, TimeoutError)):
                raise disk_failure(error, f"{doing} at {self._label}") from error
            raise self._unreachable(doing, error) from error
        except _client_errors() as error:
            raise self._unreachable(doing, error) from error

    def _unreachable(self, doing: str, error: BaseException) -> Unavailable:
        return Unavailable(
            f"{self._label} could not be reached while {doing}",
            why=str(error),
            hint="check the endpoint and the network, then try again",
            retry_after_s=5.0,
        )


def _age(moment: datetime) -> timedelta:
    return datetime.now(UTC) - (moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _client_errors() -> tuple[type[BaseException], ...]:
    """Errors of the S3 client that are no OSError; known only once the client is loaded."""
    botocore = sys.modules.get("botocore.exceptions")
    return (botocore.BotoCoreError, botocore.ClientError) if botocore else ()
