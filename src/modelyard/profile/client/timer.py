"""A timer with microsecond precision for an event loop.

libuv's timers (and so uvloop's `call_later`) count whole milliseconds; a busy wait would take the core that the service
needs. Linux' timerfd wakes the loop through epoll within some tens of microseconds and costs nothing meanwhile.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable

from modelyard.domain.errors import Unsupported

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_PR_SET_TIMERSLACK = 29


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class PreciseTimer:
    """Calls `callback` in the loop at an instant of `time.monotonic_ns`; one pending instant at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        if sys.platform != "linux":
            raise Unsupported(
                "the load client needs Linux (timerfd)", hint="run yard profile on Linux or in a Linux container"
            )
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1000), 0, 0, 0)  # the default slack is 50 us
        self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._spec = _Itimerspec()
        self._loop = loop
        loop.add_reader(self._fd, callback)

    def arm(self, at_ns: int) -> None:
        """Fire at `at_ns` (at once if it has passed); replaces the pending instant and clears one that has fired."""
        value = self._spec.value
        value.sec, value.nsec = divmod(at_ns, 1_000_000_000)
        self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(self._spec), None)

    def disarm(self) -> None:
        """Forget the pending instant."""
        self.arm(0)

    def close(self) -> None:
        """Release the descriptor."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
