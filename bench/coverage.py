"""How often the profiler's 95 % intervals hold the truth: many real measurements of one scripted service.

    python -m bench.coverage [--runs 100] [--used 0.6] [--service-ms 2] [--parallel 4] [--keep FILE]

The service is tests/integration/profile_responder.py as an M/M/1 queue: exponential service times, each answer due at
a time computed from the arrival. Every run is a whole measurement over loopback (its own client process, fresh seeds,
5 x 1000 requests). The service takes next to no CPU, so some run side by side. The truth is the queue's; what the
machine adds to each answer (loopback, event loops, timers) is measured at idle and added to it: a service whose time
is always `service-ms`, one request at a time. Runs that are done are kept in FILE (one JSON line each) and are not
made again, so a bench that was ended goes on.

Aim: 90 to 98 % for each percentile. A busy machine is seen in the send lag and in the bias.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.queues import MM1
from modelyard.domain.artifacts import Precision, Target
from modelyard.domain.configuration import Configuration
from modelyard.domain.measurement import Measurement, Validity
from modelyard.domain.services import Endpoint
from modelyard.domain.workload import Arrival, Workload
from modelyard.profile import MeasuredService, Profiler, Rules, fingerprint

RESPONDER = Path(__file__).parent.parent / "tests" / "integration" / "profile_responder.py"
PAYLOAD = {"x": np.zeros((1, 8), np.float32)}
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Run:
    """One measurement: (value, low, high) of each percentile in ms, and what it said of itself."""

    seed: int
    used: float
    service_ms: float
    percentiles: dict[str, tuple[float, float, float]]
    valid: bool
    requests_wanted: int
    send_lag_p99_ms: float
    reasons: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--used", type=float, default=0.6, help="Utilisation of the service.")
    parser.add_argument("--service-ms", type=float, default=2.0, help="Mean service time.")
    parser.add_argument("--parallel", type=int, default=4, help="Measurements at a time.")
    parser.add_argument("--keep", type=Path, help="File of runs that are done; default: none are kept.")
    options = parser.parse_args()
    node = fingerprint()
    print(
        f"{node.cpu_model}, {node.cores} cores, node {node.id}; M/M/1 used {options.used:g}, {options.service_ms:g} ms"
    )
    began = time.monotonic()
    added = added_ms(options.service_ms)
    done = [run for run in kept(options.keep) if (run.used, run.service_ms) == (options.used, options.service_ms)]
    missing = [seed for seed in range(options.runs) if seed not in {run.seed for run in done}]
    print(f"{len(done)} runs kept, {len(missing)} to make; the machine adds {added:.2f} ms to an answer", flush=True)
    with ThreadPoolExecutor(options.parallel) as pool:
        for run in pool.map(lambda seed: measure(seed, options.used, options.service_ms), missing):
            done.append(run)
            if options.keep:
                with options.keep.open("a") as file:
                    file.write(json.dumps(asdict(run)) + "\n")
    print(table(done[: options.runs], options.used, options.service_ms, added))
    print(f"{time.monotonic() - began:.0f} s")


def measure(seed: int, used: float, service_ms: float) -> Run:
    """One measurement of a fresh service under fresh seeds."""
    work = Workload(Arrival.POISSON, rate_rps=used / service_ms * 1e3, requests=1000, blocks=5, seed=seed)
    m = measured({"service_s": service_ms / 1e3, "law": "exponential", "seed": seed}, work)
    i = m.indicators
    spans = {"p50": i.p50_ms, "p95": i.p95_ms, "p99": i.p99_ms}
    return Run(
        seed,
        used,
        service_ms,
        {name: (s.value, s.low or 0.0, s.high or float("inf")) for name, s in spans.items() if s is not None},
        m.verdict.validity is Validity.VALID,
        m.verdict.requests_wanted,
        m.client.send_lag_p99_ms,
        m.verdict.reasons,
    )


def added_ms(service_ms: float) -> float:
    """What the machine adds to an answer of a fixed time: the median, one request at a time."""
    work = Workload(Arrival.CLOSED, concurrency=1, requests=200, blocks=3)
    return measured({"service_s": service_ms / 1e3}, work).indicators.p50_ms.value - service_ms


def measured(options: dict[str, object], work: Workload) -> Measurement:
    configuration = Configuration("a", Target("onnx"), "scripted", Precision.FP32)
    with responder({**options, "first": True}) as (pid, port), tempfile.TemporaryDirectory() as folder:
        target = MeasuredService(Endpoint("127.0.0.1", port), "scripted", 1, configuration, lambda: [pid])
        profiler = Profiler(Path(folder), rules=Rules(max_retakes=0))
        return profiler.measure(target, work, [PAYLOAD], purpose="bench").measurement


@contextmanager
def responder(options: dict[str, object]) -> Iterator[tuple[int, int]]:
    process = subprocess.Popen([sys.executable, str(RESPONDER), json.dumps(options)], stdout=subprocess.PIPE)
    try:
        if process.stdout is None:
            raise RuntimeError("the scripted service has no stdout")
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def kept(path: Path | None) -> list[Run]:
    if path is None or not path.exists():
        return []
    return [Run(**json.loads(line)) for line in path.read_text().splitlines()]


def table(runs: list[Run], used: float, service_ms: float, added: float) -> str:
    lines = [f"\n{'':<5}{'truth ms':>9}{'held':>8}{'too high':>10}{'too low':>9}{'bias':>8}{'interval':>16}"]
    for name, share in SHARES.items():
        truth = MM1.percentile(used, share) * service_ms + added
        value, low, high = np.array([run.percentiles[name] for run in runs]).T
        held = (low <= truth) & (truth <= high)
        width = " to ".join(f"{np.median(end / value) - 1:+.0%}" for end in (low, high))
        lines.append(
            f"{name:<5}{truth:9.2f}{held.mean():8.1%}{(low > truth).mean():10.1%}{(high < truth).mean():9.1%}"
            f"{np.median(value) / truth - 1:+8.1%}{width:>16}"
        )
    short = np.mean([run.requests_wanted > 0 for run in runs])
    lag = np.median([run.send_lag_p99_ms for run in runs])
    valid = np.mean([run.valid for run in runs])
    lines.append(f"{len(runs)} runs; {valid:.0%} valid, {short:.0%} called too short; median p99 send lag {lag:.2f} ms")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
