"""Queues whose true latency percentiles are known, and samples of them as a perfect load client would take them.

First come, first served, Poisson arrivals, mean service 1 ms. Latencies in ms. Used by benches and tests.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from modelyard.domain.workload import Arrival, Workload
from modelyard.profile.samples import OK, Samples
from modelyard.profile.schedule import arrival_times

Floats = NDArray[np.float64]
_CELL_MS = 0.01
_CELLS = 1 << 18


@dataclass(frozen=True)
class Queue:
    """A kind of service: `draw` gives service times in ms, `percentile` the true one of latency at a utilisation."""

    name: str
    servers: int
    draw: Callable[[np.random.Generator, tuple[int, ...]], Floats]
    percentile: Callable[[float, float], float]

    def rate_rps(self, utilisation: float) -> float:
        return 1000.0 * self.servers * utilisation

    def utilisation(self, percentile_ms: float, share: float) -> float:
        """The utilisation at which the latency percentile is `percentile_ms`; 0 where none is low enough."""
        if self.percentile(1e-6, share) >= percentile_ms:
            return 0.0
        return float(brentq(lambda u: self.percentile(u, share) - percentile_ms, 1e-6, 0.995, xtol=1e-4))


def samples(queue: Queue, work: Workload, block: int, rng: np.random.Generator) -> Samples:
    """One block on the profiler's own schedule, beginning with an empty queue."""
    due_s = arrival_times(work, rng)
    if due_s is None:
        raise ValueError("a closed loop has no schedule")
    done_s = completions(due_s, queue.draw(rng, due_s.shape) / 1e3, queue.servers)
    return Samples(
        block=np.full(len(due_s), block, np.int32),
        scheduled_s=due_s,
        dispatched_s=due_s,
        sent_s=due_s,
        completed_s=done_s,
        status=np.full(len(due_s), OK, np.int16),
    )


def completions(due_s: Floats, service_s: Floats, servers: int = 1) -> Floats:
    """When each request is done. One server: Lindley's recursion as a cumulative maximum."""
    if servers == 1:
        served = np.cumsum(service_s)
        return np.asarray(served + np.maximum.accumulate(due_s - (served - service_s)), np.float64)
    free, done = [0.0] * servers, []
    for due, service in zip(due_s.tolist(), service_s.tolist(), strict=True):
        done.append(max(free[0], due) + service)
        heapq.heapreplace(free, done[-1])
    return np.array(done)


def poisson(rate_rps: float, requests: int) -> Workload:
    """The workload of one block of a simulation: as many requests as asked, however long that takes."""
    return Workload(Arrival.POISSON, rate_rps=rate_rps, requests=requests, duration_s=1e9)


def mg1_percentile(service: Floats, residual: Floats, utilisation: float, share: float) -> float:
    """Percentile of latency in M/G/1 by Pollaczek-Khinchine: the wait is a geometric sum of residual services.

    `service` and `residual` are probabilities on a grid of 0.01 ms; the sum is done by the Fourier transform.
    """
    transform = (1 - utilisation) / (1 - utilisation * np.fft.rfft(residual)) * np.fft.rfft(service)
    cumulated = np.cumsum(np.fft.irfft(transform, len(service)))
    return float(np.searchsorted(cumulated, share) * _CELL_MS)


def atoms(*points: tuple[float, float]) -> Callable[[float, float], float]:
    """True percentiles of a single server whose service takes `ms` with a probability, for each (ms, probability)."""
    service, residual = np.zeros(_CELLS), np.zeros(_CELLS)
    mean = sum(ms * weight for ms, weight in points)
    for ms, weight in points:
        cell = round(ms / _CELL_MS)
        service[cell] += weight
        # a residual service is uniform up to `ms`; each cell's mass goes half to either end
        residual[:cell] += weight * _CELL_MS / mean / 2
        residual[1 : cell + 1] += weight * _CELL_MS / mean / 2
    return lambda utilisation, share: mg1_percentile(service, residual, utilisation, share)


def mmk_percentile(servers: int) -> Callable[[float, float], float]:
    """True percentiles of M/M/k: Erlang C, then the wait (exponential, if any) plus the service."""

    def percentile(utilisation: float, share: float) -> float:
        offered = servers * utilisation
        busy = offered**servers / math.factorial(servers) / (1 - utilisation)
        waits = busy / (sum(offered**n / math.factorial(n) for n in range(servers)) + busy)
        drain = servers - offered

        def longer(ms: float) -> float:
            if abs(drain - 1) < 1e-9:
                both = (1 + ms) * math.exp(-ms)
            else:
                both = (drain * math.exp(-ms) - math.exp(-drain * ms)) / (drain - 1)
            return (1 - waits) * math.exp(-ms) + waits * both

        return float(brentq(lambda ms: longer(ms) - (1 - share), 0.0, 1e5))

    return percentile


def _exponential(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return rng.exponential(1.0, shape)


def _constant(_: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return np.ones(shape)


def _bimodal(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return np.where(rng.random(shape) < 0.9, 0.5, 5.5)


MM1 = Queue("M/M/1", 1, _exponential, mmk_percentile(1))
MD1 = Queue("M/D/1", 1, _constant, atoms((1.0, 1.0)))
MM2 = Queue("M/M/2", 2, _exponential, mmk_percentile(2))
BIMODAL = Queue("bimodal", 1, _bimodal, atoms((0.5, 0.9), (5.5, 0.1)))
QUEUES = (MM1, MD1, MM2, BIMODAL)
