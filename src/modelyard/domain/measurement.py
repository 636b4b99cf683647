"""A measurement: Configuration x Workload x Node -> indicators with their uncertainty, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from modelyard.domain.configuration import Configuration
from modelyard.domain.figures import figure
from modelyard.domain.workload import Scenario, Workload

FEWEST_BLOCKS: Final = 3
"""From which on the spread over blocks is known well enough that bounds are always shown."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its confidence interval; `low` and `high` are None where too few blocks allow one."""

    value: float
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95

    def usable(self, blocks: int) -> bool:
        """Whether its bounds, from so many blocks, say something.

        Two blocks know next to nothing of their own spread (their t factor is 12.7), so that bounds may lie orders of
        magnitude apart: where they do by more than twice the value, they are not shown.
        """
        if self.low is None or self.high is None:
            return False
        return blocks >= FEWEST_BLOCKS or self.high - self.low <= 2 * abs(self.value)

    def unusable(self, blocks: int) -> str:
        """What is said instead of bounds that say nothing; empty where they do, or where there are none."""
        if self.low is None or self.high is None or self.usable(blocks):
            return ""
        return f"{blocks} blocks: no usable interval"

    def told(self, blocks: int) -> str:
        """As `str`, without bounds that say nothing."""
        return f"{figure(self.value)} ({why})" if (why := self.unusable(blocks)) else str(self)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return figure(self.value)
        return f"{figure(self.value)} [{figure(self.low)}, {figure(self.high)}]"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The node a number was made on. Two numbers compare only under the same fingerprint `id`."""

    id: str
    cpu_model: str
    cpu_flags: tuple[str, ...]
    cores: int
    memory_bytes: int
    os: str
    python: str
    libraries: Mapping[str, str]
    gpus: tuple[str, ...] = ()


class Validity(StrEnum):
    """Whether a number may be believed. `provisional`: honest but from too few samples for its interval."""

    VALID = "valid"
    PROVISIONAL = "provisional"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Validity of a measurement, each reason in words; `saturated`: the service did not keep up with the load.

    No reason has a `; ` in it, which joins them. `requests_wanted`: how many requests a block should have for this
    load, where it had too few; else 0.
    """

    validity: Validity
    reasons: tuple[str, ...] = ()
    saturated: bool = False
    requests_wanted: int = 0

    def __str__(self) -> str:
        text = str(self.validity) + (", saturated" if self.saturated else "")
        return f"{text}: {'; '.join(self.reasons)}" if self.reasons else text


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Mean milliseconds a request spent in each stage of the server, and the mean rows per executed batch."""

    queue_ms: float
    batch_wait_ms: float
    pre_ms: float
    infer_ms: float
    post_ms: float
    encode_ms: float
    mean_batch_rows: float


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """LoadGen's early-stopping statistic for a percentile: what independent queries certify at `confidence`.

    `at_most_ms`: the percentile is no longer than that; None where `queries` are fewer than `needed`. Under a limit
    (`limit_ms`, an SLO), `over` queries took longer than it and `allowed` may (None: even 0 of so few certify nothing).
    """

    share: float
    queries: int
    needed: int
    at_most_ms: float | None
    limit_ms: float | None = None
    over: int = 0
    allowed: int | None = None
    confidence: float = 0.99

    @property
    def met(self) -> bool | None:
        """Whether the limit is certified; None where there is none."""
        return None if self.limit_ms is None else self.allowed is not None and self.over <= self.allowed

    def __str__(self) -> str:
        name = f"p{self.share * 100:g}"
        if self.at_most_ms is None:
            text = f"{name} not certified: {self.queries:,} queries, it takes {self.needed:,}"
        else:
            text = f"{name} <= {figure(self.at_most_ms)} ms at {self.confidence:.0%} confidence"
        if self.limit_ms is None:
            return text
        allowed = "none certify it" if self.allowed is None else f"{self.allowed:,} may be"
        return f"{text}; {'met' if self.met else 'not met'}: {self.over:,} over {self.limit_ms:g} ms, {allowed}"


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """The number that MLPerf judges a scenario by: `metric` is p90 or p99 (`unit` ms), or samples/s (offline)."""

    scenario: Scenario
    metric: str
    value: float
    unit: str
    early_stopping: EarlyStopping | None = None

    def __str__(self) -> str:
        text = f"{self.metric} {figure(self.value)} {self.unit}"
        return f"{text}; early stopping: {self.early_stopping}" if self.early_stopping else text


@dataclass(frozen=True, slots=True)
class Indicators:
    """The six indicators of a measurement (throughput, p50, p95, p99, memory, utilisation) and what goes with them.

    Latencies in ms from the *scheduled* send time. `p99` is None below 459 requests. `cpu_cores` is the mean number
    of cores the service kept busy; `core_s_per_request` its CPU seconds per completed request;
    `cost_per_million` is that times the price setting, in its currency. `cost_interval` is the cost with its interval
    over blocks; None with fewer than two blocks or where one has no CPU time or no success. Where the CPU time was too
    small to tell (`cost_known` is false) the cost is 0 and means nothing. `mean_ms` is None in old measurements.
    `scenario` is there only where the workload has one.
    """

    throughput_rps: Interval
    p50_ms: Interval
    p95_ms: Interval
    p99_ms: Interval | None
    p999_ms: float | None
    memory_rss_bytes: int
    cpu_cores: float
    core_s_per_request: float
    cost_per_million: float
    error_fraction: float
    requests: int
    rows_per_s: float
    time_to_first_response_ms: float | None = None
    cold_start_s: float | None = None
    gpu_memory_bytes: int | None = None
    gpu_utilisation: float | None = None
    stages: StageTimes | None = None
    cost_interval: Interval | None = None
    scenario: ScenarioResult | None = None
    mean_ms: Interval | None = None

    @property
    def cost_known(self) -> bool:
        """Whether CPU time was seen at all; a cost of 0 without it is not a cost."""
        return self.core_s_per_request > 0


@dataclass(frozen=True, slots=True)
class ClientHealth:
    """Evidence that the load client itself was not the bottleneck."""

    send_lag_p99_ms: float
    offered_rps: float
    scheduled_rps: float | None
    cpu_cores: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured cell. `samples` is the digest of the raw-sample blob (format in docs/concepts.md)."""

    id: str
    model: str
    version: int
    configuration: Configuration
    workload: Workload
    fingerprint: Fingerprint
    indicators: Indicators
    verdict: Verdict
    client: ClientHealth
    blocks_discarded: int = 0
    samples: str = ""
    purpose: str = ""
    created_at: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
