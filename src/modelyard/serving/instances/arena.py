"""Memory that a replica and the process of a model both map, made for one direction of their tensors."""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_SMALLEST: Final = 64 * 1024
_F_ADD_SEALS: Final = 1033  # linux/fcntl.h; Python 3.11 does not name them
_F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW = 1, 2, 4


class Arena:
    """Bytes backed by an anonymous memory file (memfd_create(2)), known to both sides by `number`.

    The replica makes arenas and passes their descriptors (SCM_RIGHTS). They are sealed against resizing: a model that
    shrank one would kill the replica by SIGBUS. One that is too small is replaced by a larger one; the old one's pages
    are freed when the last view of it is.
    """

    __slots__ = ("array", "fd", "number", "size")

    def __init__(self, number: int, size: int, fd: int) -> None:
        self.number = number
        self.size = size
        self.fd = fd
        self.array: NDArray[Any] = np.frombuffer(mmap.mmap(fd, size), np.uint8)

    @classmethod
    def make(cls, number: int, at_least: int) -> Arena:
        """A new arena of `at_least` bytes, rounded up to a power of two."""
        size = max(_SMALLEST, 1 << (at_least - 1).bit_length())
        fd = os.memfd_create("modelyard-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, _F_ADD_SEALS, _F_SEAL_SEAL | _F_SEAL_SHRINK | _F_SEAL_GROW)
        return cls(number, size, fd)

    @classmethod
    def of(cls, number: int, fd: int) -> Arena:
        """The arena behind a descriptor that was received."""
        return cls(number, os.fstat(fd).st_size, fd)

    def forget_descriptor(self) -> None:
        """Close the descriptor; the mapping stays as long as anything views it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
