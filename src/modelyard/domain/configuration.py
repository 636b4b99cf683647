"""A deployed service's knobs, and the target it must meet."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from modelyard.domain.artifacts import Precision, Target
from modelyard.domain.errors import InvalidInput

_DEVICE = re.compile(r"cpu|gpu:\d+")
_SLO = re.compile(r"\s*p99\s*<=\s*([0-9.]+)\s*ms(?:\s+at\s+([0-9.]+)\s*rps)?\s*")


@dataclass(frozen=True, slots=True)
class Slo:
    """The latency target: `p99 <= p99_ms` while `rate_rps` requests arrive per second."""

    p99_ms: float
    rate_rps: float | None = None

    def __post_init__(self) -> None:
        if self.p99_ms <= 0 or (self.rate_rps is not None and self.rate_rps <= 0):
            raise InvalidInput("an SLO needs a positive p99 and a positive rate", hint="e.g. p99 <= 20 ms at 200 rps")

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Parse `p99 <= 20 ms at 200 rps`. Raises InvalidInput."""
        match = _SLO.fullmatch(text)
        if not match:
            raise InvalidInput(f"'{text}' is not an SLO", hint="write e.g. 'p99 <= 20 ms at 200 rps'")
        return cls(float(match[1]), float(match[2]) if match[2] else None)

    def __str__(self) -> str:
        at = f" at {self.rate_rps:g} rps" if self.rate_rps else ""
        return f"p99 <= {self.p99_ms:g} ms{at}"


@dataclass(frozen=True, slots=True)
class Batching:
    """Dynamic batching: join waiting requests up to `max_size` rows; wait at most `max_delay_us` for more.

    `max_size=1` switches batching off. A delay of 0 is greedy: take what waits when a slot frees. `max_cost` bounds
    what a batch costs besides its rows: the elements of its input dimensions that vary between requests (e.g. tokens
    of a ragged text input), summed over its rows; None for no bound.
    """

    max_size: int = 1
    max_delay_us: int = 0
    max_cost: int | None = None

    def __post_init__(self) -> None:
        if self.max_size < 1 or self.max_delay_us < 0 or (self.max_cost is not None and self.max_cost < 1):
            raise InvalidInput("batching needs max_size >= 1, max_delay_us >= 0 and max_cost >= 1")


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Bounds of the queue of one model in one replica: requests held, and seconds a request may wait in it.

    Requests have a priority from 1 (first) to `priorities`; one that names none has `default_priority`, by default the
    lowest. `slo_ms` is the latency target from receipt to answer that batching must keep; None where there is none.
    """

    max_requests: int = 1024
    max_wait_s: float = 10.0
    priorities: int = 2
    default_priority: int | None = None
    slo_ms: float | None = None

    def __post_init__(self) -> None:
        if self.max_requests < 1 or self.max_wait_s <= 0:
            raise InvalidInput("a queue needs max_requests >= 1 and max_wait_s > 0")
        if self.priorities < 1 or not 1 <= self.default_level <= self.priorities:
            raise InvalidInput("a queue needs priorities >= 1 and a default_priority between 1 and priorities")
        if self.slo_ms is not None and self.slo_ms <= 0:
            raise InvalidInput("a queue needs slo_ms > 0")

    @property
    def default_level(self) -> int:
        """The priority of a request that names none."""
        return self.priorities if self.default_priority is None else self.default_priority


@dataclass(frozen=True, slots=True)
class Configuration:
    """Every knob of a deployed service. `artifact` is the artifact's id in the hub.

    `threads` is the runtime's intra-op threads per replica. `memory_limit_bytes` is per replica.
    """

    artifact: str
    target: Target
    runtime: str
    precision: Precision
    device: str = "cpu"
    threads: int = 1
    replicas: int = 1
    batching: Batching = field(default_factory=Batching)
    queue: QueuePolicy = field(default_factory=QueuePolicy)
    memory_limit_bytes: int | None = None
    serving_system: str = "modelyard"
    engine: str = "process"

    def __post_init__(self) -> None:
        if self.threads < 1 or self.replicas < 1:
            raise InvalidInput("a configuration needs threads >= 1 and replicas >= 1")
        if not _DEVICE.fullmatch(self.device):
            raise InvalidInput(f"'{self.device}' is not a device", hint="write cpu, or gpu:0 for the first GPU")

    @property
    def label(self) -> str:
        """Short name for tables: `onnx/onnxruntime fp32 t2 r1 b8`."""
        return (
            f"{self.target}/{self.runtime} {self.precision} t{self.threads} r{self.replicas} b{self.batching.max_size}"
        )
