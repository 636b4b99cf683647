"""What stages and traces cost: the ring in-process, and a replica's throughput without an exporter, at 0, 1 and 100 %.

    python bench/tracing_cost.py [--seconds 2] [--rounds 5] [--connections 1 32]

A tiny model (MLP 32-64-10, onnxruntime, binary tensors over REST), where overhead shows most. One replica per rate, all
running, one under load at a time, in turns; the ratios are paired by round against the replica that samples nothing
and has no exporter. Needs wrk (Debian package) and the `onnx` extra.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
import timeit
from pathlib import Path

import msgspec
import numpy as np
from serving_overhead import SIGNATURE, fingerprint, free_port, running, write_model, write_payloads, wrk

from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.configuration import Batching
from modelyard.domain.services import ReplicaSpec, ServedModel, Tracing
from modelyard.serving.observe.stages import Recorder
from modelyard.serving.oip.plan import InferHead, InputHead, Interface, make_plan
from modelyard.serving.scheduling.work import Work, member

RATES = {"no exporter": None, "0 %": 0.0, "1 %": 0.01, "100 %": 1.0}


def ring_ns(rows: int) -> float:
    """Nanoseconds that the ring costs per request in batches of `rows`."""
    face = Interface("mlp", 1, SIGNATURE)
    plan = make_plan(face, InferHead([InputHead("x", "FP32", [1, 32])]))
    batch = [Work(plan, (np.zeros((1, 32), np.float32),), 1.0) for _ in range(rows)]
    recorder = Recorder()
    runs = 50_000 // rows
    spent = timeit.repeat(
        lambda: recorder.record(face, [member(w, 1.25, 1.3) for w in batch], rows, 1.0, 1.1, 1.2), number=runs, repeat=9
    )
    return statistics.median(spent) / runs / rows * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 32])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        write_model(directory / "mlp.onnx")
        write_payloads(directory)
        artifact = LocalArtifact(name, "mlp.onnx", Target("onnx"), Precision.FP32, SIGNATURE)
        served = ServedModel("mlp", 1, artifact, "onnxruntime", batching=Batching(32, 0))
        ports: dict[str, int] = {}
        for i, (label, rate) in enumerate(RATES.items()):
            ports[label], ready = free_port(), directory / f"ready-{i}"
            tracing = Tracing() if rate is None else Tracing(rate, file=f"{name}/traces-{i}")
            spec = ReplicaSpec(
                "bench", (served,), http_port=ports[label], grpc_port=None, ready_file=str(ready), tracing=tracing
            )
            file = directory / f"spec-{i}.json"
            file.write_bytes(msgspec.json.encode(spec))
            command = [sys.executable, "-m", "modelyard.serving", "--log-level", "warning", "--spec", str(file)]
            stack.enter_context(running(command, ports[label]))
            while not ready.exists():
                time.sleep(0.05)
        print(fingerprint())
        print(f"\nthe ring: {ring_ns(1):.0f} ns per request alone, {ring_ns(32):.0f} ns in batches of 32\n")
        for connections in options.connections:
            cells: dict[str, list[float]] = {label: [] for label in RATES}
            for round_ in range(options.rounds):
                for label in RATES if round_ % 2 == 0 else reversed(RATES):
                    cells[label].append(wrk(directory / "bin.lua", ports[label], connections, options.seconds)[0])
            for label, rates in cells.items():
                ratio = statistics.median(a / b for a, b in zip(rates, cells["no exporter"], strict=True))
                median = statistics.median(rates)
                print(f"{connections:>3} connections, {label:12} {median:>10,.0f} req/s, {ratio:.3f} of no exporter")
        written = {label: (directory / f"traces-{i}").exists() for i, label in enumerate(RATES)}
        assert written["100 %"], "the replica that samples everything wrote no trace"


if __name__ == "__main__":
    main()
