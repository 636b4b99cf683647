"""What do replicas gain from cores of their own? One service under the same loads, its replicas bound and not bound.

    python -m bench.replica_cores [--models digits gan-discriminator] [--rounds 4]

As many replicas of one thread as the machine has cores. Each load is sent alternately to the service as it is deployed
(every replica bound to a core) and with its processes allowed everywhere; printed are medians of the rounds and the
ratio, bound over unbound. Four minutes; use an otherwise idle machine. Needs the extras torch, onnx and sklearn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import modelyard
from bench.simulator import plain, prepared
from modelyard.dispatch.engines.placement import bind
from modelyard.domain.configuration import Batching
from modelyard.domain.workload import Arrival, Workload
from modelyard.profile import MeasuredService
from modelyard.workflow.profiling import payloads_of

SHARES = (0.3, 0.5, 0.7)
Figures = tuple[float, float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["digits", "gan-discriminator"])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a block")
    options = parser.parse_args()
    print(f"{'':<42}{'requests/s':>20}{'':>7}{'p50 ms':>16}{'':>7}{'p99 ms':>16}")
    with (
        tempfile.TemporaryDirectory(prefix="bench-cores-") as folder,
        modelyard.open(modelyard.Settings.read(home=Path(folder))) as yard,
    ):
        for model in options.models:
            for batch in (1, 16):
                compare(yard, Path(folder, "models"), model, batch, options)


def compare(yard: modelyard.Yard, models: Path, model: str, batch: int, options: argparse.Namespace) -> None:
    """Measure one configuration under a closed loop, and under shares of what that reached."""
    profiling = yard.profiling
    version, artifact = prepared(yard, models, model)
    configuration = replace(plain(yard, artifact), replicas=profiling.cores, batching=Batching(batch))
    name = f"bench-{os.getpid()}"
    with profiling.deployer.temporary(version, configuration, name) as endpoint:
        pids = [r.pid for r in profiling.deployer.engine.replicas(name) if r.pid]
        own = {pid: sorted(os.sched_getaffinity(pid)) for pid in pids}
        if any(len(cores) != 1 for cores in own.values()):
            sys.exit(f"the replicas are not bound to one core each: {own}")
        everywhere = sorted(os.sched_getaffinity(0))
        service = MeasuredService(endpoint, version.model, version.number, configuration, lambda: pids)

        def measured(work: Workload, *, bound: bool) -> Figures:
            for pid in pids:
                bind(pid, own[pid] if bound else everywhere)
            payloads = payloads_of(profiling.rows.groups(version), work, batched=True)
            cell = profiling.profiler.measure(service, work, payloads)
            cell.samples.unlink(missing_ok=True)
            seen = cell.measurement.indicators
            return seen.throughput_rps.value, seen.p50_ms.value, seen.p99_ms.value if seen.p99_ms else float("nan")

        closed = Workload(Arrival.CLOSED, concurrency=32, blocks=1, requests=10**6, duration_s=options.seconds)
        full = min(measured(closed, bound=bound)[0] for bound in (True, False))
        for share in (None, *SHARES):
            work = closed
            if share is not None:
                rate = float(f"{share * full:.3g}")
                work = replace(closed, arrival=Arrival.POISSON, concurrency=1, rate_rps=rate)
            pairs = []
            for number in range(options.rounds):
                seeded = replace(work, seed=number)
                order = (True, False) if number % 2 else (False, True)
                found = {bound: measured(seeded, bound=bound) for bound in order}
                pairs.append((found[False], found[True]))
            print(line(f"{model} max_batch {batch}, {work.label}", pairs), flush=True)


def line(what: str, pairs: list[tuple[Figures, Figures]]) -> str:
    """Medians unbound and bound, and the median ratio, of each figure."""
    text = f"{what:<42}"
    for k, form in enumerate((",.0f", ".2f", ".2f")):
        free, bound = (statistics.median(pair[side][k] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(pair[1][k] / pair[0][k] for pair in pairs)
        text += f"{free:>9{form}}{bound:>9{form}} {ratio:>4.2f}x"
    return text


if __name__ == "__main__":
    main()
