"""What load a measurement puts on a service."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from modelyard.domain.errors import InvalidInput


class Arrival(StrEnum):
    """When requests are sent. `closed` keeps a fixed number in flight; the others follow a schedule (open loop)."""

    CLOSED = "closed"
    POISSON = "poisson"
    CONSTANT = "constant"


class Protocol(StrEnum):
    """How requests travel."""

    HTTP_JSON = "http-json"
    HTTP_BINARY = "http-binary"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class Workload:
    """Arrival process, request size, payloads, length and seed of a measurement.

    Closed loop finds capacity (throughput, p50); open loop gives every latency and SLO number. `batch` is rows per
    request. Each of `blocks` independent blocks draws its own schedule and payload order from `seed` and its index;
    a block ends after `requests` requests or `duration_s` seconds, whichever comes first.
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

    def __post_init__(self) -> None:
        if (self.arrival is Arrival.CLOSED) == (self.rate_rps is not None):
            raise InvalidInput("a closed loop has a concurrency and no rate; an open loop has a rate")
        if min(self.concurrency, self.batch, self.blocks, self.requests) < 1:
            raise InvalidInput("concurrency, batch, blocks and requests must be at least 1")
        if min(self.duration_s, self.timeout_s, self.rate_rps or 1.0) <= 0:
            raise InvalidInput("rate, duration and timeout must be positive")

    @property
    def open_loop(self) -> bool:
        return self.arrival is not Arrival.CLOSED

    @property
    def label(self) -> str:
        """Short name for tables: `poisson 200 rps x1 http-binary` or `closed 8 x1 grpc`."""
        load = f"{self.arrival} {self.rate_rps:g} rps" if self.rate_rps else f"{self.arrival} {self.concurrency}"
        return f"{load} x{self.batch} {self.protocol}"
