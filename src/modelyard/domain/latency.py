"""What running a model and serving it costs on a node: batch-latency curves, and the server's own cost per request.

Values only: measured by `modelyard.profile`, simulated with by `modelyard.tune.simulator`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import log

from modelyard.domain.errors import InvalidInput
from modelyard.domain.workload import Protocol


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Median wall and mean CPU seconds of one run of `batch` rows with `threads` intra-op threads.

    `walls_s` are walls of single runs in ascending order: evenly spaced quantiles of all runs where there were many,
    which keeps the spread. `rested_s` is the median wall of a run after a pause of milliseconds, as a request meets a
    model that is not busy: caches and cores are cold then. Both are empty where they were not asked for. `idle_s`: what
    a run takes longer where its replica slept before it; negative where it takes less, and the rest of its CPU time
    comes after the answer.
    """

    batch: int
    threads: int
    wall_s: float
    cpu_s: float
    runs: int
    walls_s: tuple[float, ...] = ()
    rested_s: float | None = None
    idle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ContentionPoint:
    """Median wall of one run while `copies` processes run the same model at once, each with `threads` threads."""

    copies: int
    threads: int
    batch: int
    wall_s: float


@dataclass(frozen=True, slots=True)
class Curve:
    """The points of one artifact on one runtime; `error` says why there are none.

    `inside`: whether the server runs this model in its own process, where a short run may be on the event loop; else
    in a child process. `beside`: the factor on the load client's CPU time where it shares a core with a replica, which
    leaves its caches cold.
    """

    runtime: str
    points: tuple[CurvePoint, ...] = ()
    error: str = ""
    contention: tuple[ContentionPoint, ...] = ()
    inside: bool = True
    beside: float = 1.0


@dataclass(frozen=True, slots=True)
class ProtocolCost:
    """CPU seconds of one side (server or client) for one protocol; bytes are those of the request and of the answer.

    A request costs `request_s + in_s * request bytes + out_s * answer bytes`; each wake-up of the event loop from its
    sleep costs `wake_s` more, one from a long sleep `cold_s` (caches have cooled down; what follows is part of it), and
    (server only) each executed batch `batch_s`.
    """

    request_s: float = 0.0
    in_s: float = 0.0
    out_s: float = 0.0
    wake_s: float = 0.0
    cold_s: float = 0.0
    batch_s: float = 0.0

    def of(self, request_bytes: float, answer_bytes: float) -> float:
        """CPU seconds of one request, wake-up and batch not counted."""
        return self.request_s + self.in_s * request_bytes + self.out_s * answer_bytes

    def times(self, factor: float) -> ProtocolCost:
        """All of it so many times, but what a long sleep adds: caches are cold after that anyway."""
        scaled = (factor * getattr(self, f.name) for f in fields(self))
        return replace(ProtocolCost(*scaled), cold_s=self.cold_s)


@dataclass(frozen=True, slots=True)
class Path:
    """One protocol's way between client and server: what each side spends, and how long a sleeping side takes to wake.

    `hop_s` is the latency from the one's send to the other's first instruction, where that one slept only for as long
    as a closed loop of one makes it (`short_idle_s`); `long_hop_s` where it slept for `long_idle_s` or longer.
    `before` is the share of what waking up from a long sleep costs that is spent before the answer, not after it.
    `jitter_s` are deviations of single requests' latency from the median, ascending quantiles.
    """

    server: ProtocolCost
    client: ProtocolCost
    hop_s: float = 0.0
    long_hop_s: float = 0.0
    before: float = 1.0
    short_idle_s: float = 1e-4
    long_idle_s: float = 5e-3
    jitter_s: tuple[float, ...] = ()

    def depth(self, idle_s: float) -> float:
        """How deep a sleep of so many seconds is: 0 up to `short_idle_s`, 1 from `long_idle_s` on, on the logarithm."""
        if idle_s <= self.short_idle_s:
            return 0.0
        if idle_s >= self.long_idle_s:
            return 1.0
        return log(idle_s / self.short_idle_s) / log(self.long_idle_s / self.short_idle_s)


@dataclass(frozen=True, slots=True)
class Overhead:
    """What the server and the load client cost on a node, whatever the model.

    `handover_s`: the latency of giving a batch to a slot's thread, and of its result back; the latter is
    `long_handover_s` after a run through which the event loop slept long. `child_s`: what a run in a child process
    takes longer. `client_first`: whether the client runs before ordinary processes (real time).
    """

    paths: Mapping[Protocol, Path] = field(default_factory=dict)
    handover_s: float = 0.0
    long_handover_s: float = 0.0
    child_s: float = 0.0
    client_first: bool = True

    def path(self, protocol: Protocol) -> Path:
        """That of a protocol. Raises InvalidInput where it was not measured."""
        try:
            return self.paths[protocol]
        except KeyError:
            known = ", ".join(self.paths) or "none"
            raise InvalidInput(
                f"the server's overhead over {protocol} is not known", why=f"measured were: {known}"
            ) from None

    @classmethod
    def none(cls) -> Overhead:
        """A server and a client that cost nothing: pure queueing."""
        path = Path(ProtocolCost(), ProtocolCost())
        return cls(dict.fromkeys(Protocol, path))
