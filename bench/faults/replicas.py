"""Replicas that are killed and ended under load: rows T10 and T21."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.faults.load import FEW, LONGEST_S, Load, Seen, looping, median, ready, running, service, until
from bench.faults.result import Options, Result
from modelyard.client import RetryPolicy
from modelyard.domain.services import Endpoint

RETRIES = RetryPolicy(burst=64.0)
"""3 attempts, a budget of 10 %, and a burst that covers what one replica holds when it dies: with the default burst of
5, 4 requests per kill were lost."""
CALM = 8
"""The next fault comes once no more than this many requests are in flight: the queue of the last one has gone."""
SHARE = 0.7
"""Of the capacity, offered."""
STEPS = (0.95, 0.85, 0.75, 0.65)
"""Of a closed loop's rate, tried as an open loop's, largest first."""
SUSTAINED_S = 0.1
"""A rate is sustained where its p99 stays below this: an execution takes about a millisecond."""


@dataclass
class Signalled:
    """What a row of signals saw; seconds until each replica was gone, and until two were ready again."""

    seen: Seen
    rate: float
    gone: list[float]
    replaced: list[float]
    restless: int
    """How often the queue of one fault was still there at the next: the rate was more than there is."""

    def __str__(self) -> str:
        failed = f"{len(self.seen.errors)} of {self.seen.requests:,} failed"
        busy = f", {self.restless} times into a queue: busy machine" if self.restless else ""
        return f"{len(self.gone)} times at {self.rate:,.0f} requests/s{busy}: {failed}"


def signalled(folder: Path, number: signal.Signals, options: Options) -> Signalled:
    """Send a signal to a replica of two again and again, under an open load."""
    choice = random.Random(1)
    gone: list[float] = []
    replaced: list[float] = []
    restless = 0
    with service(folder, 2, looping(folder)) as (engine, endpoint):
        rate = options.rate or SHARE * capacity(endpoint, options.seconds)
        load = Load(endpoint, "loop", FEW, RETRIES)
        end = options.until()
        with load.at(rate) as seen:
            while len(gone) < options.times and time.perf_counter() < end:
                victim = choice.choice(ready(engine, 2))
                begun = time.perf_counter()
                os.kill(victim.pid or 0, number)
                until(lambda victim=victim: not running(victim.pid or 0), LONGEST_S)  # type: ignore[misc]
                gone.append(time.perf_counter() - begun)
                ready(engine, 2)
                replaced.append(time.perf_counter() - begun)
                calm_by = time.perf_counter() + LONGEST_S / 3
                print(f"  {len(replaced)}/{options.times}", end="\r", file=sys.stderr)
                until(lambda by=calm_by: load.in_flight <= CALM or time.perf_counter() > by, LONGEST_S)  # type: ignore[misc]
                restless += load.in_flight > CALM
    for error in seen.errors[:3]:
        print(f"    {error}")
    return Signalled(seen, rate, gone, replaced, restless)


def capacity(endpoint: Endpoint, seconds: float) -> float:
    """Requests/s that both replicas sustain as an open loop: what a closed loop reaches leaves no room for chance."""
    most = Load(endpoint, "loop", FEW).capacity(seconds)
    for share in STEPS:
        load = Load(endpoint, "loop", FEW)
        begun = time.perf_counter()
        with load.at(share * most) as seen:
            time.sleep(seconds)  # the load runs in its thread: this long it is watched
        if not seen.errors and seen.p99(begun, time.perf_counter()) <= SUSTAINED_S:
            print(f"  capacity {share * most:,.0f} requests/s as an open loop, {most:,.0f} as a closed one")
            return share * most
    print(
        f"  busy machine: no open loop of {STEPS[-1]:.0%} of {most:,.0f} requests/s kept its p99; this share is taken"
    )
    return STEPS[-1] * most


def t10(folder: Path, options: Options) -> Result:
    """Replicas killed by SIGKILL: client errors <= 0.1 %, replaced <= 15 s."""
    found = signalled(folder, signal.SIGKILL, options)
    share = len(found.seen.errors) / found.seen.requests
    replaced = f"replaced after {median(found.replaced):.1f} s, at most {max(found.replaced):.1f} s"
    return Result(f"{found}; {replaced}", share <= 1e-3 and max(found.replaced) <= 15)


def t21(folder: Path, options: Options) -> Result:
    """Replicas ended by SIGTERM: no failure, exit <= 30 s."""
    found = signalled(folder, signal.SIGTERM, options)
    exit_s = f"exit after {median(found.gone):.2f} s, at most {max(found.gone):.2f} s"
    return Result(f"{found}; {exit_s}", not found.seen.errors and max(found.gone) <= 30)
