"""What both clients share: the deadline of a call, how it is written, and whether it is made again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from modelyard.client.address import Address
from modelyard.client.calls import Call, Writer
from modelyard.client.failures import Late, late
from modelyard.client.options import Timing, TransportOptions
from modelyard.client.retries import RetryBudget, RetryPolicy, retry_delay
from modelyard.domain.errors import InvalidInput, Unavailable

T = TypeVar("T")

_LONGEST_S: Final = 1_000_000
"""A timeout is sent in milliseconds, of at most 12 digits."""
_ROUNDING_S: Final = 2e-3
"""Event loops end a wait up to their timers' resolution early."""


class CallRules:
    """The rules of one client. Thread-safe."""

    __slots__ = ("_retries", "_timeout_s", "budget", "clock", "timing", "write")

    def __init__(
        self,
        address: Address,
        timeout_s: float,
        headers: Mapping[str, str] | None,
        options: TransportOptions,
        retries: RetryPolicy | None,
        timing: Timing | None,
    ) -> None:
        """Raises InvalidInput for headers or times that are none."""
        self.timing = timing or Timing()
        self.clock = self.timing.clock
        self.write = Writer(address, headers, options).write
        self._timeout_s = _checked(timeout_s)
        self._retries = retries or RetryPolicy()
        self.budget = RetryBudget(self._retries)

    def timeout(self, timeout_s: float | None) -> float:
        """Seconds that a call may take. Raises InvalidInput."""
        return self._timeout_s if timeout_s is None else _checked(timeout_s)

    def delay(self, call: Call[T], error: Unavailable, attempt: int, deadline: float) -> float | None:
        """Seconds until the next attempt, or None where the failure of this one stands."""
        if not call.retry:
            return None
        left, chance = deadline - self.clock(), self.timing.random()
        return retry_delay(self._retries, self.budget, error, attempt, left, chance, resend=call.resend)

    def overdue(self, error: Unavailable, timeout_s: float, attempt: int, deadline: float) -> Unavailable:
        """The error that ends a call; one that ran into its deadline tells the caller's time, not the rest of it."""
        if isinstance(error, Late) and deadline - self.clock() < _ROUNDING_S:
            return late(error.url, timeout_s, attempt)
        return error


def _checked(timeout_s: float) -> float:
    if not 0 < timeout_s <= _LONGEST_S:
        raise InvalidInput(f"timeout_s is {timeout_s}", hint=f"give seconds above 0, and {_LONGEST_S:,} at most")
    return timeout_s
