"""The load client beside other programs that load a server: requests per CPU second, against one and the same server.

    python -m bench.load_peers [--seconds 3] [--rounds 3]

The server is a replica whose model answers a constant, pinned to one core; each client has the other. Bytes of the
requests are the same for our client and for wrk and h2load (Debian packages wrk, nghttp2-client). Rounds are
interleaved, medians are printed. "per core" is requests per CPU second of the client, its start not counted. wrk,
h2load and tritonclient have closed loops only: 32 requests in flight, tritonclient's blocking clients one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.configuration import Batching
from modelyard.domain.services import Endpoint, ReplicaSpec, ServedModel
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.domain.workload import Arrival, Protocol, Workload
from modelyard.profile import fingerprint
from modelyard.profile.plan import WarmUpRule
from modelyard.profile.process import ClientProcess, write_plan
from modelyard.profile.requests import GRPC_INFER, encode
from modelyard.profile.samples import Samples
from modelyard.profile.statistics import percentile

IN_FLIGHT = 32
WARM_UP = WarmUpRule(max_blocks=3, max_s=1.0)
X = np.random.default_rng(0).standard_normal((1, 32), np.float32)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one client did in one round; `lag_ms` is the p99 send lag of an open loop at half the closed loop's rate."""

    rate: float
    cpu_s: float
    count: int
    lag_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a round happens: the server, a folder for files, seconds, and the clients' core."""

    endpoint: Endpoint
    folder: Path
    seconds: float
    core: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--as", dest="role", help=argparse.SUPPRESS)
    parser.add_argument("address", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        print(json.dumps(PEERS[options.role](options.address, options.seconds)))
        return
    cores = sorted(os.sched_getaffinity(0))
    node = fingerprint()
    print(f"{node.cpu_model}, {node.cores} cores; node {node.id}; {options.rounds} rounds of {options.seconds:g} s\n")
    found: dict[str, list[Seen]] = {}
    with tempfile.TemporaryDirectory() as name, server(Path(name), cores[-1]) as endpoint:
        place = Place(endpoint, Path(name), options.seconds, cores[0])
        for _ in range(options.rounds):
            for client, run in CLIENTS.items():
                found.setdefault(client, []).append(run(place))
    print("| client | requests/s | client's CPU us per request | per core | p99 send lag at half the rate |")
    print("|---|---|---|---|---|")
    for client, seen in found.items():
        rate = statistics.median(s.rate for s in seen)
        spent = statistics.median(s.cpu_s / s.count for s in seen)
        lags = [s.lag_ms for s in seen if s.lag_ms is not None]
        lag = f"{statistics.median(lags):.3f} ms at {rate / 2:,.0f}/s" if lags else ""
        print(f"| {client} | {rate:,.0f} | {spent * 1e6:.1f} | {1 / spent:,.0f} | {lag} |")


def ours(protocol: Protocol) -> Callable[[Place], Seen]:
    """Our load client: a closed loop, then an open loop at half of its rate."""

    def run(place: Place) -> Seen:
        common = {"protocol": protocol, "blocks": 1, "requests": 10**6, "duration_s": place.seconds}
        samples, cpu_s = block(place, Workload(Arrival.CLOSED, concurrency=IN_FLIGHT, **common))
        rate = len(samples) / float(samples.completed_s.max())
        late, _ = block(place, Workload(Arrival.POISSON, rate_rps=rate / 2, **common))
        lag = percentile(late.dispatched_s - late.scheduled_s, 0.99) * 1e3
        return Seen(rate, cpu_s, len(samples), lag)

    return run


def block(place: Place, workload: Workload) -> tuple[Samples, float]:
    """The samples of one block and the client's CPU seconds. Every request must have succeeded."""
    payload = request(place.endpoint, workload.protocol)
    plan = write_plan(
        place.folder / f"{workload.protocol}-{workload.arrival}",
        place.endpoint,
        workload,
        [payload],
        warm_up=WARM_UP,
        cpus=[place.core],
        connections=IN_FLIGHT,
    )
    with ClientProcess(plan) as client:
        client.warm_up()
        done = client.run_block(0)
    samples = Samples.load(Path(done.samples))
    if not samples.ok.all():
        sys.exit(f"{int((~samples.ok).sum())} of {len(samples)} requests failed: {np.unique(samples.status)}")
    return samples, done.client_cpu_s


def request(endpoint: Endpoint, protocol: Protocol) -> bytes:
    """The request as our client sends it."""
    return encode({"x": X}, protocol, model="constant", version=1, host=f"127.0.0.1:{endpoint.http_port}")


def wrk(place: Place) -> Seen:
    """wrk, one thread, the same bytes."""
    head, _, body = request(place.endpoint, Protocol.HTTP_BINARY).partition(b"\r\n\r\n")
    (place.folder / "body").write_bytes(body)
    fields = [line.decode().split(": ", 1) for line in head.split(b"\r\n")[1:]]
    kept = {name: value for name, value in fields if name.lower() not in ("host", "content-length")}
    script = place.folder / "post.lua"
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in kept.items()]
    script.write_text(
        "\n".join(['wrk.method = "POST"', f'wrk.body = io.open("{place.folder}/body", "rb"):read("*a")', *lines])
    )
    path = head.split(b" ")[1].decode()
    url = f"http://127.0.0.1:{place.endpoint.http_port}{path}"
    command = ["wrk", "-t1", f"-c{IN_FLIGHT}", f"-d{max(1, round(place.seconds))}s", "-s", str(script), url]
    text, cpu_s = spent(command, place.core)
    if "Non-2xx" in text:
        sys.exit(f"wrk was refused:\n{text}")
    count = int(found(r"(\d+) requests in", text))
    return Seen(float(found(r"Requests/sec:\s+([0-9.]+)", text)), cpu_s, count)


def h2load(place: Place) -> Seen:
    """h2load, one thread, the same gRPC message in its frame."""
    message = request(place.endpoint, Protocol.GRPC)
    data = place.folder / "message"
    data.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    command = ["h2load", "-t1", "-c8", f"-m{IN_FLIGHT // 8}", f"-D{max(1, round(place.seconds))}", "-d", str(data)]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    text, cpu_s = spent([*command, f"http://127.0.0.1:{place.endpoint.grpc_port}{GRPC_INFER}"], place.core)
    count = int(found(r"(\d+) succeeded", text))
    return Seen(float(found(r"([0-9.]+) req/s", text)), cpu_s, count)


def spent(command: list[str], core: int) -> tuple[str, float]:
    """What a program printed, and the CPU seconds it used."""
    if shutil.which(command[0]) is None:
        sys.exit(f"no {command[0]} found; install the packages wrk and nghttp2-client")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    pinned = ["taskset", "-c", str(core), *command]
    done = subprocess.run(pinned, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def found(pattern: str, text: str) -> str:
    """The pattern's group. Exits where it is not there."""
    match = re.search(pattern, text)
    if match is None:
        sys.exit(f"this was expected to have {pattern}:\n{text}")
    return match[1]


def triton(role: str) -> Callable[[Place], Seen]:
    """One of tritonclient's clients in a process of its own."""

    def run(place: Place) -> Seen:
        port = place.endpoint.grpc_port if "grpc" in role else place.endpoint.http_port
        command = [sys.executable, "-m", "bench.load_peers", "--as", role, "--seconds", str(place.seconds)]
        done = subprocess.run(
            ["taskset", "-c", str(place.core), *command, f"127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            check=True,
        )
        count, cpu_s, wall_s = json.loads(done.stdout)
        return Seen(count / wall_s, cpu_s, count)

    return run


def blocking(address: str, seconds: float, module: str) -> tuple[int, float, float]:
    """One caller, one request after the other: requests, CPU seconds, wall seconds."""
    import importlib

    client = importlib.import_module(f"tritonclient.{module}")
    with client.InferenceServerClient(address) as connection:
        given = client.InferInput("x", list(X.shape), "FP32")
        given.set_data_from_numpy(X)
        connection.infer("constant", [given])
        count, cpu, began = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() - began < seconds:
            connection.infer("constant", [given])
            count += 1
        return count, time.process_time() - cpu, time.perf_counter() - began


def concurrent(address: str, seconds: float) -> tuple[int, float, float]:
    """tritonclient.grpc.aio with `IN_FLIGHT` callers."""
    from tritonclient.grpc import InferInput, aio

    async def run() -> tuple[int, float, float]:
        async with aio.InferenceServerClient(address) as connection:
            given = InferInput("x", list(X.shape), "FP32")
            given.set_data_from_numpy(X)
            await connection.infer("constant", [given])
            cpu, began = time.process_time(), time.perf_counter()

            async def caller() -> int:
                count = 0
                while time.perf_counter() - began < seconds:
                    await connection.infer("constant", [given])
                    count += 1
                return count

            counts = await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
            return sum(counts), time.process_time() - cpu, time.perf_counter() - began

    return asyncio.run(run())


PEERS: dict[str, Callable[[str, float], tuple[int, float, float]]] = {
    "http": lambda address, seconds: blocking(address, seconds, "http"),
    "grpc": lambda address, seconds: blocking(address, seconds, "grpc"),
    "grpc.aio": concurrent,
}
CLIENTS: dict[str, Callable[[Place], Seen]] = {
    "load client, HTTP binary": ours(Protocol.HTTP_BINARY),
    "wrk, HTTP binary": wrk,
    "tritonclient.http, 1 caller": triton("http"),
    "load client, gRPC": ours(Protocol.GRPC),
    "h2load, gRPC": h2load,
    "tritonclient.grpc, 1 caller": triton("grpc"),
    "tritonclient.grpc.aio, 32 callers": triton("grpc.aio"),
}


@contextmanager
def server(folder: Path, core: int) -> Iterator[Endpoint]:
    """A replica whose model answers a constant."""
    ready, file = folder / "ready.json", folder / "replica.json"
    signature = Signature(
        (TensorSpec("x", Datatype.FP32, ("batch", 32)),), (TensorSpec("y", Datatype.FP32, ("batch", 10)),)
    )
    artifact = LocalArtifact("/", "none", Target("constant"), Precision.FP32, signature, {"seconds": "0"})
    model = ServedModel("constant", 1, artifact, "constant", batching=Batching(IN_FLIGHT))
    file.write_bytes(msgspec.json.encode(ReplicaSpec("constant", (model,), ready_file=str(ready))))
    command = ["taskset", "-c", str(core), sys.executable, "-m", "modelyard.serving.constant"]
    process = subprocess.Popen([*command, "--log-level", "error", "--spec", str(file)])
    try:
        ends = time.monotonic() + 30
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > ends:
                sys.exit("the server did not start")
            time.sleep(0.02)  # until another process has written its file
        ports = msgspec.json.decode(ready.read_bytes(), type=dict[str, int])
        yield Endpoint("127.0.0.1", ports["http_port"], ports["grpc_port"])
    finally:
        process.terminate()
        process.wait(timeout=30)


if __name__ == "__main__":
    main()
