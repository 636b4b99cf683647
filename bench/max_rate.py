"""How often the max-rate search answers a rate that is really too high, on queues whose truth is known.

    python -m bench.max_rate [--runs 100]

The search, schedules, intervals and verdicts are the profiler's own; only the service is simulated, with a perfect
client. SLOs are set so that the true max rate is 60, 75 and 88 % of the capacity. `> 10 % over`: share of the searches
whose answer is more than 10 % above the true max rate; `over`: above it at all; `given up`: the median of what is left
on the table. Below: false decisions at a fixed rate, where p99 is in truth 5 to 30 % above (or below) the SLO.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from bench.queues import QUEUES, Queue, poisson, samples
from modelyard.domain.measurement import ClientHealth, Validity
from modelyard.profile.bursts import Bursts
from modelyard.profile.max_rate import MaxRate, search
from modelyard.profile.slo_evidence import Evidence, Load
from modelyard.profile.statistics import REQUESTS_FOR_P99, latency_interval, summarise
from modelyard.profile.verdicts import Circumstances, judge

TIMEOUT_S = 1e6
BLOCKS = 5
USED = (0.6, 0.75, 0.88)
OFF = (0.7, 0.8, 0.9, 0.95, 1.05, 1.1, 1.2, 1.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="Searches per queue and SLO.")
    options = parser.parse_args()
    began = time.perf_counter()
    print(
        f"{'queue':<9}{'true max':>9}{'answers':>9}{'> 10 % over':>13}{'over':>7}{'given up':>10}"
        f"{'measurements':>14}{'requests':>10}"
    )
    for queue in QUEUES:
        for used in USED:
            print(searches(queue, used, options.runs), flush=True)
    print(f"\nat a fixed rate, 5 x 1000 requests, {options.runs} runs; p99 in truth of the SLO, decisions")
    for queue in QUEUES:
        print(decisions(queue, options.runs), flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s")


def service(queue: Queue, seed: int) -> tuple[Callable[[Load], Evidence], list[int]]:
    """A simulated service that can be measured, and the requests each measurement took."""
    spent: list[int] = []

    def measure(load: Load) -> Evidence:
        if load.rate_rps is None:
            return Evidence(None, queue.rate_rps(1.0))
        spent.append(BLOCKS * load.requests)
        return open_loop(queue, load.rate_rps, load.requests, np.random.default_rng([seed, load.seed, len(spent)]))

    return measure, spent


def open_loop(queue: Queue, rate_rps: float, requests: int, rng: np.random.Generator) -> Evidence:
    """What the profiler would say of one measurement, with a client that is never late."""
    work = poisson(rate_rps, requests)
    parts = [samples(queue, work, number, rng) for number in range(BLOCKS)]
    summaries = [summarise(part, open_loop=True, timeout_s=TIMEOUT_S) for part in parts]
    bursts = Bursts.count([part.latencies_ms(TIMEOUT_S) for part in parts])
    health = ClientHealth(0.0, rate_rps, rate_rps, 0.1)
    found = judge(summaries, health, p50_ms=1.0, concurrency=None, circumstances=Circumstances(bursts=bursts))
    return Evidence(
        p99_ms=latency_interval(parts, 0.99, TIMEOUT_S) if BLOCKS * requests >= REQUESTS_FOR_P99 else None,
        throughput_rps=float(np.mean([s.throughput_rps for s in summaries])),
        saturated=found.saturated,
        invalid=found.reasons[0] if found.validity is Validity.INVALID else "",
        requests_wanted=found.requests_wanted,
    )


def searches(queue: Queue, used: float, runs: int) -> str:
    slo_ms, truth = queue.percentile(used, 0.99), queue.rate_rps(used)
    answers: list[MaxRate] = []
    requests = []
    for run in range(runs):
        measure, spent = service(queue, run)
        answers.append(search(slo_ms, measure, seed=run))
        requests.append(sum(spent))
    ratios = np.array([a.rate_rps / truth for a in answers if a.rate_rps is not None])
    return (
        f"{queue.name:<9}{truth:9.0f}{len(ratios) / runs:9.0%}{(ratios > 1.1).sum() / runs:13.1%}"
        f"{(ratios > 1).sum() / runs:7.1%}{1 - np.median(ratios):10.1%}"
        f"{np.median([len(a.probes) for a in answers]):14.0f}{np.median(requests):10,.0f}"
    )


def decisions(queue: Queue, runs: int) -> str:
    """Shares of `met` where p99 is over the SLO, and of `missed` where it is under, for p99 off by a factor."""
    told = []
    for off in OFF:
        truth_ms = queue.percentile(0.7, 0.99)
        rng = np.random.default_rng([int(off * 100), 7])
        found = [open_loop(queue, queue.rate_rps(0.7), 1000, rng) for _ in range(runs)]
        slo_ms = truth_ms / off
        met, missed = (sum(judged) / runs for judged in (
            [e.meets(slo_ms) for e in found], [e.misses(slo_ms) for e in found]
        ))  # fmt: skip
        told.append(f"{off:4.0%}: met {met:4.0%} missed {missed:4.0%}")
    return f"{queue.name:<9}" + "  ".join(told)


if __name__ == "__main__":
    main()
