"""What a call costs in the client: modelyard.client beside tritonclient and httpx, numpy in and numpy out.

    python bench/client.py [--seconds 1] [--rounds 5] [--callers 8]

Binary tensors over HTTP on kept connections, but for the row of plain JSON, which is what one writes by hand. The
service is a uvloop responder on another core that reads the request and answers a constant (FP32[1,10]), so that what
differs is the client. "CPU us" is processor time of the client's process per call, which a busy machine disturbs less
than calls/s. The ratio is of CPU time, to tritonclient with as many callers, paired by round; medians of rounds that
are interleaved. Every client's answer is checked once. tritonclient[http] and httpx are development dependencies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import httpx
import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
import uvloop

from modelyard.client import AsyncClient, Client, TransportOptions
from modelyard.profile import fingerprint

Y = np.linspace(0, 1, 10, dtype=np.float32).reshape(1, 10)
HEAD = json.dumps(
    {
        "model_name": "m",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 10], "parameters": {"binary_data_size": 40}}],
    },
    separators=(",", ":"),
).encode()
BINARY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(HEAD), len(HEAD) + 40, HEAD + Y.tobytes())
)
PLAIN = json.dumps(
    {"model_name": "m", "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 10], "data": Y.ravel().tolist()}]}
).encode()
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(PLAIN), PLAIN)


class Responder(asyncio.Protocol):
    """Reads a request by its Content-Length and answers a constant."""

    def connection_made(self, transport: Any) -> None:
        self.transport, self.head, self.left, self.answer = transport, b"", 0, b""

    def data_received(self, data: bytes) -> None:
        if self.left <= 0:
            self.head += data
            end = self.head.find(b"\r\n\r\n") + 4
            if end == 3:
                return
            head = self.head[:end].lower()
            at = head.index(b"content-length:") + 15
            self.answer = BINARY if b"inference-header-content-length" in head else JSON
            self.left = int(head[at : head.index(b"\r", at)]) - (len(self.head) - end)
            self.head = b""
        else:
            self.left -= len(data)
        if self.left <= 0:
            self.transport.write(self.answer)


async def respond() -> None:
    """Serve until killed; the port goes to stdout."""
    server = await asyncio.get_running_loop().create_server(Responder, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def responder(core: int) -> Iterator[int]:
    """The port of a responder on a core of its own."""
    with subprocess.Popen([sys.executable, __file__, "--respond"], stdout=subprocess.PIPE) as process:
        os.sched_setaffinity(process.pid, [core])
        try:
            yield int(process.stdout.readline())  # type: ignore[union-attr]
        finally:
            process.terminate()


# --- the clients: each gives a function that calls once and returns y


def modelyard_blocking(port: int, x: np.ndarray) -> Callable[[], np.ndarray]:
    """modelyard.client.Client."""
    client = Client(f"http://127.0.0.1:{port}")
    return lambda: client.infer("m", {"x": x})["y"]


def triton_blocking(port: int, x: np.ndarray) -> Callable[[], np.ndarray]:
    """tritonclient.http, as its examples use it."""
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")

    def call() -> np.ndarray:
        tensor = triton.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        return client.infer("m", [tensor]).as_numpy("y")

    return call


def _binary_request(x: np.ndarray) -> tuple[bytes, dict[str, str]]:
    size = {"binary_data_size": x.nbytes}
    inputs = [{"name": "x", "datatype": "FP32", "shape": x.shape, "parameters": size}]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return head + x.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def _binary_answer(response: httpx.Response) -> np.ndarray:
    at = int(response.headers["Inference-Header-Content-Length"])
    output = json.loads(response.content[:at])["outputs"][0]
    return np.frombuffer(response.content, np.float32, offset=at).reshape(output["shape"])


def httpx_binary(port: int, x: np.ndarray) -> Callable[[], np.ndarray]:
    """httpx with the binary form by hand."""
    client, url = httpx.Client(), f"http://127.0.0.1:{port}/v2/models/m/infer"

    def call() -> np.ndarray:
        content, headers = _binary_request(x)
        return _binary_answer(client.post(url, content=content, headers=headers))

    return call


def httpx_json(port: int, x: np.ndarray) -> Callable[[], np.ndarray]:
    """httpx with JSON, as most would write it."""
    client, url = httpx.Client(), f"http://127.0.0.1:{port}/v2/models/m/infer"

    def call() -> np.ndarray:
        inputs = [{"name": "x", "datatype": "FP32", "shape": x.shape, "data": x.ravel().tolist()}]
        output = client.post(url, json={"inputs": inputs}).json()["outputs"][0]
        return np.array(output["data"], np.float32).reshape(output["shape"])

    return call


AsyncCall = Callable[[], Awaitable[np.ndarray]]


async def modelyard_async(port: int, x: np.ndarray, stack: AsyncExitStack, callers: int) -> AsyncCall:
    """modelyard.client.AsyncClient."""
    options = TransportOptions(max_connections=callers)
    client = await stack.enter_async_context(AsyncClient(f"http://127.0.0.1:{port}", transport=options))

    async def call() -> np.ndarray:
        return (await client.infer("m", {"x": x}))["y"]

    return call


async def triton_async(port: int, x: np.ndarray, stack: AsyncExitStack, callers: int) -> AsyncCall:
    """tritonclient.http.aio."""
    client = await stack.enter_async_context(triton_aio.InferenceServerClient(f"127.0.0.1:{port}", conn_limit=callers))

    async def call() -> np.ndarray:
        tensor = triton_aio.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        return (await client.infer("m", [tensor])).as_numpy("y")

    return call


async def httpx_async(port: int, x: np.ndarray, stack: AsyncExitStack, callers: int) -> AsyncCall:
    """httpx.AsyncClient with the binary form by hand."""
    limits = httpx.Limits(max_connections=callers, max_keepalive_connections=callers)
    client = await stack.enter_async_context(httpx.AsyncClient(limits=limits))
    url = f"http://127.0.0.1:{port}/v2/models/m/infer"

    async def call() -> np.ndarray:
        content, headers = _binary_request(x)
        return _binary_answer(await client.post(url, content=content, headers=headers))

    return call


# --- measuring


@dataclass(frozen=True)
class Cost:
    """Calls per second, and processor seconds of this process per call."""

    rate: float
    cpu_s: float


def checked(y: np.ndarray) -> None:
    """Stop where a client did not understand the answer."""
    if not np.array_equal(y, Y):
        sys.exit(f"a wrong answer: {y}")


def measure(
    make: Callable[[int, np.ndarray], Callable[[], np.ndarray]], port: int, x: np.ndarray, seconds: float
) -> Cost:
    """One blocking caller."""
    call = make(port, x)
    for _ in range(20):
        checked(call())
    done, started, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        call()
        done += 1
    return Cost(done / (time.perf_counter() - started), (time.process_time() - cpu) / done)


def measure_async(make: Any, port: int, x: np.ndarray, seconds: float, callers: int) -> Cost:
    """`callers` tasks that share one client, on uvloop."""

    async def main() -> Cost:
        async with AsyncExitStack() as stack:
            call = await make(port, x, stack, callers)
            for _ in range(20):
                checked(await call())
            started, cpu = time.perf_counter(), time.process_time()

            async def caller() -> int:
                done = 0
                while time.perf_counter() - started < seconds:
                    await call()
                    done += 1
                return done

            done = sum(await asyncio.gather(*[caller() for _ in range(callers)]))
            return Cost(done / (time.perf_counter() - started), (time.process_time() - cpu) / done)

    return uvloop.run(main())


BLOCKING = {
    "modelyard Client": modelyard_blocking,
    "tritonclient.http": triton_blocking,
    "httpx, binary by hand": httpx_binary,
    "httpx, JSON": httpx_json,
}
ASYNC = {
    "modelyard AsyncClient": modelyard_async,
    "tritonclient.http.aio": triton_async,
    "httpx.AsyncClient, binary by hand": httpx_async,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--respond", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.respond:
        uvloop.run(respond())
        return
    cores = sorted(os.sched_getaffinity(0))
    node = fingerprint()
    os.sched_setaffinity(0, cores[:1])
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("modelyard", "tritonclient", "httpx", "uvloop", "numpy")
    )
    print(f"{node.cpu_model}, {node.cores} cores; {node.python}; {libraries}; node {node.id}")
    print(f"{options.rounds} rounds of {options.seconds:g} s, client and service on a core each\n")
    print(
        f"| {'client':<36} | {'callers':>7} | {'input':<17} | {'calls/s':>9} | {'CPU us':>9} | CPU, of tritonclient's |"
    )
    print("|---|---|---|---|---|---|")
    for shape in ((1, 32), (1, 3, 224, 224)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        with responder(cores[-1]) as port:
            compare(port, x, options)


def compare(port: int, x: np.ndarray, options: argparse.Namespace) -> None:
    """Rows of one input."""
    found: dict[str, list[Cost]] = {name: [] for name in (*BLOCKING, *ASYNC)}
    for _ in range(options.rounds):
        for name, make in BLOCKING.items():
            found[name].append(measure(make, port, x, options.seconds))
        for name, make_async in ASYNC.items():
            found[name].append(measure_async(make_async, port, x, options.seconds, options.callers))
    for group, base, callers in ((BLOCKING, "tritonclient.http", 1), (ASYNC, "tritonclient.http.aio", options.callers)):
        for name in group:
            rate = statistics.median(c.rate for c in found[name])
            cpu = statistics.median(c.cpu_s for c in found[name]) * 1e6
            ratio = statistics.median(a.cpu_s / b.cpu_s for a, b in zip(found[name], found[base], strict=True))
            shape = f"FP32{list(x.shape)}".replace(" ", "")
            print(f"| {name:<36} | {callers:>7} | {shape:<17} | {rate:>9,.0f} | {cpu:>9,.0f} | {ratio:>8.2f} |")


if __name__ == "__main__":
    main()
