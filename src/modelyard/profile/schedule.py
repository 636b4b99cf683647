"""When each request of a block is sent, and with which payload: drawn from a stored seed before the run.

The same seed and block give the same schedule and payload order on every machine, so that two configurations can be
compared in pairs and a measurement can be made again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.workload import Arrival, Workload


@dataclass(frozen=True, slots=True)
class BlockSchedule:
    """Send times in seconds from the block's start (None in a closed loop) and the payload index of each request."""

    times_s: NDArray[np.float64] | None
    payloads: NDArray[np.int64]

    @property
    def requests(self) -> int:
        return len(self.payloads)


def draw(workload: Workload, block: int, payload_count: int) -> BlockSchedule:
    """The schedule of one block; blocks are independent streams of the workload's seed.

    An open loop keeps the requests due within `duration_s`, and at least one. A negative `block` is a warm-up block.
    """
    times_rng, order_rng = (
        np.random.default_rng(child) for child in np.random.SeedSequence([workload.seed, block & 0xFFFFFFFF]).spawn(2)
    )
    times = arrival_times(workload, times_rng)
    count = workload.requests if times is None else len(times)
    return BlockSchedule(times, order_rng.integers(0, payload_count, count))


def arrival_times(workload: Workload, rng: np.random.Generator) -> NDArray[np.float64] | None:
    """Absolute send times of one block in seconds, starting at 0; None in a closed loop."""
    if workload.rate_rps is None:
        return None
    gap_s = 1.0 / workload.rate_rps
    if workload.arrival is Arrival.CONSTANT:
        times = np.arange(workload.requests) * gap_s
    else:
        times = np.cumsum(rng.exponential(gap_s, workload.requests))
        times -= times[0]
    kept = max(1, int(np.searchsorted(times, workload.duration_s)))
    return np.asarray(times[:kept], np.float64)
