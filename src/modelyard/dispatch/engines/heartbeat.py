"""Whether a replica still turns, seen from a file that it touches."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

TICK_S: Final = 0.5
"""How often a running replica is looked at."""


class Heartbeat:
    """Seconds since a file's mtime last changed, on this process's own monotonic clock."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._seen: int | None = None
        self._changed_s = self._asked_s = clock()

    def silent_s(self) -> float | None:
        """How long the heart has been still; None if it never beat (then nothing can be said)."""
        now = self._clock()
        # If we ourselves did not run (suspended, starved), the silence says nothing about the replica.
        if now - self._asked_s > 4 * TICK_S:
            self._changed_s = now
        self._asked_s = now
        try:
            mtime = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return None if self._seen is None else now - self._changed_s
        if mtime != self._seen:
            self._seen, self._changed_s = mtime, now
        return now - self._changed_s
