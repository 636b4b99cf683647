"""A timer of microseconds: uvloop's own count in milliseconds."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from typing import Final

_CLOCK_MONOTONIC: Final = 1
_TFD_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class FineTimer:
    """Calls back once after a time, to about 0.1 ms. Event-loop thread only; `close` frees its file descriptor.

    A Linux timerfd watched by the loop (`timerfd_create(2)`): the loop sleeps meanwhile, where polling turn by turn
    kept a core busy. The kernel's call is made through ctypes, as Python has it only from 3.13 on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._fd: int = libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        if self._fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        self._loop = loop
        self._callback = callback
        self._spec = _Itimerspec()
        loop.add_reader(self._fd, self._expired)

    def start(self, seconds: float) -> None:
        """Call back in `seconds` (below 1), instead of at any time set before."""
        self._spec.value.nanoseconds = min(max(int(seconds * 1e9), 1), 999_999_999)
        self._settime(self._fd, 0, ctypes.byref(self._spec), None)

    def cancel(self) -> None:
        """Do not call back."""
        self._spec.value.nanoseconds = 0
        self._settime(self._fd, 0, ctypes.byref(self._spec), None)

    def close(self) -> None:
        """End; no call follows."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _expired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # cancelled or started anew since it ran out
            return
        self._callback()
