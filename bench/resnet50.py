"""ResNet-50: what `yard publish` chose, the best fp32 configuration, and the naive FastAPI + eager PyTorch service.

    python bench/resnet50.py

Same machine, same client, same bytes; the services are measured block by block in turns (ABBA), so that what disturbs
one disturbs all. Closed loop gives throughput, an open loop at 70 % of the naive service's capacity gives p99.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

import modelyard
from modelyard.domain.artifacts import Precision
from modelyard.domain.configuration import Configuration
from modelyard.domain.services import Endpoint
from modelyard.domain.versions import ModelRef, Version
from modelyard.domain.workload import Arrival, Workload
from modelyard.profile import MeasuredService, Profiler, batch_payloads, compare
from modelyard.workflow.planning import candidates, contenders
from modelyard.workflow.progress import Progress

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "resnet50"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a closed block")
    parser.add_argument("--effort", default="normal", help="of the publish that chooses")
    args = parser.parse_args()
    if not (EXAMPLE / "resnet50.safetensors").exists():
        subprocess.run([sys.executable, str(EXAMPLE / "make.py")], check=True)
    with tempfile.TemporaryDirectory(prefix="bench-resnet50-") as home, ExitStack() as stack:
        yard = stack.enter_context(modelyard.open(modelyard.Settings.read(home=Path(home))))
        request = modelyard.PublishRequest(effort=args.effort, deploy=False)
        published = yard.publish(EXAMPLE / "model.yaml", request, listener=say)
        if published.choice.chosen is None:
            print(published.choice.reason)
            return 1
        chosen = published.choice.chosen.configuration
        fp32 = best_fp32(yard, published.version)
        services = [stack.enter_context(naive(published.version, chosen))]
        services.append(stack.enter_context(ours(yard, published.version, fp32, "bench-fp32")))
        if chosen != fp32:
            services.append(stack.enter_context(ours(yard, published.version, chosen, "bench-chosen")))
        report(services, args.blocks, args.seconds)
    return 0


def best_fp32(yard: modelyard.Yard, version: Version) -> Configuration:
    """The fp32 configuration that publish would measure first: by the in-process curves of the proven artifacts."""
    able = [
        a
        for a in yard.hub.artifacts.list(ModelRef(version.model, version.number), servable_only=True)
        if a.precision is Precision.FP32 and a.id != version.source_artifact
    ]
    curves = yard.profiling.curves(version, able, say)
    ranked = candidates(curves, {a.id: a for a in able}, cores=os.cpu_count() or 1, slo=None)
    return contenders(ranked, 1)[0]


@contextmanager
def ours(yard: modelyard.Yard, version: Version, configuration: Configuration, name: str) -> Iterator[MeasuredService]:
    """A Modelyard service of `configuration`."""
    with yard.deployer.temporary(version, configuration, name) as endpoint:
        yield MeasuredService(
            endpoint,
            version.model,
            version.number,
            configuration,
            lambda: [r.pid for r in yard.engine.replicas(name) if r.pid],
        )


@contextmanager
def naive(version: Version, like: Configuration) -> Iterator[MeasuredService]:
    """The FastAPI service of naive_fastapi.py, as its author would start it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(HERE / "baselines" / "naive_fastapi.py"), "--port", str(port)]
    command += ["--factory", f"{EXAMPLE / 'net.py'}:build", "--weights", str(EXAMPLE / "resnet50.safetensors")]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the naive service did not start") from None
                time.sleep(0.1)  # polls the health of another process while it loads
        label = replace(like, runtime="naive-fastapi", precision=Precision.FP32)
        endpoint = Endpoint("127.0.0.1", port)
        yield MeasuredService(endpoint, version.model, version.number, label, lambda: [process.pid])
    finally:
        process.terminate()
        process.wait(10)


def report(services: list[MeasuredService], blocks: int, seconds: float) -> None:
    """Measure closed and open, print the table and the ratios."""
    with np.load(EXAMPLE / "images.npz") as file:
        payloads = batch_payloads({"image": file["x"]}, 1, 16)
    closed = Workload(Arrival.CLOSED, concurrency=8, blocks=blocks, requests=100_000, duration_s=seconds, timeout_s=30)
    with tempfile.TemporaryDirectory() as work:
        profiler = Profiler(Path(work))
        cells = profiler.measure_interleaved(services, closed, payloads)
        show("closed loop, 8 in flight", cells)
        rate = round(0.7 * cells[0].measurement.indicators.throughput_rps.value, 1)
        load = Workload(Arrival.POISSON, rate_rps=rate, blocks=blocks, requests=100, duration_s=60, timeout_s=30)
        show(f"open loop, Poisson {rate:g} rps (70 % of naive)", profiler.measure_interleaved(services, load, payloads))


def show(title: str, cells: list) -> None:
    """One table: each service, and its paired ratio to the naive one."""
    print(f"\n{title}")
    first = cells[0]
    for cell in cells:
        m = cell.measurement
        i = m.indicators
        name = "naive FastAPI + eager PyTorch" if cell is first else m.configuration.label
        p99 = f"{i.p99_ms.value:.0f}" if i.p99_ms else "-"
        print(
            f"  {name:42s} {i.throughput_rps.value:7.1f} req/s   p50 {i.p50_ms.value:6.0f} ms   p99 {p99:>5s} ms",
            end="",
        )
        print(
            f"   {i.core_s_per_request * 1000:6.1f} core-ms/req   {i.memory_rss_bytes / 2**20:5.0f} MiB   {m.verdict}"
        )
        if cell is not first:
            for difference in compare(first.measurement, first.samples, m, cell.samples).differences:
                interval = f"[{difference.low:.3g}, {difference.high:.3g}]" if difference.low else ""
                print(f"      {difference.indicator}: x{difference.ratio:.3g} {interval} of naive")


def say(progress: Progress) -> None:
    """Progress on stderr."""
    print(f"[{progress.step}] {progress.message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
