"""How often the 95 % interval of a percentile holds the true value, on queues whose truth is known.

    python -m bench.interval_coverage [--runs 400] [--requests 1000,10000] [--blocks 5]

Schedules, intervals and the rule on bursts are the profiler's own; each block begins with an empty queue, fresh seeds
for each run. `valid`: share of the runs that the rules on length would call valid, not provisional; `p99 if valid`: how
often the interval of those holds the truth. Four services of one mean service time: exponential, constant, two
exponential servers, and bimodal (90 % take 0.5, 10 % take 5.5).
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from bench.queues import QUEUES, Queue, poisson, samples
from modelyard.profile.bursts import Bursts
from modelyard.profile.statistics import latency_interval
from modelyard.profile.verdicts import Rules, burst_faults

SHARES = (0.5, 0.95, 0.99)
UTILISATIONS = (0.5, 0.7, 0.8, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--requests", default="1000,10000", help="Requests per block; several, by commas.")
    parser.add_argument("--blocks", type=int, default=5)
    options = parser.parse_args()
    print(f"{options.runs} runs of {options.blocks} blocks; share of 95 % intervals that hold the truth\n")
    print(
        f"{'queue':<9}{'used':>5}{'requests':>10}{'p50':>8}{'p95':>8}{'p99':>8}"
        f"{'valid':>8}{'p99 if valid':>14}{'bias of p99':>13}{'interval of p99':>20}"
    )
    for queue in QUEUES:
        for requests in map(int, options.requests.split(",")):
            for utilisation in UTILISATIONS:
                print(row(queue, utilisation, requests, options.blocks, options.runs), flush=True)


def row(queue: Queue, utilisation: float, requests: int, blocks: int, runs: int) -> str:
    truths = [queue.percentile(utilisation, share) for share in SHARES]
    work = poisson(queue.rate_rps(utilisation), requests)
    held, valid, ratios, ends = np.zeros((runs, 3), bool), np.zeros(runs, bool), np.zeros(runs), np.zeros((runs, 2))
    for run in range(runs):
        rng = np.random.default_rng([run, int(utilisation * 100), requests])
        parts = [samples(queue, work, number, rng) for number in range(blocks)]
        for k, (share, truth) in enumerate(zip(SHARES, truths, strict=True)):
            found = latency_interval(parts, share, timeout_s=1e9)
            low, high = found.low or 0.0, found.high or math.inf
            held[run, k] = low <= truth * 1.0005 and truth <= high * 1.0005  # the truth is on a grid
        valid[run] = not burst_faults(Bursts.count([p.latencies_ms(1e9) for p in parts]), requests, Rules())[0]
        ratios[run], ends[run] = found.value / truth, (low / found.value, high / found.value)
    covered = "".join(f"{share:8.1%}" for share in held.mean(0))
    if_valid = f"{held[valid, 2].mean():.1%}" if valid.any() else "-"
    width = " to ".join(f"{end - 1:+.0%}" for end in np.median(ends, 0))
    return (
        f"{queue.name:<9}{utilisation:5.1f}{requests:10d}{covered}{valid.mean():8.0%}{if_valid:>14}"
        f"{np.median(ratios) - 1:+13.1%}{width:>20}"
    )


if __name__ == "__main__":
    main()
