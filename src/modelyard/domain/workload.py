"""What load a measurement puts on a service."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from modelyard.domain.errors import InvalidInput

LEAST_CV, MOST_CV = 0.05, 10.0
"""Below, gaps are constant for all one can send; above, nearly all requests of a block come at one instant."""


class Arrival(StrEnum):
    """When requests are sent. `closed` keeps a fixed number in flight; the others follow a schedule (open loop).

    `poisson`, `constant`, `gamma` (gaps of a given coefficient of variation) keep one mean rate; `ramp` goes from one
    rate to another; `trace` replays recorded arrivals.
    """

    CLOSED = "closed"
    POISSON = "poisson"
    CONSTANT = "constant"
    GAMMA = "gamma"
    RAMP = "ramp"
    TRACE = "trace"


class Protocol(StrEnum):
    """How requests travel."""

    HTTP_JSON = "http-json"
    HTTP_BINARY = "http-binary"
    GRPC = "grpc"


class Scenario(StrEnum):
    """MLPerf LoadGen's scenarios: how requests come, and which number counts (docs/profiling.md)."""

    SINGLE_STREAM = "single-stream"
    MULTI_STREAM = "multi-stream"
    SERVER = "server"
    OFFLINE = "offline"


class TraceLayout(StrEnum):
    """How a trace file is written (docs/profiling.md)."""

    TIMESTAMPS = "timestamps"
    COUNTS = "counts"
    AZURE_2019 = "azure-2019"
    AZURE_2021 = "azure-2021"


@dataclass(frozen=True, slots=True)
class Trace:
    """Which part of a recording a block replays: from `start_s` on, `scale` times its requests.

    `digest` is of the arrivals as read, so that a renamed file or another column of notes is the same trace.
    """

    digest: str
    start_s: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (self.digest and self.start_s >= 0 and self.scale > 0):
            raise InvalidInput("a trace needs a digest, a start of 0 s or more and a positive scale")

    def __str__(self) -> str:
        start = f" from {self.start_s:g} s" if self.start_s else ""
        return f"{self.digest[:8]}{start}"


@dataclass(frozen=True, slots=True)
class Workload:
    """Arrival process, request size, payloads, length and seed of a measurement.

    Closed loop finds capacity (throughput, p50); open loop gives every latency and SLO number. `batch` is rows per
    request. Each of `blocks` independent blocks draws its own schedule and payload order from `seed` and its index;
    a block ends after `requests` requests or `duration_s` seconds, whichever comes first.

    `rate_rps` is the mean rate of an open loop, and where a ramp starts; `end_rate_rps` is where the ramp ends. `cv` is
    the coefficient of variation of gamma gaps; in a trace of counts, that of the gaps within an interval (None: 1,
    Poisson). `scenario` names the number that counts, the load is in the other fields.
    """

    arrival: Arrival
    concurrency: int = 1
    rate_rps: float | None = None
    batch: int = 1
    blocks: int = 5
    requests: int = 1000
    duration_s: float = 30.0
    timeout_s: float = 10.0
    protocol: Protocol = Protocol.HTTP_BINARY
    seed: int = 0
    cv: float | None = None
    end_rate_rps: float | None = None
    trace: Trace | None = None
    scenario: Scenario | None = None

    def __post_init__(self) -> None:
        if (self.arrival is Arrival.CLOSED) == (self.rate_rps is not None):
            raise InvalidInput("a closed loop has a concurrency and no rate; an open loop has a rate")
        if min(self.concurrency, self.batch, self.blocks, self.requests) < 1:
            raise InvalidInput("concurrency, batch, blocks and requests must be at least 1")
        rates = [rate for rate in (self.rate_rps, self.end_rate_rps) if rate is not None]
        if min(self.duration_s, self.timeout_s, *rates) <= 0:
            raise InvalidInput("rates, duration and timeout must be positive")
        if self.cv is not None and not LEAST_CV <= self.cv <= MOST_CV:
            raise InvalidInput(f"a coefficient of variation goes from {LEAST_CV:g} to {MOST_CV:g}, not {self.cv:g}")
        for name, (needed, allowed) in _OF_ARRIVALS.items():
            given = getattr(self, name) is not None
            if given and self.arrival not in allowed:
                raise InvalidInput(f"{self.arrival} arrivals have no {name}")
            if not given and self.arrival in needed:
                raise InvalidInput(f"{self.arrival} arrivals need {name}")

    @property
    def open_loop(self) -> bool:
        return self.arrival is not Arrival.CLOSED

    @property
    def stationary(self) -> bool:
        """Whether a block's load is the same from its beginning to its end, so that growth means saturation."""
        return self.arrival not in (Arrival.RAMP, Arrival.TRACE)

    @property
    def label(self) -> str:
        """Short name for tables: `poisson 200 rps x1 http-binary` or `closed 8 x1 grpc`."""
        name = f"{self.scenario}: " if self.scenario else ""
        return f"{name}{self._load} x{self.batch} {self.protocol}"

    @property
    def _load(self) -> str:
        if self.rate_rps is None:
            return f"{self.arrival} {self.concurrency}"
        spread = f" cv {self.cv:g}" if self.cv is not None else ""
        part = f" {self.trace}" if self.trace else ""
        end = f" to {self.end_rate_rps:g}" if self.end_rate_rps is not None else ""
        return f"{self.arrival}{part}{spread} {self.rate_rps:g}{end} rps"


_OF_ARRIVALS: Final = {
    "cv": ((Arrival.GAMMA,), (Arrival.GAMMA, Arrival.TRACE)),
    "end_rate_rps": ((Arrival.RAMP,), (Arrival.RAMP,)),
    "trace": ((Arrival.TRACE,), (Arrival.TRACE,)),
}
"""Which arrivals need a field, and which may have it."""
