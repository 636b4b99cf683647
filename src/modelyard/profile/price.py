"""What a core costs, so that a configuration's CPU use becomes money."""

from __future__ import annotations

from dataclasses import dataclass

from modelyard.domain.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Price:
    """Price of one core for one hour, with where it comes from and when it was looked up."""

    per_core_hour: float = 0.0425
    currency: str = "USD"
    source: str = "AWS EC2 on demand, c5.large: 0.085 USD/h for 2 vCPU"
    as_of: str = "2026-11"

    def __post_init__(self) -> None:
        if self.per_core_hour < 0:
            raise InvalidInput("a price per core-hour cannot be negative", hint="set it to 0 or more")

    def per_million(self, core_s_per_request: float) -> float:
        """Cost of a million requests that take `core_s_per_request` CPU seconds each."""
        return core_s_per_request * 1e6 / 3600 * self.per_core_hour
