"""What a search under a latency SLO asks to be measured, and what a measurement says of the SLO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from modelyard.domain.errors import InvalidInput
from modelyard.domain.measurement import Interval, Measurement, Validity
from modelyard.profile.verdicts import CLIENT_SATURATED


class Purpose(StrEnum):
    """What a measurement of the search is for."""

    CAPACITY = "capacity"
    PROBE = "probe"
    CONFIRM = "confirm"


@dataclass(frozen=True, slots=True)
class Load:
    """What to measure. `rate_rps` is None for the capacity (a closed loop). `requests`: of each block."""

    purpose: Purpose
    rate_rps: float | None
    seed: int
    requests: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one measurement said. `p99_ms` is None where there were too few requests for one.

    `invalid`: why it cannot be believed, or empty. `requests_wanted`: how long blocks should be for a p99 to be
    believed at this load; 0 where they were long enough. `measurement`: its id.
    """

    p99_ms: Interval | None
    throughput_rps: float
    error_fraction: float = 0.0
    saturated: bool = False
    invalid: str = ""
    requests_wanted: int = 0
    measurement: str = ""

    @classmethod
    def of(cls, m: Measurement) -> Evidence:
        """The evidence in a measurement."""
        invalid = m.verdict.validity is Validity.INVALID
        return cls(
            p99_ms=m.indicators.p99_ms,
            throughput_rps=m.indicators.throughput_rps.value,
            error_fraction=m.indicators.error_fraction,
            saturated=m.verdict.saturated,
            invalid=m.verdict.reasons[0] if invalid and m.verdict.reasons else "",
            requests_wanted=m.verdict.requests_wanted,
            measurement=m.id,
        )

    @property
    def client_limited(self) -> bool:
        return self.invalid.startswith(CLIENT_SATURATED)

    def meets(self, slo_p99_ms: float) -> bool:
        """Whether the upper bound of p99 is within the SLO, with fewer than 1 % errors and not saturated.

        Says nothing about `requests_wanted`: a rate is confirmed on blocks long enough, or the answer is provisional.
        """
        held = self.p99_ms is not None and self.p99_ms.high is not None and self.p99_ms.high <= slo_p99_ms
        return held and not (self.invalid or self.saturated) and self.error_fraction < 0.01

    def misses(self, slo_p99_ms: float) -> bool:
        """Whether it is shown that the SLO is not met: by the lower bound of p99, saturation or errors."""
        if self.invalid:
            return False
        slow = self.p99_ms is not None and self.p99_ms.low is not None and self.p99_ms.low > slo_p99_ms
        return slow or self.saturated or self.error_fraction >= 0.01


Measure = Callable[[Load], Evidence]

_LEAST_REQUESTS: Final = 100
"""Of a block: five of them have a p99."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a search may measure. Rates are shares of the capacity.

    Blocks of probes have `requests`; those of confirmations as many as come in `confirm_block_s`, and more where their
    verdict asks for it, up to `most_requests` and what comes in `most_block_s` (which holds for all blocks).
    """

    shares: tuple[float, ...] = (0.5, 0.7, 0.85)
    lower_shares: tuple[float, ...] = (0.25, 0.1, 0.03)
    step: float = 0.05
    confirmations: int = 8
    measurements: int = 24
    requests: int = 1000
    confirm_block_s: float = 10.0
    most_block_s: float = 30.0
    most_requests: int = 20_000

    def __post_init__(self) -> None:
        if not (0 < self.step < 1 and min(self.confirmations, self.requests, self.measurements) >= 1):
            raise InvalidInput("a search needs a step between 0 and 1, and at least one confirmation and request")
        if min(self.confirm_block_s, self.most_block_s) <= 0:
            raise InvalidInput("the blocks of a search take some time", hint="give more than 0 seconds")

    def block(self, rate_rps: float, wanted: int) -> int:
        """Requests of a block at a rate, where `wanted` would be best."""
        return min(wanted, self.most_requests, max(_LEAST_REQUESTS, int(rate_rps * self.most_block_s)))
