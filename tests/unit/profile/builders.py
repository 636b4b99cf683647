"""Synthetic samples with known truth, and values for reports."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelyard.profile.samples import OK, Samples


def fifo(arrivals_s: NDArray[np.float64], services_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Completion times of one first-come-first-served server (Lindley's recursion)."""
    done = np.empty_like(arrivals_s)
    free = 0.0
    for i, (arrival, service) in enumerate(zip(arrivals_s, services_s, strict=True)):
        free = max(free, arrival) + service
        done[i] = free
    return done


def block(
    scheduled_s: NDArray[np.float64],
    completed_s: NDArray[np.float64],
    *,
    number: int = 0,
    lag_s: float = 0.0,
    status: NDArray[np.int16] | None = None,
) -> Samples:
    return Samples(
        block=np.full(len(scheduled_s), number, np.int32),
        scheduled_s=scheduled_s,
        dispatched_s=scheduled_s + lag_s,
        sent_s=scheduled_s + lag_s,
        completed_s=completed_s + lag_s,
        status=np.full(len(scheduled_s), OK, np.int16) if status is None else status,
    )


def queue_block(
    rate_rps: float, service_s: NDArray[np.float64], rng: np.random.Generator, *, number: int = 0
) -> Samples:
    """One block of a single-server queue under Poisson arrivals."""
    arrivals = np.cumsum(rng.exponential(1 / rate_rps, len(service_s)))
    arrivals -= arrivals[0]
    return block(arrivals, fifo(arrivals, service_s), number=number)
