"""System shared memory: tensors of requests and responses in POSIX shared memory instead of the message.

Extension: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_shared_memory.md

A region is read and written through its file descriptor, never mapped: a client that cuts its region short would end
a process that has it mapped by SIGBUS, and could change a tensor after it was checked. The copy that this takes is the
one that runtimes need anyway (they get tensors of their own). A descriptor lives as long as a request that uses it.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import Conflict, InvalidInput, NotFound, Unsupported
from modelyard.serving.faults import TooLarge

DIRECTORY: Final = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is on Linux
MOST_REGIONS: Final = 1024
"""Each holds a file descriptor."""
_KEY = re.compile(r"[A-Za-z0-9_.-]{1,250}")


class RegionStatus(msgspec.Struct):
    """A registered region as the protocol shows it."""

    name: str
    key: str
    offset: int
    byte_size: int


class Region:
    """A part of a shared-memory object: `byte_size` bytes from `offset`. Thread-safe."""

    __slots__ = ("_descriptor", "byte_size", "key", "name", "offset")

    def __init__(self, name: str, key: str, offset: int, byte_size: int, descriptor: int) -> None:
        self.name = name
        self.key = key
        self.offset = offset
        self.byte_size = byte_size
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)  # with the last request that uses it

    def read(self, offset: int, size: int) -> NDArray[np.uint8]:
        """A copy of `size` bytes. Raises InvalidInput where the client has made its region smaller."""
        buffer = np.empty(size, np.uint8)
        view, at = buffer.data, 0
        while at < size:
            got = os.preadv(self._descriptor, [view[at:]], self.offset + offset + at)
            if got == 0:
                raise InvalidInput(f"shared memory region '{self.name}' has become smaller than it was registered")
            at += got
        return buffer

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes that the bounds of the region have been checked for."""
        view, at = memoryview(data), 0
        while at < len(view):
            at += os.pwrite(self._descriptor, view[at:], self.offset + offset + at)


@dataclass(frozen=True, slots=True)
class RegionSlice:
    """Where one tensor is, or shall be."""

    region: Region
    offset: int
    size: int

    def read(self) -> NDArray[np.uint8]:
        """A copy of its bytes. Raises InvalidInput."""
        return self.region.read(self.offset, self.size)

    def write(self, output: str, data: bytes) -> int:
        """Write an output's bytes; how many. Raises InvalidInput where they are more than the client made room for."""
        size = len(data)
        if size > self.size:
            raise InvalidInput(
                f"shared memory size specified with the request for output '{output}' ({self.size} bytes) "
                f"should be at least {size} bytes to hold the results"
            )
        self.region.write(self.offset, data)
        return size


def refusal_of(host: str, wanted: bool | None) -> str:
    """Why clients of a replica that listens on `host` may register no shared memory; empty where they may.

    Whoever can register a region can read and write it through a model, so by default only clients of this machine may.
    """
    if wanted is False:
        return "the replica's spec switches it off (shared_memory)"
    if wanted or host == "localhost" or host == "::1" or host.startswith("127."):
        return ""
    return f"the replica listens on {host}, beyond this machine, and its spec does not allow it (shared_memory)"


class Regions:
    """The regions that clients registered with a replica. Event-loop thread only; slices are for any thread.

    `refusal` says why clients may register none, where that is so. `most_bytes` bounds one tensor, as the body of a
    request is bounded: what is read for a request takes memory, and time of the event loop.
    """

    def __init__(self, refusal: str = "", directory: Path = DIRECTORY) -> None:
        self.refusal = refusal
        self.most_bytes = 64 * 1024 * 1024
        self._directory = directory
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Take a region. Only objects of this process's own user, closed to all others, are taken.

        Raises Unsupported where registration is off, Conflict for a name that is taken, InvalidInput.
        """
        if self.refusal:
            raise Unsupported("shared memory is not available here", why=self.refusal)
        if name in self._regions:
            raise Conflict(f"shared memory region '{name}' already in manager", hint="unregister it first")
        if len(self._regions) >= MOST_REGIONS:
            raise Conflict(f"{MOST_REGIONS} shared memory regions are registered", hint="unregister those not in use")
        if not name or offset < 0 or byte_size < 1:
            raise InvalidInput(
                f"failed to register shared memory region '{name}'",
                why="it needs a name, a byte_size above 0 and an offset of 0 or more",
            )
        descriptor = self._open(key)
        try:
            self._check(descriptor, name, key, offset + byte_size)
        except BaseException:
            os.close(descriptor)
            raise
        self._regions[name] = Region(name, key, offset, byte_size, descriptor)

    def _open(self, key: str) -> int:
        file = key.lstrip("/")
        if not _KEY.fullmatch(file) or file in (".", "..") or file.startswith("sem."):
            raise InvalidInput(
                f"'{key[:300]}' is not a name of POSIX shared memory", hint="such as /modelyard-6f1c0d4a9be2"
            )
        try:
            return os.open(self._directory / file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            # what is not ours is answered as what does not exist: nobody learns which names others use
            raise InvalidInput(
                f"Unable to open shared memory region: '{key}'",
                why="" if isinstance(error, FileNotFoundError | PermissionError) else os.strerror(error.errno or 0),
                hint="it must exist, belong to the server's user, and have mode 0600",
            ) from None

    def _check(self, descriptor: int, name: str, key: str, end: int) -> None:
        found = os.fstat(descriptor)
        foreign = found.st_uid != os.geteuid() or found.st_mode & 0o077 or found.st_nlink != 1
        if foreign or not stat.S_ISREG(found.st_mode):
            raise InvalidInput(
                f"Unable to open shared memory region: '{key}'",
                hint="it must exist, belong to the server's user, and have mode 0600",
            )
        if end > found.st_size:
            raise InvalidInput(
                f"failed to register shared memory region '{name}': invalid args",
                why=f"offset + byte_size is {end}, but the object has {found.st_size} bytes",
            )

    def unregister(self, name: str = "") -> None:
        """Forget a region, or all; one that is not registered is no error, as in Triton."""
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def status(self, name: str = "") -> list[RegionStatus]:
        """The registered regions. Raises NotFound for a name that is not registered."""
        if name and name not in self._regions:
            raise NotFound(f"Unable to find system shared memory region: '{name}'")
        chosen = [self._regions[name]] if name else self._regions.values()
        return [RegionStatus(r.name, r.key, r.offset, r.byte_size) for r in chosen]

    def slice(self, name: str, offset: int, size: int) -> RegionSlice:
        """A tensor's place. Raises NotFound, InvalidInput where it is outside the region, TooLarge."""
        region = self._regions.get(name)
        if region is None:
            raise NotFound(f"Unable to find shared memory region: '{name}'")
        if offset < 0 or size < 0 or offset + size > region.byte_size:
            raise InvalidInput(f"Invalid offset + byte size for shared memory region: '{name}'")
        if size > self.most_bytes:
            raise TooLarge(
                f"a tensor of {size} bytes in shared memory region '{name}' exceeds the limit of {self.most_bytes}",
                hint="send fewer rows per request",
            )
        return RegionSlice(region, offset, size)
