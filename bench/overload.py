"""Overload: what is left of a service's goodput at 1, 2, 5 and 10 times its capacity, and how soon it recovers.

    python bench/overload.py [--seconds 10] [--times 1 2 5 10] [--slo-ms 500] [--no-slo]

The model sleeps 20 ms per batch of up to 8, so that capacity is 400 requests/s whatever the machine. Load is an open
loop (Poisson) from a process of its own; latency counts from the scheduled time. Each row: 1 s at half of capacity,
then the overload, then 3 s at half of capacity again. Goodput: answers within the SLO that arrive during the overload,
per second, as a share of the peak (closed loop, 64 in flight, best of three). Recovery: from the overload's end until
the last request that was refused, or took longer than 0.1 s, had been due. The last row is a flood of low priority, ten
times as much as the high-priority requests in it, at five times the capacity.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import uvloop

from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.configuration import Batching, QueuePolicy
from modelyard.domain.services import ReplicaSpec, ServedModel
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.domain.workload import Arrival, Protocol, Workload
from modelyard.profile.client.__main__ import make_transport
from modelyard.profile.client.load import run_block
from modelyard.profile.plan import LoadPlan
from modelyard.profile.samples import Samples
from modelyard.profile.schedule import BlockSchedule, draw

ROOT = Path(__file__).parent.parent
SIGNATURE = Signature((TensorSpec("x", Datatype.FP32, ("batch", 4)),), (TensorSpec("y", Datatype.FP32, ("batch", 4)),))
BATCH, SLEEP_S = 8, 0.02
CAPACITY = BATCH / SLEEP_S
BEFORE_S, AFTER_S = 1.0, 3.0
NORMAL_S = 0.1
"""What an answer takes at most at half of capacity: a running batch and its own, twice."""
CONNECTIONS = 256
HIGH, LOW = 0, 1
MOST_LAG_MS = 25.0
"""5 % of the SLO."""


def main() -> None:
    """Print the table; with `client`, be the load client of one row."""
    if sys.argv[1:2] == ["client"]:
        client(Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--times", type=float, nargs="+", default=[1, 2, 5, 10])
    parser.add_argument("--slo-ms", type=float, default=500.0)
    parser.add_argument("--no-slo", action="store_true", help="serve without slo_ms, with max_wait_s as the only bound")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, replica(Path(name), options) as port:
        load = Load(Path(name), port, options)
        peak = load.peak()
        print(f"peak {peak:.0f} requests/s (closed loop, 64 in flight); load average {os.getloadavg()[0]:.1f}\n")
        print(
            f"{'offered':>8} {'req/s':>7} {'goodput %':>10} {'ok p50 ms':>10} {'ok p99 ms':>10} {'refused %':>10}"
            f" {'refusal p50 ms':>15} {'refusal p99 ms':>15} {'failed':>7} {'recovery s':>11} {'p99 lag ms':>11}"
        )
        for times in options.times:
            load.row(times, peak)
        load.flood()


class Load:
    """Rows of the table."""

    def __init__(self, directory: Path, port: int, options: argparse.Namespace) -> None:
        self._directory = directory
        self._port = port
        self._slo_s = options.slo_ms * 1e-3
        self._seconds = options.seconds
        self._number = 0

    def peak(self) -> float:
        """Requests/s of a closed loop, the best of three: a stalled machine must not make the rows look good."""
        seconds = min(2.0, self._seconds)
        workload = Workload(Arrival.CLOSED, concurrency=64, requests=10**6, duration_s=seconds)
        runs = [self._run(workload, draw(workload, number, 1)) for number in range(3)]
        return max(float(np.sum(run.ok)) / float(run.completed_s.max()) for run in runs)

    def row(self, times: float, peak: float) -> None:
        """Measure and print one multiple of the capacity."""
        schedule = self._schedule(times, share_low=1.0)
        samples = self._run(open_loop(), schedule)
        due, took = samples.scheduled_s, samples.completed_s - samples.scheduled_s
        during = (due >= BEFORE_S) & (due < BEFORE_S + self._seconds)
        ok, refused = samples.ok & during, (samples.status == 429) & during
        failed = int(np.sum(during & ~ok & ~refused))
        ended = (samples.completed_s >= BEFORE_S) & (samples.completed_s < BEFORE_S + self._seconds)
        good = float(np.sum(samples.ok & ended & (took <= self._slo_s))) / self._seconds
        lag = np.percentile(samples.dispatched_s - due, 99) * 1e3
        after = due >= BEFORE_S + self._seconds
        bad = due[after & (~samples.ok | (took > NORMAL_S))]
        recovery = float(bad.max() - BEFORE_S - self._seconds) if len(bad) else 0.0
        print(
            f"{times:>7g}x {np.sum(during) / self._seconds:>7.0f} {100 * good / peak:>10.1f}"
            f" {ms(took[ok], 50):>10} {ms(took[ok], 99):>10} {100 * np.sum(refused) / np.sum(during):>10.1f}"
            f" {ms(took[refused], 50):>15} {ms(took[refused], 99):>15} {failed:>7} {recovery:>11.2f}"
            f" {lag:>11.2f}{late(lag)}",
            flush=True,
        )

    def flood(self) -> None:
        """Ten times as many low-priority as high-priority requests, together five times the capacity."""
        schedule = self._schedule(5.0, share_low=10 / 11)
        samples = self._run(open_loop(), schedule)
        took = samples.completed_s - samples.scheduled_s
        lag = np.percentile(samples.dispatched_s - samples.scheduled_s, 99) * 1e3
        during = (samples.scheduled_s >= BEFORE_S) & (samples.scheduled_s < BEFORE_S + self._seconds)
        print()
        for name, kind in (("high", HIGH), ("low", LOW)):
            mine = during & (schedule.payloads == kind)
            good = mine & samples.ok & (took <= self._slo_s)
            print(
                f"{name} priority: {np.sum(mine) / self._seconds:.0f} requests/s, "
                f"{100 * np.sum(good) / np.sum(mine):.2f} % answered within the SLO, "
                f"p99 {ms(took[good], 99)} ms{late(lag)}"
            )

    def _schedule(self, times: float, share_low: float) -> BlockSchedule:
        source = np.random.default_rng(int(times * 10))
        half = CAPACITY / 2
        phases = [(0.0, BEFORE_S, half), (BEFORE_S, self._seconds, CAPACITY * times)]
        phases.append((BEFORE_S + self._seconds, AFTER_S, half))
        due = np.concatenate([start + poisson(source, rate, seconds) for start, seconds, rate in phases])
        return BlockSchedule(due, (source.random(len(due)) < share_low).astype(np.int64))

    def _run(self, workload: Workload, schedule: BlockSchedule) -> Samples:
        """The samples of a schedule, driven by a process of its own."""
        place = self._directory / f"run-{self._number}"
        self._number += 1
        place.mkdir()
        payloads = [payload(self._port, priority) for priority in (1, 2)]
        (place / "payloads").write_bytes(b"".join(payloads))
        plan = LoadPlan(
            host="127.0.0.1",
            port=self._port,
            workload=workload,
            payload_file=str(place / "payloads"),
            payload_lengths=tuple(map(len, payloads)),
            samples_dir=str(place),
            connections=CONNECTIONS,
            max_connections=2 * CONNECTIONS,
        )
        (place / "plan.json").write_bytes(msgspec.json.encode(plan))
        times = np.zeros(0) if schedule.times_s is None else schedule.times_s
        np.savez(place / "schedule.npz", times=times, payloads=schedule.payloads)
        subprocess.run([sys.executable, __file__, "client", str(place)], check=True, timeout=600)
        return Samples.load(place / "samples.npz")


def client(place: Path) -> None:
    """Drive one schedule."""
    plan = msgspec.json.decode((place / "plan.json").read_bytes(), type=LoadPlan)
    raw = Path(plan.payload_file).read_bytes()
    first = plan.payload_lengths[0]
    with np.load(place / "schedule.npz") as saved:
        schedule = BlockSchedule(saved["times"] if len(saved["times"]) else None, saved["payloads"])

    with contextlib.suppress(PermissionError):  # as the profiler's client does: a late client measures itself
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))

    async def drive() -> None:
        transport = make_transport(plan, [raw[:first], raw[first:]])
        run = await run_block(transport, plan.workload, schedule, 0)
        run.samples.save(place / "samples.npz")
        await transport.close()

    uvloop.run(drive())


def open_loop() -> Workload:
    """The workload of an open loop; its schedule is given."""
    return Workload(Arrival.POISSON, rate_rps=CAPACITY, protocol=Protocol.HTTP_BINARY, timeout_s=5.0)


def poisson(source: np.random.Generator, rate: float, seconds: float) -> np.ndarray:
    """Arrival times of a Poisson process."""
    return np.sort(source.random(source.poisson(rate * seconds))) * seconds


def payload(port: int, priority: int) -> bytes:
    """A whole HTTP request."""
    tensor = np.ones((1, 4), np.float32).tobytes()
    head = {
        "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": len(tensor)}}],
        "parameters": {"binary_data_output": True, "priority": priority},
    }
    header = json.dumps(head).encode()
    lines = (
        "POST /v2/models/sleeper/infer HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"Inference-Header-Content-Length: {len(header)}",
        f"Content-Length: {len(header) + len(tensor)}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + header + tensor


def late(lag_ms: float) -> str:
    """A mark for rows whose client was kept from sending in time, so that they measure the machine."""
    return "  invalid: client late" if lag_ms > MOST_LAG_MS else ""


def ms(seconds: np.ndarray, percent: float) -> str:
    """A percentile in ms."""
    return f"{np.percentile(seconds, percent) * 1e3:.1f}" if len(seconds) else "-"


@contextlib.contextmanager
def replica(directory: Path, options: argparse.Namespace) -> Iterator[int]:
    """The service: a model that sleeps, and does nothing else."""
    artifact = LocalArtifact(
        "/nonexistent", "none", Target("scripted"), Precision.FP32, SIGNATURE,
        options={"behaviour": "sleep", "seconds": str(SLEEP_S)},
    )  # fmt: skip
    slo_ms = None if options.no_slo else options.slo_ms
    queue = QueuePolicy(max_wait_s=options.slo_ms * 1e-3, slo_ms=slo_ms)
    served = ServedModel("sleeper", 1, artifact, "scripted", batching=Batching(BATCH), queue=queue)
    ready = directory / "ready.json"
    spec = ReplicaSpec("overload", (served,), ready_file=str(ready), grpc_port=None)
    (directory / "spec.json").write_bytes(msgspec.json.encode(spec))
    command = [sys.executable, "-m", "tests.serving_child", "--log-level", "warning"]
    process = subprocess.Popen([*command, "--spec", str(directory / "spec.json")], cwd=ROOT)
    try:
        deadline = time.monotonic() + 30
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("the replica did not start")
            time.sleep(0.05)  # polls the file that the replica writes when it is ready
        yield json.loads(ready.read_bytes())["http_port"]
    finally:
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    main()
