"""Cores that stood still during a block, told by a process above all others (`profile.stall_ticker`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

PERIOD_S: Final = 5e-3
"""Half a per cent of a core; a standstill shorter than this may pass unseen."""
LATE_S: Final = 1e-3
_END_S: Final = 5.0


class StallWatch:
    """Context manager: notes standstills of this process's cores while it is open. Not thread-safe.

    `available`: whether the system gives real-time priority; without it nothing is noted.
    """

    def __init__(self, file: Path) -> None:
        """Notes go to `file`, which is made anew."""
        self._file = file
        self.available = False

    def __enter__(self) -> Self:
        self._file.unlink(missing_ok=True)
        ticker = Path(__file__).with_name("stall_ticker.py")
        cores = map(str, sorted(os.sched_getaffinity(0)))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(ticker), str(self._file), str(PERIOD_S), str(LATE_S), *cores],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        self.available = self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.communicate(timeout=_END_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._file.unlink(missing_ok=True)

    def stalled_s(self, began: float, ended: float) -> float:
        """Seconds between two instants of the monotonic clock in which some core stood still."""
        data = self._file.read_bytes() if self._file.exists() else b""
        noted = np.frombuffer(data[: len(data) // 16 * 16], "<f8").reshape(-1, 2)
        inside = np.clip(noted, began, ended)
        return union_s(inside[inside[:, 1] > inside[:, 0]])


def union_s(intervals: np.typing.NDArray[np.float64]) -> float:
    """Length of the union of (began, ended) rows."""
    total, until = 0.0, -np.inf
    for began, ended in sorted(map(tuple, intervals.tolist())):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return float(total)
