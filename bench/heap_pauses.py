"""Does unloading a model bring garbage collections back into a service's tail? One replica, settled and then thawed.

    python -m bench.heap_pauses [--model tumour] [--rounds 3] [--rate 13900] [--max-batch 16] [--seconds 1.0]

A replica out of a model repository, with the measured model and a small second one. Its heap is settled when it is
ready; the first unloading thaws it (docs/adr/0054). Every round starts a replica, measures (4 blocks), unloads the
second model, and measures again with the same schedule. Printed: p50, p99, p99.9 and the slowest answer of each, then
the median ratios, thawed over settled. Two minutes; use an otherwise idle machine. Needs the extras onnx and sklearn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

import modelyard
from bench.simulator import plain, prepared
from modelyard.client import Client
from modelyard.dispatch import Limits
from modelyard.domain.configuration import Batching, Configuration
from modelyard.domain.placement import apart
from modelyard.domain.versions import Version
from modelyard.domain.workload import Arrival, Workload
from modelyard.profile import MeasuredService, fingerprint
from modelyard.profile.samples import Samples
from modelyard.workflow.deploying import DeployRequest, Serving
from modelyard.workflow.profiling import payloads_of

OTHER = "digits"
FIGURES = ("p50", "p99", "p99.9", "max")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tumour")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=13_900.0, help="requests per second (Poisson)")
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a block")
    options = parser.parse_args()
    node = fingerprint()
    print(f"{node.cpu_model}, {node.cores} cores, node {node.id}")
    print(f"{'ms':<10}" + "".join(f"{name:>10}" for name in FIGURES))
    with (
        tempfile.TemporaryDirectory(prefix="bench-heap-") as folder,
        modelyard.open(modelyard.Settings.read(home=Path(folder))) as yard,
    ):
        models = Path(folder, "models")
        version, configuration = chosen(yard, models, options.model, options.max_batch)
        other = chosen(yard, models, OTHER, 1)
        pairs = []
        for number in range(options.rounds):
            with service(yard, (version, configuration), other) as measured:
                work = Workload(
                    Arrival.POISSON,
                    blocks=4,
                    requests=10**6,
                    duration_s=options.seconds,
                    rate_rps=options.rate,
                    seed=number,
                )
                settled = tail(yard, version, measured, work, "settled")
                with Client(measured.endpoint.url) as client:
                    client.unload(OTHER)
                pairs.append((settled, tail(yard, version, measured, work, "thawed")))
    ratios = (statistics.median(after[k] / before[k] for before, after in pairs) for k in range(len(FIGURES)))
    print(f"{'ratio':<10}" + "".join(f"{ratio:>9.2f}x" for ratio in ratios))


def chosen(yard: modelyard.Yard, models: Path, name: str, batch: int) -> tuple[Version, Configuration]:
    """A version and one replica of one thread of it."""
    version, artifact = prepared(yard, models, name)
    return version, replace(plain(yard, artifact), batching=Batching(batch))


@contextmanager
def service(
    yard: modelyard.Yard, first: tuple[Version, Configuration], second: tuple[Version, Configuration]
) -> Iterator[MeasuredService]:
    """A replica out of a repository of two models; the first is what is measured."""
    deployer = yard.profiling.deployer
    version, configuration = first
    name = f"bench-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="bench-heap-models-") as folder:
        for each, shape in (first, second):
            served = deployer.served(each, shape, Serving())
            Path(folder, served.name).mkdir()
            Path(folder, served.name, f"{served.version}.json").write_bytes(msgspec.json.encode(served))
        spec = replace(deployer.spec(version, configuration, name, DeployRequest()), models=(), repository=folder)
        probe = deployer.probe((version,), Serving())
        limits = Limits(cores=apart(sorted(os.sched_getaffinity(0)), configuration.threads)[0])
        endpoint = deployer.engine.start(name, spec, 1, probe, limits=limits, owner_pid=os.getpid())
        try:
            pids = [r.pid for r in deployer.engine.replicas(name) if r.pid]
            yield MeasuredService(endpoint, version.model, version.number, configuration, lambda: pids)
        finally:
            deployer.engine.stop(name)


def tail(
    yard: modelyard.Yard, version: Version, measured: MeasuredService, work: Workload, what: str
) -> tuple[float, ...]:
    """Measure and print one line."""
    profiling = yard.profiling
    payloads = payloads_of(profiling.rows.groups(version), work, batched=True)
    cell = profiling.profiler.measure(measured, work, payloads)
    slowest = float(Samples.load(cell.samples).latencies_ms(work.timeout_s).max())
    cell.samples.unlink()
    seen = cell.measurement.indicators
    if seen.p99_ms is None or seen.p999_ms is None:
        raise SystemExit(f"too few requests for a tail: {'; '.join(cell.measurement.verdict.reasons)}")
    figures = (seen.p50_ms.value, seen.p99_ms.value, seen.p999_ms, slowest)
    print(f"{what:<10}" + "".join(f"{figure:>10.3f}" for figure in figures), flush=True)
    return figures


if __name__ == "__main__":
    main()
