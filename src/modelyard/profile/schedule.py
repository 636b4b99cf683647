"""When each request of a block is sent, and with which payload: drawn from a stored seed before the run.

The same seed and block give the same schedule and payload order on every machine, so that two configurations can be
compared in pairs and a measurement can be made again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput
from modelyard.domain.workload import Arrival, Workload
from modelyard.profile.recording import Recording, uneven_steps


@dataclass(frozen=True, slots=True)
class BlockSchedule:
    """Send times in seconds from the block's start (None in a closed loop) and the payload index of each request."""

    times_s: NDArray[np.float64] | None
    payloads: NDArray[np.int64]

    @property
    def requests(self) -> int:
        return len(self.payloads)


def draw(workload: Workload, block: int, payload_count: int, recording: Recording | None = None) -> BlockSchedule:
    """The schedule of one block; blocks are independent streams of the workload's seed.

    An open loop has as many requests as its rate makes due within `duration_s`, at most `requests` and at least one. A
    negative `block` is a warm-up block. `recording`: that of the workload's trace; InvalidInput where it is missing.
    """
    times_rng, order_rng = (
        np.random.default_rng(child) for child in np.random.SeedSequence([workload.seed, block & 0xFFFFFFFF]).spawn(2)
    )
    times = _times(workload, times_rng, recording)
    count = workload.requests if times is None else len(times)
    return BlockSchedule(times, order_rng.integers(0, payload_count, count))


def _times(workload: Workload, rng: np.random.Generator, recording: Recording | None) -> NDArray[np.float64] | None:
    if workload.trace is None:
        return arrival_times(workload, rng)
    if recording is None:
        raise InvalidInput(f"the arrivals of trace {workload.trace.digest[:12]} are missing")
    return recording.replay(workload.trace, workload.duration_s, workload.requests, workload.cv, rng)


def arrival_times(workload: Workload, rng: np.random.Generator) -> NDArray[np.float64] | None:
    """Absolute send times of one block in seconds, starting at 0; None in a closed loop.

    A Poisson block of n requests spans n - 1 mean gaps exactly, so that each block of each seed offers the workload's
    rate and not one that is off by 1/sqrt(n): 4 % for 500 requests, which a service near its capacity answers with a
    far greater change of p99 than the one that is looked for. It is the Poisson process given its count: exponential
    gaps over their sum are the gaps of points thrown uniformly (Devroye, Non-Uniform Random Variate Generation, V.2),
    so bursts and lulls stay as they were, with a coefficient of variation of sqrt((n - 2) / n).

    Gamma gaps are treated alike: over their sum they are independent of it (Lukacs 1955), so the block is the renewal
    process given its span. Their coefficient of variation is then sqrt((n - 2) / (n - 1 + CV^2)) of the asked one:
    1.3 % less for a CV of 5 among 1000 requests.

    A ramp is a Poisson process whose rate changes linearly over the block: points of a process of rate 1 taken through
    the inverse of the integrated rate (Cinlar, Introduction to Stochastic Processes, 4.7). Its block, too, offers its
    mean rate exactly, and goes through the whole ramp also where `requests` makes it shorter.
    """
    if workload.rate_rps is None:
        return None
    start, end = workload.rate_rps, workload.end_rate_rps or workload.rate_rps
    gap_s = 2.0 / (start + end)
    even: NDArray[np.float64] = np.arange(workload.requests, dtype=np.float64) * gap_s
    even = even[: max(1, int(np.searchsorted(even, workload.duration_s)))]
    if workload.arrival is Arrival.CONSTANT or len(even) == 1:
        return even
    steps = uneven_steps(len(even) - 1, workload.cv or 1.0, rng)
    reached = np.concatenate([np.zeros(1), np.cumsum(steps)])
    reached /= reached[-1]
    if workload.end_rate_rps is not None:
        reached = reached * (start + end) / (start + np.sqrt(start**2 + (end**2 - start**2) * reached))
    return np.asarray(reached * even[-1], np.float64)
