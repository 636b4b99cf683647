"""What is simulated: a model's run times, a service around it, the load on it. Values only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.configuration import Batching, QueuePolicy
from modelyard.domain.errors import InvalidInput
from modelyard.domain.latency import Curve, CurvePoint

QUANTILES = 65


@dataclass(frozen=True, slots=True)
class Run:
    """Runs of one batch size: walls of single ones (seconds, ascending), the mean wall and mean CPU seconds.

    `width`: the cores that a run keeps busy; `rested_s`: what a run after a pause takes longer.
    """

    walls_s: tuple[float, ...]
    mean_s: float
    cpu_s: float
    width: float
    rested_s: float

    @property
    def wall_s(self) -> float:
        """Median."""
        return self.walls_s[len(self.walls_s) // 2]


class ModelTimes:
    """The runs of one artifact on one runtime with one number of threads, for any batch size.

    Between measured sizes the quantiles are interpolated, which keeps the shape of their spread; beyond the largest
    they go on along the line through the last two sizes. `slowdown[k]`: the factor on a run's wall while k other
    replicas run too, beyond what sharing the cores explains. `beside` as in `Curve`. Built once, then read only.
    """

    def __init__(
        self,
        points: Sequence[CurvePoint],
        *,
        inside: bool = True,
        slowdown: Sequence[float] = (1.0,),
        beside: float = 1.0,
    ) -> None:
        if not points:
            raise InvalidInput("a model cannot be simulated without its batch-latency curve")
        self._points = sorted(points, key=lambda p: p.batch)
        spread = max(len(p.walls_s) for p in points)
        self._walls = [_quantiles(p, max(QUANTILES, spread) if spread > 1 else 1) for p in self._points]
        self._runs: dict[int, Run] = {}
        self.inside, self.beside = inside, beside
        self.idle_s = self._points[0].idle_s
        self.slowdown = tuple(slowdown)
        self.threads = self._points[0].threads

    @classmethod
    def of(cls, curve: Curve, threads: int, replicas: int, cores: int) -> ModelTimes:
        """Of a measured curve. Raises InvalidInput where it has no point of so many threads."""
        points = [p for p in curve.points if p.threads == threads]
        if not points:
            known = sorted({p.threads for p in curve.points})
            raise InvalidInput(
                f"the batch-latency curve says nothing of {threads} threads",
                why=curve.error or f"it was measured with {', '.join(map(str, known))}",
            )
        slowdown = _slowdown(curve, threads, replicas, cores)
        return cls(points, inside=curve.inside, slowdown=slowdown, beside=curve.beside)

    def run(self, rows: int) -> Run:
        """The run of a batch of `rows` rows (or as many units)."""
        found = self._runs.get(rows)
        if found is None:
            found = self._runs[rows] = self._make(rows)
        return found

    def _make(self, rows: int) -> Run:
        points = self._points
        if len(points) == 1 or rows <= points[0].batch:
            share, low, high = 0.0, 0, 0
        else:
            high = next((i for i, p in enumerate(points) if p.batch >= rows), len(points) - 1)
            low = high - 1
            share = (rows - points[low].batch) / (points[high].batch - points[low].batch)
        walls = (1.0 - share) * self._walls[low] + share * self._walls[high]
        if len(points) == 1 and rows > points[0].batch:
            walls = walls * (rows / points[0].batch)
        floor = float(self._walls[low][0])
        cpu = (1.0 - share) * points[low].cpu_s + share * points[high].cpu_s
        if len(points) == 1 and rows > points[0].batch:
            cpu *= rows / points[0].batch
        rested = [max(0.0, p.rested_s - p.wall_s) if p.rested_s else 0.0 for p in (points[low], points[high])]
        inside = min(max(share, 0.0), 1.0)
        walls = np.maximum(walls, floor)
        mean, cpu = float(walls.mean()), max(cpu, 1e-9)
        width = min(max(cpu / mean, 1e-3), float(self.threads)) if mean > 0 else 1.0
        return Run(tuple(walls.tolist()), mean, cpu, width, (1.0 - inside) * rested[0] + inside * rested[1])


def _quantiles(point: CurvePoint, count: int) -> NDArray[np.float64]:
    """The point's walls at `count` evenly spaced quantiles."""
    walls = np.sort(np.asarray(point.walls_s or (point.wall_s,), np.float64))
    return np.asarray(np.quantile(walls, (np.arange(count) + 0.5) / count), np.float64)


def _slowdown(curve: Curve, threads: int, replicas: int, cores: int) -> tuple[float, ...]:
    """For 0, 1, ... other running replicas; between measured numbers of copies along the line, beyond them constant."""
    alone = {p.batch: p.wall_s for p in curve.points if p.threads == threads}
    known: dict[int, list[float]] = {1: [1.0]}
    for point in curve.contention:
        if point.threads == threads and alone.get(point.batch, 0.0) > 0:
            shared = max(1.0, point.copies * threads / cores)
            known.setdefault(point.copies, []).append(point.wall_s / alone[point.batch] / shared)
    copies = sorted(known)
    means = [max(1.0, math.exp(math.fsum(map(math.log, known[c])) / len(known[c]))) for c in copies]
    return tuple(np.interp(np.arange(1, replicas + 1), copies, means).tolist())


@dataclass(frozen=True, slots=True)
class SimulatedService:
    """A service as it is simulated. `slots`: instances of the model per replica. `cores` of the node, `cpu_limit` those
    that a replica may use.

    `curve_units`: what a row of the curve costs in units (tokens, say) where the rows of requests differ in that; None
    where all rows are alike.
    """

    times: ModelTimes
    batching: Batching = field(default_factory=Batching)
    queue: QueuePolicy = field(default_factory=QueuePolicy)
    replicas: int = 1
    slots: int = 1
    cores: int = 1
    curve_units: float | None = None
    cpu_limit: float | None = None

    @property
    def threads(self) -> int:
        """Of all replicas together."""
        return self.replicas * self.slots * self.times.threads

    @property
    def shaped(self) -> bool:
        """Whether a cap, or instances inside the replicas, decide which cores a replica has."""
        return self.cpu_limit is not None or self.slots > 1


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: an open loop at the times `due_s` (seconds, ascending), or where they are None a closed loop.

    `rows` and `units` of a row, of the requests in turn; only requests of equal units per row share a batch.
    `requests`: of a closed loop. `connections` as the load client keeps them. `timeout_s`: what a request that was
    refused, or came later, counts as. `request_bytes` and `answer_bytes` of one request on the wire.
    """

    due_s: NDArray[np.float64] | None = None
    concurrency: int = 1
    requests: int = 1000
    rows: tuple[int, ...] = (1,)
    units: tuple[int, ...] = (1,)
    connections: int = 64
    timeout_s: float = 10.0
    request_bytes: float = 0.0
    answer_bytes: float = 0.0

    @property
    def count(self) -> int:
        """Requests sent in all."""
        return self.requests if self.due_s is None else len(self.due_s)
