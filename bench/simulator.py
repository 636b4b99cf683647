"""How far the simulator's predictions are from the real server, on workloads it was not calibrated with.

    python -m bench.simulator [--quick] [--models digits tumour gan-discriminator] [--seconds 0.8] [--home DIR]

Curves and the server's overhead are measured once and then frozen; no measurement below corrects a prediction. Then,
for each model and each of a few configurations (batching off and on, one and two replicas), the real service is
measured in closed loops of 1, 8 and 32 and under Poisson arrivals at 0.3, 0.5, 0.7 and 0.85 of the capacity that the
simulator expects; where a service did not keep up, higher rates are left out. What kept up is measured a second time:
how far that is from the first is what no prediction can be better than. Printed: predicted and measured throughput,
p50, p99, mean batch and CPU per request, and medians of the absolute logarithm of their ratios. About 12 minutes,
`--quick` two; use an otherwise idle machine. `--home` keeps curves and overhead for the next run (delete its
`work/curves` to calibrate again), `--csv` writes the ratios. Needs the extras torch, onnx and sklearn.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from pathlib import Path

import modelyard
from modelyard.domain.artifacts import Artifact, Precision
from modelyard.domain.configuration import Batching, Configuration
from modelyard.domain.measurement import Measurement
from modelyard.domain.versions import ModelRef, Version
from modelyard.domain.workload import Arrival, Protocol, Workload
from modelyard.profile import MeasuredService, fingerprint
from modelyard.tune.simulator import Forecast, Simulator
from modelyard.workflow.profiling import payloads_of
from modelyard.workflow.simulating import Simulating

sys.path.insert(0, str(Path(__file__).parents[1]))  # where this runs as a script
from bench.tune.models import get

SHARES = (0.3, 0.5, 0.7, 0.85)
CLOSED = (1, 8, 32)
BLOCKS = 3
SIMULATED = 6000


INDICATORS = ("throughput", "p50", "p99", "cpu")


def figures(measurement: Measurement) -> dict[str, float]:
    """What is compared, by indicator."""
    seen = measurement.indicators
    p99 = seen.p99_ms.value if seen.p99_ms else 0.0
    values = (seen.throughput_rps.value, seen.p50_ms.value, p99, seen.core_s_per_request)
    return dict(zip(INDICATORS, values, strict=True))


def logs(above: dict[str, float], below: dict[str, float]) -> dict[str, float]:
    """Of the ratios of indicators that both have."""
    return {name: log(above[name] / below[name]) for name in INDICATORS if above[name] > 0 and below[name] > 0}


@dataclass(frozen=True, slots=True)
class Row:
    """One cell: what was expected and what was measured."""

    model: str
    configuration: Configuration
    workload: Workload
    share: float | None
    expected: Forecast
    measured: Measurement
    again: Measurement | None = None

    def ratios(self) -> dict[str, float]:
        """log(measured / predicted) by indicator."""
        expected = self.expected
        values = (expected.throughput_rps, expected.p50_ms, expected.p99_ms, expected.core_s_per_request)
        return logs(figures(self.measured), dict(zip(INDICATORS, values, strict=True)))

    def repeated(self) -> dict[str, float]:
        """log(measured again / measured) by indicator: what no prediction can be better than."""
        return {} if self.again is None else logs(figures(self.again), figures(self.measured))

    @property
    def below(self) -> bool:
        """Whether the service kept up, measured and expected."""
        return not (self.measured.verdict.saturated or self.expected.saturated)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one model, two configurations, short blocks")
    parser.add_argument("--models", nargs="+", default=["digits", "tumour", "gan-discriminator"])
    parser.add_argument("--seconds", type=float, default=0.8, help="of a block, at most")
    parser.add_argument("--home", type=Path, help="keep models, curves and overhead here")
    parser.add_argument("--csv", type=Path, help="write the rows here")
    options = parser.parse_args()
    if options.quick:
        options.models, options.seconds = options.models[:1], min(options.seconds, 0.5)
    node = fingerprint()
    print(f"{node.cpu_model}, {node.cores} cores; {node.python}; load {os.getloadavg()[0]:.1f}; node {node.id}\n")
    with tempfile.TemporaryDirectory(prefix="bench-simulator-") as folder:
        home = options.home or Path(folder)
        with modelyard.open(modelyard.Settings.read(home=home)) as yard:
            rows = list(table(yard, options, home / "models"))
    print()
    medians(rows)
    if options.csv:
        write(rows, options.csv)


def table(yard: modelyard.Yard, options: argparse.Namespace, models: Path) -> Iterator[Row]:
    """Measure and print every row."""
    print(f"{'':<52}{'requests/s':>16}{'p50 ms':>16}{'p99 ms':>16}{'rows':>11}{'CPU us':>13}")
    for name in options.models:
        version, artifact = prepared(yard, models, name)
        began = time.monotonic()
        simulator = Simulating(yard.profiling).simulator(version, [artifact], [Protocol.HTTP_BINARY], lambda _: None)
        print(f"{name}: calibrated in {time.monotonic() - began:.1f} s", flush=True)
        for configuration in configurations(yard, artifact, quick=options.quick):
            print(f"{name} {configuration.label}: {speed(simulator, configuration):,.0f} simulated requests/s")
            for row in measured(yard, version, name, simulator, configuration, options):
                print(line(row), flush=True)
                yield row


def speed(simulator: Simulator, configuration: Configuration) -> float:
    """Simulated requests per second of this process's time, at half of the capacity."""
    load = Workload(Arrival.POISSON, rate_rps=1.0, requests=20_000)
    rate = simulator.screen(configuration, load).capacity_rps / 2
    began = time.process_time()
    found = simulator.predict(configuration, replace(load, rate_rps=rate, duration_s=1e9), requests=20_000)
    return found.requests / (time.process_time() - began)


def prepared(yard: modelyard.Yard, models: Path, name: str) -> tuple[Version, Artifact]:
    """The version and its FP32 artifact for onnxruntime, else its source."""
    ref = yard.register(get(name).build(models), trust=True).version.ref
    version = yard.hub.versions.get(ModelRef.parse(ref))
    every = yard.hub.artifacts.list(ModelRef(version.model, version.number), servable_only=True)
    if not any(a.target.format == "onnx" for a in every) and version.definition.source.format != "xgboost":
        yard.convert(ref, ["onnx"])
        every = yard.hub.artifacts.list(ModelRef(version.model, version.number), servable_only=True)
    plain = [a for a in every if a.precision is Precision.FP32]
    return version, next((a for a in plain if a.target.format == "onnx"), plain[0])


def plain(yard: modelyard.Yard, artifact: Artifact) -> Configuration:
    """One replica of one thread, without batches."""
    (runtime,) = yard.profiling.runtimes_for(artifact)
    return Configuration(artifact.id, artifact.target, runtime, artifact.precision)


def configurations(yard: modelyard.Yard, artifact: Artifact, *, quick: bool) -> list[Configuration]:
    """Batching off and on, one and two replicas."""
    base = plain(yard, artifact)
    knobs = [(1, 1), (1, 16)] if quick else [(1, 1), (1, 16), (2, 1), (2, 16)]
    return [replace(base, replicas=r, batching=Batching(most)) for r, most in knobs]


def workloads(
    simulator: Simulator, configuration: Configuration, options: argparse.Namespace
) -> Iterator[tuple[Workload, float | None]]:
    """Closed loops, and rates as shares of the simulated capacity."""
    closed = Workload(Arrival.CLOSED, blocks=BLOCKS, requests=20_000, duration_s=options.seconds, timeout_s=2, seed=7)
    counts, shares = (CLOSED[::2], SHARES[1:3]) if options.quick else (CLOSED, SHARES)
    for count in counts:
        yield replace(closed, concurrency=count), None
    full = simulator.predict(configuration, replace(closed, concurrency=64), requests=SIMULATED).throughput_rps
    for share in shares:
        rate = float(f"{share * full:.4g}")
        # at least 200 requests a block where they are slow, so that there is a p99
        seconds = min(max(options.seconds, 200 / rate), 3 * options.seconds)
        yield replace(closed, arrival=Arrival.POISSON, concurrency=1, rate_rps=rate, duration_s=seconds), share


def simulated(work: Workload) -> int:
    """Requests to simulate: in an open loop those of the very blocks that are measured."""
    return SIMULATED if work.rate_rps is None else round(BLOCKS * work.rate_rps * work.duration_s)


def measured(
    yard: modelyard.Yard,
    version: Version,
    name: str,
    simulator: Simulator,
    configuration: Configuration,
    options: argparse.Namespace,
) -> Iterator[Row]:
    """The rows of one running service."""
    profiling, service = yard.profiling, f"bench-{os.getpid()}"
    with profiling.deployer.temporary(version, configuration, service) as endpoint:
        target = MeasuredService(
            endpoint,
            version.model,
            version.number,
            configuration,
            lambda: [r.pid for r in profiling.deployer.engine.replicas(service) if r.pid],
        )

        def measurement(work: Workload) -> Measurement:
            payloads = payloads_of(profiling.rows.groups(version), work, batched=True)
            cell = profiling.profiler.measure(target, work, payloads)
            cell.samples.unlink(missing_ok=True)
            return cell.measurement

        rows: list[Row] = []
        for work, share in workloads(simulator, configuration, options):
            expected = simulator.predict(configuration, work, requests=simulated(work))
            rows.append(Row(name, configuration, work, share, expected, measurement(work)))
            if rows[-1].measured.verdict.saturated:
                break
        for row in rows:
            yield replace(row, again=measurement(row.workload)) if row.below else row


def line(row: Row) -> str:
    """Predicted and measured, side by side."""
    seen, expected = row.measured.indicators, row.expected
    stages = seen.stages.mean_batch_rows if seen.stages else 0.0
    load = f"closed {row.workload.concurrency}" if row.share is None else f"{row.workload.rate_rps:g}/s ({row.share:g})"
    what = f"{row.model} r{row.configuration.replicas} b{row.configuration.batching.max_size:<3} {load}"
    p99 = seen.p99_ms.value if seen.p99_ms else float("nan")
    return (
        f"{what:<46}{'' if row.below else 'full':>6}{expected.throughput_rps:>8,.0f}{seen.throughput_rps.value:>8,.0f}"
        f"{expected.p50_ms:>8.3f}{seen.p50_ms.value:>8.3f}{expected.p99_ms:>8.3f}{p99:>8.3f}"
        f"{expected.mean_batch_rows:>6.2f}{stages:>5.2f}"
        f"{expected.core_s_per_request * 1e6:>7.0f}{seen.core_s_per_request * 1e6:>6.0f}"
    )


def medians(rows: Sequence[Row]) -> None:
    """The median |log ratio| of each indicator, over all models and by model; signed medians beside them."""
    print("median |log(measured / predicted)|, and the median with its sign, below saturation (closed loops included):")
    for name in [*dict.fromkeys(r.model for r in rows), "all"]:
        mine = [r.ratios() for r in rows if r.below and name in (r.model, "all")]
        print(f"  {name:<20}{', '.join(off(mine))}   ({len(mine)} cells)")
    print("the same of a second measurement and the first, minutes apart:")
    print(f"  {'all':<20}{', '.join(off([r.repeated() for r in rows if r.again is not None and r.below]))}")
    print("aims: throughput and p50 within 10 %, p99 within 20 %")


def off(cells: Sequence[dict[str, float]]) -> Iterator[str]:
    """The medians of each indicator in words."""
    for indicator in INDICATORS:
        values = [cell[indicator] for cell in cells if indicator in cell]
        if values:
            size, sign = statistics.median(map(abs, values)), statistics.median(values)
            yield f"{indicator} {exp(size) - 1:.1%} ({exp(sign) - 1:+.1%})"


def write(rows: Sequence[Row], path: Path) -> None:
    """One line per row, for plots."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["model", "configuration", "workload", "share", "below", "throughput", "p50", "p99", "cpu"])
        for row in rows:
            ratios = row.ratios()
            found = [ratios.get(i, "") for i in ("throughput", "p50", "p99", "cpu")]
            label = f"r{row.configuration.replicas} b{row.configuration.batching.max_size}"
            table.writerow([row.model, label, row.workload.label, row.share or "", row.below, *found])


if __name__ == "__main__":
    main()
