"""When a replica that ended is started again, and when not: state + clock -> decision."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from modelyard.dispatch.engines.state import RestartPolicy


class EndKind(StrEnum):
    """How a replica's process came to its end."""

    EXITED = "exited"
    KILLED = "killed"
    HUNG = "hung"
    MEMORY = "memory"
    NOT_READY = "not-ready"


@dataclass(frozen=True, slots=True)
class End:
    """The end of one life of a replica. `ready_s`: how long it had been ready, None if it never was."""

    kind: EndKind
    reason: str
    ready_s: float | None = None


class RestartBudget:
    """Counts one replica's ends and says how long to wait before the next life."""

    def __init__(self, policy: RestartPolicy, clock: Callable[[], float], uniform: Callable[[], float]) -> None:
        """`clock`: monotonic seconds; `uniform`: random in [0, 1)."""
        self._policy = policy
        self._clock = clock
        self._uniform = uniform
        self._in_a_row = 0
        self._quick = 0
        self._memory: deque[float] = deque()

    def delay_s(self, end: End) -> float | None:
        """Seconds to wait before the next life; None: give up."""
        stable = end.ready_s is not None and end.ready_s >= self._policy.stable_s
        if stable:
            self._in_a_row = self._quick = 0
        self._in_a_row += 1
        if end.kind is EndKind.MEMORY:
            if self._memory_spent():
                return None
        elif not stable and not (end.kind is EndKind.KILLED and end.ready_s is not None):
            self._quick += 1
            if self._quick >= self._policy.give_up_after:
                return None
        # The exponent is bounded because a float overflows after some thousand restarts.
        wait_s = self._policy.initial_s * self._policy.factor ** min(self._in_a_row - 1, 64)
        return min(wait_s, self._policy.max_s) * (1 + self._policy.jitter * self._uniform())

    def _memory_spent(self) -> bool:
        now = self._clock()
        while self._memory and now - self._memory[0] > self._policy.memory_window_s:
            self._memory.popleft()
        self._memory.append(now)
        return len(self._memory) > self._policy.memory_restarts
