"""How often the 95 % interval of a percentile holds the true value, on M/M/1 queues whose truth is known.

    python bench/interval_coverage.py

Sojourn times of an M/M/1 queue are exponential with rate mu - lambda. Schedules and intervals are the profiler's own:
five blocks of 1000 requests, each starting with an empty queue, fresh seeds for each run.
"""

from __future__ import annotations

import math

import numpy as np

from modelyard.domain.workload import Arrival, Workload
from modelyard.profile.samples import OK, Samples
from modelyard.profile.schedule import arrival_times
from modelyard.profile.statistics import latency_interval

RUNS, BLOCKS, REQUESTS, MU = 400, 5, 1000, 1000.0


def block(utilisation: float, number: int, rng: np.random.Generator) -> Samples:
    """One block served first come, first served: Lindley's recursion in its cumulative form."""
    rate = MU * utilisation
    work = Workload(Arrival.POISSON, rate_rps=rate, requests=REQUESTS)
    due = arrival_times(work, rng)
    served = np.cumsum(rng.exponential(1 / MU, REQUESTS))
    before = np.concatenate(([0.0], served[:-1]))
    done = served + np.maximum.accumulate(due - before)
    return Samples(
        block=np.full(REQUESTS, number, np.int32),
        scheduled_s=due,
        dispatched_s=due,
        sent_s=due,
        completed_s=done,
        status=np.full(REQUESTS, OK, np.int16),
    )


def main() -> None:
    print(f"{RUNS} runs of {BLOCKS} x {REQUESTS} requests; share of 95 % intervals that hold the truth\n")
    print("utilisation     p50     p99   bias of p99")
    for utilisation in (0.5, 0.7, 0.8, 0.9):
        held = {0.5: 0, 0.99: 0}
        ratios = []
        for run in range(RUNS):
            rng = np.random.default_rng([run, int(utilisation * 100)])
            blocks = [block(utilisation, number, rng) for number in range(BLOCKS)]
            for share in held:
                truth_ms = -math.log(1 - share) / (MU * (1 - utilisation)) * 1e3
                interval = latency_interval(blocks, share, timeout_s=10)
                held[share] += interval.low <= truth_ms <= interval.high
            ratios.append(interval.value / truth_ms)
        bias = float(np.median(ratios)) - 1
        print(f"{utilisation:11.1f}  {held[0.5] / RUNS:6.1%}  {held[0.99] / RUNS:6.1%}  {bias:+12.1%}")


if __name__ == "__main__":
    main()
