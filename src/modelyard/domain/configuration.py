"""A deployed service's knobs, and the target it must meet."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from math import inf
from typing import Final

from modelyard.domain.artifacts import Precision, Target
from modelyard.domain.errors import InvalidInput

MOST_ROWS: Final = 65_536
"""Of a batch: warm-up makes one of that size."""
MOST_DELAY_US: Final = 60_000_000
MOST_REQUESTS: Final = 1_000_000
MOST_SECONDS: Final = 86_400.0
"""Of a queue or a drain: a request that waits for a day is a mistake."""
MOST_PRIORITIES: Final = 1000
MOST_COST: Final = 2**48
MOST_THREADS: Final = 4096
MOST_REPLICAS: Final = 1024
LEAST_CORES: Final = 0.01
_DEVICE = re.compile(r"cpu|gpu:\d+")
_SLO = re.compile(r"\s*p99\s*<=\s*([0-9.]+)\s*ms(?:\s+at\s+([0-9.]+)\s*rps)?\s*")


@dataclass(frozen=True, slots=True)
class Slo:
    """The latency target: `p99 <= p99_ms` while `rate_rps` requests arrive per second."""

    p99_ms: float
    rate_rps: float | None = None

    def __post_init__(self) -> None:
        if not (0 < self.p99_ms < inf and (self.rate_rps is None or 0 < self.rate_rps < inf)):
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
        sizes_fit = 1 <= self.max_size <= MOST_ROWS and (self.max_cost is None or 1 <= self.max_cost <= MOST_COST)
        if not (sizes_fit and 0 <= self.max_delay_us <= MOST_DELAY_US):
            raise InvalidInput(
                f"batching cannot be {_shown(self)}",
                why=f"it needs max_size from 1 to {MOST_ROWS}, max_delay_us from 0 to {MOST_DELAY_US} and max_cost "
                f"from 1 to {MOST_COST}",
            )


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
        bounded = 1 <= self.max_requests <= MOST_REQUESTS and 0 < self.max_wait_s <= MOST_SECONDS
        ordered = 1 <= self.default_level <= self.priorities <= MOST_PRIORITIES
        if not (bounded and ordered and (self.slo_ms is None or 0 < self.slo_ms <= MOST_SECONDS * 1e3)):
            raise InvalidInput(
                f"a queue cannot be {_shown(self)}",
                why=f"it needs max_requests from 1 to {MOST_REQUESTS}, max_wait_s above 0 and at most "
                f"{MOST_SECONDS:g}, priorities from 1 to {MOST_PRIORITIES}, a default_priority from 1 to priorities, "
                f"and slo_ms above 0 and at most {MOST_SECONDS * 1e3:.0f}",
            )

    @property
    def default_level(self) -> int:
        """The priority of a request that names none."""
        return self.priorities if self.default_priority is None else self.default_priority


@dataclass(frozen=True, slots=True)
class Configuration:
    """Every knob of a deployed service. `artifact` is the artifact's id in the hub.

    `threads` is the runtime's intra-op threads per replica. `memory_limit_bytes` is per replica, as is `cpu_limit`: the
    cores whose time a replica may use, e.g. 0.5; None for all.
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
    cpu_limit: float | None = None

    def __post_init__(self) -> None:
        if not (1 <= self.threads <= MOST_THREADS and 1 <= self.replicas <= MOST_REPLICAS):
            raise InvalidInput(
                f"a configuration needs threads from 1 to {MOST_THREADS} and replicas from 1 to {MOST_REPLICAS}"
            )
        check_cpu_limit(self.cpu_limit)
        if not _DEVICE.fullmatch(self.device):
            raise InvalidInput(f"'{self.device}' is not a device", hint="write cpu, or gpu:0 for the first GPU")

    @property
    def label(self) -> str:
        """Short name for tables: `onnx/onnxruntime fp32 t2 r1 b8`, with a cap on cores ` c0.5` after it."""
        cap = "" if self.cpu_limit is None else f" c{self.cpu_limit:g}"
        knobs = f"t{self.threads} r{self.replicas} b{self.batching.max_size}"
        return f"{self.target}/{self.runtime} {self.precision} {knobs}{cap}"


def check_cpu_limit(cores: float | None) -> None:
    """Raise InvalidInput where no replica can be held to so many cores."""
    if cores is not None and not LEAST_CORES <= cores <= MOST_THREADS:
        raise InvalidInput(
            f"a replica cannot be held to {cores:g} cores", why=f"a limit is from {LEAST_CORES:g} to {MOST_THREADS}"
        )


def _shown(value: Batching | QueuePolicy) -> str:
    """`max_size 0, max_delay_us 5`: what differs from the defaults."""
    usual = type(value)()
    names = [f.name for f in fields(value) if getattr(value, f.name) != getattr(usual, f.name)]
    return ", ".join(f"{name} {str(getattr(value, name))[:30]}" for name in names)
