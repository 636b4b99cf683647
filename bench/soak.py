"""Soak: does a replica's memory stay flat under everything at once? Row T38 of the fault table.

    python bench/soak.py [--minutes 30] [--every 5]

One replica of an onnxruntime MLP out of a model repository. At the same time, each at its own modest rate: JSON and
binary requests with ids and traces of their own, TF Serving's REST, gRPC, requests that are refused (unknown models,
wrong shapes, malformed JSON), clients that crash (cut requests, answers never read), and a reload of the model every
few seconds. Memory is the resident set of the replica's processes every `--every` seconds; the slope is a least-squares
line through what follows the first third, with the interval of its 95 % confidence (samples of neighbours are alike, so
the samples are averaged by minute first). Needs the `onnx` extra.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import psutil
import tritonclient.grpc.aio as triton
from scipy import stats
from serving_overhead import SIGNATURE, fingerprint, write_model

from modelyard.client import AsyncClient
from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.configuration import Batching
from modelyard.domain.errors import InvalidInput, ModelyardError, NotFound
from modelyard.domain.services import ReplicaSpec, ServedModel, Tracing

MIB = 2**20
RATE_HZ = 50.0
"""Requests per second of each kind of client: together a good part of one core."""


class Soak:
    """The clients, and what they saw."""

    def __init__(self, http_port: int, grpc_port: int) -> None:
        self.http_port = http_port
        self.client = AsyncClient(f"http://127.0.0.1:{http_port}")
        self.rpc = triton.InferenceServerClient(f"127.0.0.1:{grpc_port}")
        self.random = random.Random(0)
        self.counts: dict[str, int] = {}
        self.errors: dict[str, int] = {}

    def rows(self) -> np.ndarray:
        """Input of 1 to 16 rows."""
        return np.random.default_rng(self.random.getrandbits(32)).random((self.random.randint(1, 16), 32), np.float32)

    async def binary(self) -> None:
        await self.client.infer("mlp", {"x": self.rows()}, request_id=f"r{self.random.getrandbits(40)}")

    async def json(self) -> None:
        trace = f"00-{self.random.getrandbits(128):032x}-{self.random.getrandbits(64):016x}-01"
        await self.client.infer("mlp", {"x": self.rows()}, binary=False, headers={"traceparent": trace})

    async def refused(self) -> None:
        try:
            if self.random.random() < 0.5:
                await self.client.infer(f"model-{self.random.getrandbits(40)}", {"x": self.rows()})
            else:
                await self.client.infer("mlp", {"x": np.zeros((1, self.random.randint(33, 9999)), np.float32)})
        except (NotFound, InvalidInput):
            return
        raise RuntimeError("a request that must be refused was answered")

    async def grpc(self) -> None:
        given = triton.InferInput("x", [1, 32], "FP32")
        given.set_data_from_numpy(self.rows()[:1])
        await self.rpc.infer("mlp", [given], request_id=str(self.random.getrandbits(40)))

    async def tf_serving(self) -> None:
        status = await self.exchange("/v1/models/mlp:predict", {"instances": self.rows().tolist()})
        if status != 200:
            raise RuntimeError(f"TF Serving's predict answered {status}")

    async def exchange(self, path: str, body: object) -> int:
        """One request on a connection of its own; its status."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.http_port)
        payload = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(payload)}\r\n\r\n"
        writer.write(head.encode() + payload)
        answer = await reader.read()
        writer.close()
        return int(answer.split(b" ", 2)[1])

    async def crash(self) -> None:
        """A client that dies: in the middle of its request, or with the answer unread."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.http_port)
        body = json.dumps(
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 32], "data": [0.5] * 32}]}
        ).encode()
        head = f"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        whole = head + body
        writer.write(whole[: self.random.randint(1, len(whole))])
        await writer.drain()
        reset = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.transport.abort()

    async def reload(self) -> None:
        await self.client.load("mlp")

    async def repeat(self, act: Callable[[], Awaitable[None]], rate_hz: float, until: float) -> None:
        """Do one thing again and again until it is time."""
        name = act.__name__
        while time.monotonic() < until:
            try:
                await act()
                self.counts[name] = self.counts.get(name, 0) + 1
            except (ModelyardError, OSError, RuntimeError) as error:
                text = f"{name}: {type(error).__name__}: {error}"[:160]
                self.errors[text] = self.errors.get(text, 0) + 1
            await asyncio.sleep(self.random.expovariate(rate_hz))

    async def run(self, seconds: float) -> None:
        """All of it at once."""
        until = time.monotonic() + seconds
        acts = (self.binary, self.json, self.refused, self.grpc, self.tf_serving, self.crash)
        tasks = [self.repeat(act, RATE_HZ, until) for act in acts]
        await asyncio.gather(*tasks, self.repeat(self.reload, 0.2, until))
        await self.rpc.close()
        await self.client.close()


def resident_mib(process: psutil.Process) -> float:
    """Resident memory of a process and its children."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += one.memory_info().rss
    return total / MIB


async def watch(process: psutil.Process, every_s: float, samples: list[tuple[float, float]]) -> None:
    """Sample memory until cancelled."""
    started = time.monotonic()
    while True:
        samples.append((time.monotonic() - started, resident_mib(process)))
        if len(samples) % max(int(60 / every_s), 1) == 0:
            at, mib = samples[-1]
            print(f"{at / 60:5.1f} min {mib:8.2f} MiB, {process.num_fds()} descriptors", flush=True)
        await asyncio.sleep(every_s)


def slope(samples: list[tuple[float, float]]) -> tuple[float, float]:
    """MiB per hour after the first third, and half the width of its 95 % interval."""
    rest = [s for s in samples if s[0] >= samples[-1][0] / 3]
    minutes: dict[int, list[float]] = {}
    for at, mib in rest:
        minutes.setdefault(int(at / 60), []).append(mib)
    x = [m / 60 for m in minutes]
    line = stats.linregress(x, [statistics.fmean(v) for v in minutes.values()])
    return line.slope, line.stderr * stats.t.ppf(0.975, max(len(x) - 2, 1))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=5.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_model(directory / "mlp.onnx")
        artifact = LocalArtifact(name, "mlp.onnx", Target("onnx"), Precision.FP32, SIGNATURE)
        served = ServedModel("mlp", 1, artifact, "onnxruntime", batching=Batching(32, 0), cache_bytes=4 * MIB)
        repository = directory / "models"
        (repository / "mlp").mkdir(parents=True)
        file = repository / "mlp" / "1.json"
        file.write_bytes(msgspec.json.encode(served))
        ready = directory / "ready"
        tracing = Tracing(0.01, file=f"{name}/traces")
        spec = ReplicaSpec("soak", (), repository=str(repository), ready_file=str(ready), tracing=tracing)
        (directory / "spec.json").write_bytes(msgspec.json.encode(replace(spec, heartbeat_file=f"{name}/beat")))
        command = [sys.executable, "-m", "modelyard.serving", "--log-level", "error", "--spec", f"{name}/spec.json"]
        process = subprocess.Popen(command)
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise SystemExit("the replica did not start")
                await asyncio.sleep(0.05)
            ports = json.loads(ready.read_bytes())
            print(fingerprint())
            soak = Soak(ports["http_port"], ports["grpc_port"])
            samples: list[tuple[float, float]] = []
            watching = asyncio.create_task(watch(psutil.Process(process.pid), options.every, samples))
            await soak.run(options.minutes * 60)
            watching.cancel()
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGTERM)
            process.wait(60)
    print("\n" + ", ".join(f"{count:,} {what}" for what, count in soak.counts.items()))
    for text, count in soak.errors.items():
        print(f"{count} times {text}")
    if options.minutes >= 3:
        middle, half = slope(samples)
        bounds = f"[{middle - half:+.2f}, {middle + half:+.2f}]"
        print(f"{samples[-1][1]:.1f} MiB at the end; slope {middle:+.2f} {bounds} MiB/h")


if __name__ == "__main__":
    asyncio.run(main())
