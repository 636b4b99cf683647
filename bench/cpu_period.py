"""What the period of a CPU quota does to latency: `MODELYARD_CGROUP=/yard python bench/cpu_period.py`.

A process under a cap of half a core, as the process engine sets it. Twice per period, in turns over `--rounds`:

- computing without a pause: the longest it stands still, and the share of a core it gets (by two such processes too);
- requests of `--service-ms` CPU time each, arriving at random (Poisson, seeded) at `--load` of what the cap can serve:
  latency from the scheduled time.

All figures are medians over the rounds.

Work is counted in SHA-256 of 16 KiB, so that what a shorter period costs (more switches, colder caches) shows as less
work per CPU second.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic, sleep, thread_time

sys.path.insert(0, str(Path(__file__).parents[1]))

from modelyard.config import Settings
from modelyard.dispatch.engines.cgroups import Parents, find_parents, remove_groups
from modelyard.dispatch.engines.cpu import CpuQuota, throttling
from modelyard.domain.errors import Unsupported

CORES = 0.5
PERIODS_MS = (100, 50, 20, 10, 5, 2)
BLOCK = b"x" * 16384
Answer = dict[str, list[float]]


def work(units: int) -> None:
    for _ in range(units):
        hashlib.sha256(BLOCK)


def calibrate(service_s: float) -> int:
    """Units of work that take `service_s` of CPU time, by the fastest of several tries: others disturb only upwards."""
    tries = []
    for _ in range(20):
        start = thread_time()
        work(200)
        tries.append((thread_time() - start) / 200)
    return max(1, round(service_s / min(tries)))


def compute(seconds: float) -> Answer:
    """Compute without a pause."""
    start, cpu, last, longest, units = monotonic(), thread_time(), monotonic(), 0.0, 0
    while last < start + seconds:
        work(1)
        units += 1
        now = monotonic()
        longest, last = max(longest, now - last), now
    used = thread_time() - cpu
    return {"stall_ms": [longest * 1e3], "cores": [used / (last - start)], "units_per_cpu_s": [units / used]}


def serve(units: int, rate_rps: float, seconds: float, seed: int) -> Answer:
    """Serve requests one after the other."""
    rng, at, latencies = random.Random(seed), monotonic(), []
    end = at + seconds
    while (at := at + rng.expovariate(rate_rps)) < end:
        sleep(max(0.0, at - monotonic()))
        work(units)
        latencies.append((monotonic() - at) * 1e3)
    p50, p90, p99 = (statistics.quantiles(latencies, n=100)[k] for k in (49, 89, 98))
    return {"p50": [p50], "p90": [p90], "p99": [p99]}


def capped(parents: Parents, period_us: int, jobs: list[Callable[[], Answer]]) -> tuple[list[Answer], float]:
    """Run each job in a process of its own, all under one cap; their answers, and the share of stopped periods."""
    if parents.cpu is None:
        raise Unsupported("no cgroup with CPU control", hint="set MODELYARD_CGROUP to one that you may write")
    name = f"bench-{os.getpid()}"
    limit = CpuQuota(parents.cpu, name, CORES, period_us)
    pipes = []
    for job in jobs:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            limit.join()
            with os.fdopen(writer, "w") as out:
                json.dump(job(), out)
            os._exit(0)
        os.close(writer)
        pipes.append((pid, reader))
    answers = []
    for pid, reader in pipes:
        with os.fdopen(reader) as file:
            answers.append(json.load(file))
        os.waitpid(pid, 0)
    counted = throttling(limit.group)
    remove_groups(parents, name)
    return answers, counted.throttled / max(1, counted.periods) if counted else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--service-ms", type=float, default=2.0)
    parser.add_argument("--load", type=float, default=0.7)
    options = parser.parse_args()
    try:
        parents = find_parents(Settings.read().cgroup or None)
        measure(parents, options.rounds, options.seconds, options.service_ms / 1e3, options.load)
    except Unsupported as error:
        print(f"not measured: {error}; {error.hint}")


def measure(parents: Parents, rounds: int, seconds: float, service_s: float, load: float) -> None:
    units = calibrate(service_s)
    rate_rps = load * CORES / service_s
    found: dict[int, dict[str, list[float]]] = {period: {} for period in PERIODS_MS}
    for turn in range(rounds):
        for period in PERIODS_MS:
            [alone], stopped = capped(parents, period * 1000, [lambda: compute(seconds / 4)])
            pair, _ = capped(parents, period * 1000, [lambda: compute(seconds / 4)] * 2)
            [served], _ = capped(parents, period * 1000, [partial(serve, units, rate_rps, seconds, turn)])
            both = {"pair_cores": [sum(a["cores"][0] for a in pair)], "stopped": [stopped]}
            for name, values in {**alone, **both, **served}.items():
                found[period].setdefault(name, []).extend(values)
    print(f"cap {CORES:g}, {rate_rps:.0f} requests/s of {service_s * 1e3:g} ms CPU, {rounds} rounds of {seconds:g} s")
    print("period   longest stall   cores: one   two processes   work per CPU s       p50       p90       p99")
    most = statistics.median(found[PERIODS_MS[0]]["units_per_cpu_s"])
    for period, row in found.items():
        median = {name: statistics.median(values) for name, values in row.items()}
        print(
            f"{period:3d} ms   {median['stall_ms']:10.1f} ms   {median['cores']:10.2f}   {median['pair_cores']:13.2f}"
            f"   {median['units_per_cpu_s'] / most:14.2f}   "
            f"{median['p50']:6.1f} ms {median['p90']:6.1f} ms {median['p99']:6.1f} ms"
        )


if __name__ == "__main__":
    main()
