"""A measurement: Configuration x Workload x Node -> indicators with their uncertainty, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from modelyard.domain.configuration import Configuration
from modelyard.domain.figures import figure
from modelyard.domain.workload import Workload


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its confidence interval; `low` and `high` are None where too few blocks allow one."""

    value: float
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95

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
    """Validity of a measurement, each reason in words; `saturated`: the service did not keep up with the load."""

    validity: Validity
    reasons: tuple[str, ...] = ()
    saturated: bool = False

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
class Indicators:
    """The six indicators of a measurement (throughput, p50, p95, p99, memory, utilisation) and what goes with them.

    Latencies in ms from the *scheduled* send time. `p99` is None below 459 requests. `cpu_cores` is the mean number
    of cores the service kept busy; `core_s_per_request` its CPU seconds per completed request;
    `cost_per_million` is that times the price setting, in its currency. `cost_interval` is the cost with its interval
    over blocks; None with fewer than two blocks or where one has no CPU time or no success. Where the CPU time was too
    small to tell (`cost_known` is false) the cost is 0 and means nothing. `mean_ms` is None in old measurements.
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
