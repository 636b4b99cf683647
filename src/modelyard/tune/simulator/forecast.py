"""From simulated requests to the numbers that a measurement has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Simulated:
    """One simulated block. `latencies_ms` from the scheduled time, a refused request's is the timeout.

    `seconds` is simulated time; `cpu_s` the service's CPU, `client_cpu_s` the client's.
    """

    latencies_ms: NDArray[np.float64]
    due_s: NDArray[np.float64]
    completed_s: NDArray[np.float64]
    ok: NDArray[np.bool_]
    seconds: float
    cpu_s: float
    client_cpu_s: float
    batches: int
    rows: int
    open_loop: bool

    @property
    def throughput_rps(self) -> float:
        """Successes per second while load was offered."""
        count = len(self.ok)
        last = float(self.due_s.max())
        window = last * count / (count - 1) if count > 1 and last > 0 else self.seconds
        within = int((self.completed_s[self.ok] <= window).sum())
        if not self.open_loop:
            return within / window if within > count / 2 else int(self.ok.sum()) / self.seconds
        return (int(self.ok.sum()) if self.in_time >= 0.98 * count else within) / window if window > 0 else 0.0

    @property
    def in_time(self) -> int:
        """Answered while an open loop lasted, plus the usual latency: as `profile.statistics` counts what kept up."""
        count = len(self.ok)
        if not self.open_loop or count < 2:
            return count
        spent = self.completed_s - self.due_s
        grace = float(np.quantile(spent[: max(1, count // 3)], 0.95))
        window = float(self.due_s.max()) * count / (count - 1)
        return int((self.completed_s[self.ok] <= window + grace).sum())


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a simulation expects of a service under a load. Latencies in ms from the scheduled time.

    `refused`: share of the requests. `cores`: mean CPU cores that the service keeps busy; `core_s_per_request` its CPU
    seconds per answered request. `client_cores`: those of the load client, on the same node. `saturated`: it does not
    keep up with an open loop: fewer than 98 % are answered while it lasts. `requests`: how many were simulated; the p99
    of few is noisy. 0 requests: only bounds were computed (see `Bounds`), because they said enough.
    """

    throughput_rps: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: float
    mean_batch_rows: float
    cores: float
    core_s_per_request: float
    client_cores: float
    saturated: bool
    requests: int

    @classmethod
    def of(cls, blocks: Sequence[Simulated]) -> Forecast:
        """Of one or more simulated blocks, the percentiles over all their requests together."""
        latencies = np.concatenate([b.latencies_ms for b in blocks])
        p50, p95, p99 = np.quantile(latencies, (0.5, 0.95, 0.99), method="inverted_cdf").tolist()
        ok, count = sum(int(b.ok.sum()) for b in blocks), len(latencies)
        seconds, cpu = sum(b.seconds for b in blocks), sum(b.cpu_s for b in blocks)
        batches = sum(b.batches for b in blocks)
        return cls(
            throughput_rps=float(np.mean([b.throughput_rps for b in blocks])),
            mean_ms=float(latencies.mean()),
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            refused=1.0 - ok / count,
            mean_batch_rows=sum(b.rows for b in blocks) / batches if batches else 0.0,
            cores=cpu / seconds if seconds > 0 else 0.0,
            core_s_per_request=cpu / ok if ok else 0.0,
            client_cores=sum(b.client_cpu_s for b in blocks) / seconds if seconds > 0 else 0.0,
            saturated=sum(b.in_time for b in blocks) < 0.98 * count,
            requests=count,
        )
