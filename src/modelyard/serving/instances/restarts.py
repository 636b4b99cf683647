"""When the process of a model that ended is started again, and when not: state + clock -> decision."""

from __future__ import annotations

from collections import deque
from typing import Final

RESTARTS: Final = 5
WINDOW_S: Final = 600.0
"""At most five restarts in ten minutes (row T12 of the fault table): more heals nothing and costs the neighbours."""
_FIRST_S: Final = 0.5
_LONGEST_S: Final = 30.0


class RestartBudget:
    """Counts the restarts of one model version, over all its instances. Not thread-safe."""

    def __init__(self, restarts: int = RESTARTS, window_s: float = WINDOW_S) -> None:
        self._most = restarts
        self._window_s = window_s
        self._at: deque[float] = deque()

    def take(self, now: float) -> float | None:
        """Use one restart: seconds to wait before it, 0 for the first; None where the budget is spent."""
        while self._at and now - self._at[0] >= self._window_s:
            self._at.popleft()
        recent = len(self._at)
        if recent >= self._most:
            return None
        self._at.append(now)
        return min(_FIRST_S * 2.0 ** (recent - 1), _LONGEST_S) if recent else 0.0

    def renewed_in_s(self, now: float) -> float:
        """Seconds until a restart is possible again; 0 where one is."""
        if len(self._at) < self._most:
            return 0.0
        return max(self._at[0] + self._window_s - now, 0.0)
