"""When a failed attempt is made again: rarely, late, and within a budget that an outage empties.

Retries that are not bounded by the share of successes turn an overload into an outage (Google SRE book, chapter 22,
"Addressing Cascading Failures": client-side retry budget of 10 %). The budget is that of gRPC's retry throttling
(proposal A6): a success earns a fraction of a token, a retry costs one. So retries are at most `ratio` of the
successes plus `burst`, and when everything fails they end after `burst`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from modelyard.client.failures import Refused, Unreached
from modelyard.domain.errors import InvalidInput, Unavailable


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, how late and within which budget a call is tried again.

    Full jitter (AWS architecture blog, "Exponential Backoff And Jitter"): retry n waits a random time below
    min(`max_delay_s`, `base_delay_s` * 2**n), after the service's Retry-After if it gave one.
    `max_attempts` = 1 switches retries off.
    """

    max_attempts: int = 3
    ratio: float = 0.1
    burst: float = 5.0
    base_delay_s: float = 0.05
    max_delay_s: float = 2.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise InvalidInput("max_attempts must be 1 or more", hint="1: no retries")
        if not 0 <= self.ratio <= 1 or self.burst < 0 or self.base_delay_s < 0 or self.max_delay_s < 0:
            raise InvalidInput("a retry policy takes a ratio of 0 to 1, and no negative burst or delay")

    def delay(self, attempt: int, retry_after_s: float | None, chance: float) -> float:
        """Seconds to wait after attempt number `attempt` (1 is the first); `chance` is random in [0, 1)."""
        backoff = min(self.max_delay_s, self.base_delay_s * 2.0 ** min(attempt - 1, 60))
        return (retry_after_s or 0.0) + chance * backoff


NO_RETRIES = RetryPolicy(max_attempts=1)


class RetryBudget:
    """The tokens of one client. Thread-safe."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._tokens = policy.burst
        self._lock = threading.Lock()

    @property
    def tokens(self) -> float:
        """What is left."""
        return self._tokens

    def earn(self) -> None:
        """A call succeeded."""
        if self._tokens < self._policy.burst:  # full is the common case, and needs no lock
            with self._lock:
                self._tokens = min(self._policy.burst, self._tokens + self._policy.ratio)

    def take(self) -> bool:
        """Take a token for a retry, if there is one."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True


def retry_delay(
    policy: RetryPolicy,
    budget: RetryBudget,
    error: Unavailable,
    attempt: int,
    left_s: float,
    chance: float,
    *,
    resend: bool,
) -> float | None:
    """Seconds until the next attempt after a failed one, or None where the failure stands. Takes the token.

    Tried again: what never reached the service, what it refused for now (429, 503), and where `resend` says that doing
    it twice does no harm, what was lost before the first byte of an answer. Never what would start after the deadline.
    """
    if attempt >= policy.max_attempts:
        return None
    if isinstance(error, Unreached):
        if error.permanent or (error.sent and not resend):
            return None
    elif not isinstance(error, Refused):
        return None
    delay = policy.delay(attempt, error.retry_after_s, chance)
    return delay if delay < left_s and budget.take() else None
