"""Requests per second of the load client on one core, against services that answer a constant.

    python bench/load_client.py [--seconds 3] [--rounds 3]

The client is pinned to one core, nginx (Debian package nginx-light) or a uvloop responder to another. The request is
a small tensor (FP32[1, 32], Open Inference Protocol). Closed loop: the most the client can do. Open loop: how late
requests go out (p99 send lag) at half of that. "per core" is requests per CPU second of the client: on a machine that
others use too it says what the client could do with a whole core. Rounds of the services are interleaved; medians are
printed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from modelyard.domain.services import Endpoint
from modelyard.domain.workload import Arrival, Protocol, Workload
from modelyard.profile import fingerprint
from modelyard.profile.plan import WarmUpRule
from modelyard.profile.process import ClientProcess, write_plan
from modelyard.profile.requests import encode
from modelyard.profile.samples import Samples
from modelyard.profile.statistics import percentile

RESPONDER = Path(__file__).parent.parent / "tests" / "integration" / "profile_responder.py"
BODY = '{"model_name":"mlp","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1,10],"data":[%s]}]}'
WARM_UP = WarmUpRule(max_blocks=3, max_s=1.0)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=32)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    node = fingerprint()
    print(f"{node.cpu_model}, {node.cores} cores; {node.python}; uvloop {node.libraries.get('uvloop')}; node {node.id}")
    print(f"client on core {cores[0]}, service on core {cores[-1]}, {options.rounds} rounds of {options.seconds:g} s\n")
    print(
        f"{'service':<20}{'payload':<13}{'closed req/s':>13}{'client cores':>14}"
        f"{'per core':>10}{'open req/s':>12}{'p99 lag ms':>12}"
    )
    found: dict[tuple[str, str], list[tuple[float, float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, nginx(Path(folder), cores[-1]) as a, responder(cores[-1]) as b:
        for round_number in range(options.rounds):
            for name, port in (("nginx constant", a), ("uvloop constant", b)):
                for protocol in (Protocol.HTTP_BINARY, Protocol.HTTP_JSON):
                    place = Path(folder) / f"{name}-{protocol}-{round_number}".replace(" ", "-")
                    result = one(place, port, protocol, options, cores[0])
                    found.setdefault((name, protocol), []).append(result)
    for (name, protocol), results in found.items():
        rate, used, opened, lag = (statistics.median(column) for column in zip(*results, strict=True))
        print(f"{name:<20}{protocol:<13}{rate:>13,.0f}{used:>14.2f}{rate / used:>10,.0f}{opened:>12,.0f}{lag:>12.3f}")


def one(
    place: Path, port: int, protocol: Protocol, options: argparse.Namespace, core: int
) -> tuple[float, float, float, float]:
    """Closed-loop requests/s, client cores meanwhile, open-loop rate, p99 send lag in ms."""
    common = {"duration_s": options.seconds, "protocol": protocol, "blocks": 1}
    closed = Workload(Arrival.CLOSED, concurrency=options.concurrency, requests=1_000_000, **common)
    samples, used = run(place / "closed", port, closed, core)
    rate = len(samples) / float(samples.completed_s.max())
    half = Workload(Arrival.POISSON, rate_rps=rate / 2, requests=1_000_000, **common)
    samples, _ = run(place / "open", port, half, core)
    lag = percentile(samples.dispatched_s - samples.scheduled_s, 0.99) * 1e3
    return rate, used, len(samples) / float(samples.completed_s.max()), lag


def run(place: Path, port: int, workload: Workload, core: int) -> tuple[Samples, float]:
    """One block of `workload`; its samples and the client's CPU cores. Every request must have succeeded."""
    tensor = np.random.default_rng(0).standard_normal((1, 32)).astype(np.float32)
    payload = encode({"x": tensor}, workload.protocol, model="mlp", version=1, host=f"127.0.0.1:{port}")
    plan = write_plan(
        place, Endpoint("127.0.0.1", port), workload, [payload], warm_up=WARM_UP, cpus=[core], connections=32
    )
    with ClientProcess(plan) as client:
        client.warm_up()
        done = client.run_block(0)
    samples = Samples.load(Path(done.samples))
    if not samples.ok.all():
        sys.exit(f"{int((~samples.ok).sum())} of {len(samples)} requests failed: {np.unique(samples.status)}")
    return samples, done.client_cpu_s / done.wall_s


@contextmanager
def nginx(folder: Path, core: int) -> Iterator[int]:
    """A one-worker nginx that answers every request with a constant."""
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(binary).exists():
        sys.exit("no nginx found; install the package nginx-light")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    body = BODY % ",".join(["0.123456"] * 10)
    config = folder / "nginx.conf"
    config.write_text(
        f"worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log stderr;\n"
        "events { worker_connections 1024; }\n"
        "http { access_log off; keepalive_requests 100000000; default_type application/json;\n"
        f"  client_body_temp_path {folder}/body; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;\n"
        f"  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f"  server {{ listen 127.0.0.1:{port}; location / {{ return 200 '{body}'; }} }} }}\n"
    )
    with serving([binary, "-c", str(config), "-p", str(folder)], core):
        wait_for(port)
        yield port


@contextmanager
def responder(core: int) -> Iterator[int]:
    """The uvloop responder of the tests."""
    with serving([sys.executable, str(RESPONDER)], core, stdout=subprocess.PIPE) as process:
        yield int(process.stdout.readline())  # type: ignore[union-attr]


@contextmanager
def serving(command: list[str], core: int, stdout: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A pinned child process, ended at exit."""
    process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL)
    os.sched_setaffinity(process.pid, [core])
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=10)


def wait_for(port: int) -> None:
    """Until something listens there; at most 10 s."""
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"nothing listens on port {port}")
            time.sleep(0.02)  # polls the port of another process


if __name__ == "__main__":
    main()
