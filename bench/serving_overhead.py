"""What serving costs: a tiny model (MLP 32-64-10, onnxruntime) over REST and gRPC, against two yardsticks.

    python bench/serving_overhead.py [--seconds 2] [--rounds 3] [--connections 1 8 32]

The floor is nginx answering a constant response (one worker); the naive service is FastAPI + uvicorn + onnxruntime, as
most tutorials write it. Same client for all REST cells (wrk, 1 thread), h2load for gRPC; one service at a time under
load, rounds interleaved, medians. Ratios matter, not absolutes. Last comes where a request's time goes in the busiest
cells, by the replica's own stages (`/stats`) and its CPU clock. Needs nginx, wrk, h2load (Debian packages) and the
`onnx` extra, fastapi and uvicorn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import psutil

from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.configuration import Batching
from modelyard.domain.services import ReplicaSpec, ServedModel
from modelyard.domain.tensors import Datatype, Signature, TensorSpec

sys.path.insert(0, str(Path(__file__).parents[1]))  # where this runs as a script
from bench.serving.models import write_mlp as write_model

PATH = "/v2/models/mlp/infer"
SIGNATURE = Signature(
    (TensorSpec("x", Datatype.FP32, ("batch", 32)),), (TensorSpec("y", Datatype.FP32, ("batch", 10)),)
)
NAIVE = """
import sys
import numpy as np, onnxruntime, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
app = FastAPI()

class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]

class Request(BaseModel):
    inputs: list[Tensor]

@app.post("/v2/models/mlp/infer")
def infer(request: Request):
    given = request.inputs[0]
    y = session.run(None, {"x": np.array(given.data, np.float32).reshape(given.shape)})[0]
    output = {"name": "y", "datatype": "FP32", "shape": list(y.shape), "data": y.ravel().tolist()}
    return {"model_name": "mlp", "model_version": "1", "outputs": [output]}

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
"""
NGINX = """
worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 1000000000;
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
  uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
  server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 '{body}'; }} }} }}
"""
LUA = """
wrk.method = "POST"
local f = io.open("{file}", "rb"); wrk.body = f:read("*a"); f:close()
wrk.headers["Content-Type"] = "application/{kind}"
{more}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def write_payloads(directory: Path) -> None:
    """JSON, binary and gRPC bodies of the same request, and wrk's scripts for the first two."""
    from tritonclient.grpc import service_pb2

    x = np.random.default_rng(1).standard_normal((1, 32)).astype(np.float32)
    plain = {"inputs": [{"name": "x", "shape": [1, 32], "datatype": "FP32", "data": x.ravel().tolist()}]}
    (directory / "body.json").write_text(json.dumps(plain))
    head = {
        "inputs": [{"name": "x", "shape": [1, 32], "datatype": "FP32", "parameters": {"binary_data_size": 128}}],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
    header = json.dumps(head).encode()
    (directory / "body.bin").write_bytes(header + x.tobytes())
    more = f'wrk.headers["Inference-Header-Content-Length"] = "{len(header)}"'
    (directory / "json.lua").write_text(LUA.format(file=directory / "body.json", kind="json", more=""))
    (directory / "bin.lua").write_text(LUA.format(file=directory / "body.bin", kind="octet-stream", more=more))
    message = service_pb2.ModelInferRequest(model_name="mlp", raw_input_contents=[x.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 32])
    encoded = message.SerializeToString()
    (directory / "body.grpc").write_bytes(b"\0" + len(encoded).to_bytes(4, "big") + encoded)


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[int]:
    """Its process id, until it is ended."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} did not start")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def wrk(script: Path, port: int, connections: int, seconds: float) -> tuple[float, float]:
    """Requests/s and p99 in ms."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script)]
    text = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{PATH}"], capture_output=True, text=True, check=True
    ).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(f"the service failed requests:\n{text}")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    number, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
    return rate, float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def h2load(body: Path, port: int, connections: int, seconds: float) -> tuple[float, float]:
    """Requests/s of gRPC calls, one in flight per connection; h2load gives no p99."""
    command = ["h2load", f"-c{connections}", "-m1", f"-D{max(1, round(seconds))}", "-d", str(body)]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    url = f"http://127.0.0.1:{port}/inference.GRPCInferenceService/ModelInfer"
    text = subprocess.run([*command, *headers, url], capture_output=True, text=True, check=True).stdout
    failed = re.search(r"(\d+) failed, (\d+) errored", text)
    if failed and (int(failed[1]) or int(failed[2])):
        raise SystemExit(f"the service failed requests:\n{text}")
    return float(re.search(r"([\d.]+) req/s", text)[1]), float("nan")


SHARES = ("requests", "parse_s", "busy_s", "encode_s", "send_s", "user_s", "kernel_s")


def spent(pid: int, port: int) -> dict[str, float]:
    """What a replica has spent so far, in seconds: stages by its statistics, CPU by the system."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=10) as response:
        (model,) = json.load(response)["models"]
    sums = {key: sum(batch[key] for batch in model["batches"]) for key in SHARES[:5]}
    cpu = psutil.Process(pid).cpu_times()
    return {**sums, "user_s": cpu.user, "kernel_s": cpu.system}


def shares(before: dict[str, float], after: dict[str, float]) -> str:
    """A line of the last table: microseconds per request."""
    more = {key: after[key] - before[key] for key in SHARES}
    each = {key: more[key] / more["requests"] * 1e6 for key in SHARES}
    cpu = each["user_s"] + each["kernel_s"]
    known = each["parse_s"] + each["busy_s"] + each["encode_s"] + each["send_s"]
    columns = (cpu, each["kernel_s"], each["parse_s"], each["busy_s"], each["encode_s"], each["send_s"], cpu - known)
    return "".join(f"| {value:>12.2f} " for value in columns)


def fingerprint() -> str:
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    names = ("modelyard", "numpy", "onnxruntime", "uvloop", "httptools", "msgspec", "grpcio", "fastapi", "uvicorn")
    tools = [f"{name} {version(name)}" for name in names]
    for command in (["nginx", "-v"], ["wrk", "-v"], ["h2load", "--version"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        tools.append((done.stderr + done.stdout).strip().splitlines()[0].removeprefix("nginx version: ")[:40])
    where = f"{cpu[1] if cpu else platform.processor()}, {len(os.sched_getaffinity(0))} cores, {platform.platform()}"
    return f"{where}\nPython {platform.python_version()}, {', '.join(tools)}, load {os.getloadavg()[0]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        write_model(directory / "mlp.onnx")
        write_payloads(directory)
        ours, rpc, floor, naive = (free_port() for _ in range(4))
        artifact = LocalArtifact(name, "mlp.onnx", Target("onnx"), Precision.FP32, SIGNATURE)
        served = ServedModel("mlp", 1, artifact, "onnxruntime", batching=Batching(32, 0))
        ready = directory / "ready"
        spec = ReplicaSpec("bench", (served,), http_port=ours, grpc_port=rpc, ready_file=str(ready))
        (directory / "spec.json").write_bytes(msgspec.json.encode(spec))
        constant = '{"model_name":"mlp","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1,10],'
        constant += '"data":[' + ",".join(["1.1234567165374756"] * 10) + "]}]}"
        (directory / "nginx.conf").write_text(NGINX.format(dir=name, port=floor, body=constant))
        (directory / "naive.py").write_text(NAIVE)
        own = [sys.executable, "-m", "modelyard.serving", "--log-level", "warning", "--spec", f"{name}/spec.json"]
        pid = stack.enter_context(running(own, ours))
        stack.enter_context(running(["nginx", "-e", f"{name}/start.log", "-c", f"{name}/nginx.conf"], floor))
        stack.enter_context(running([sys.executable, f"{name}/naive.py", f"{name}/mlp.onnx", str(naive)], naive))
        while not ready.exists():
            time.sleep(0.05)
        cells = {
            "nginx, constant": lambda c: wrk(directory / "json.lua", floor, c, options.seconds),
            "modelyard REST binary": lambda c: wrk(directory / "bin.lua", ours, c, options.seconds),
            "modelyard REST JSON": lambda c: wrk(directory / "json.lua", ours, c, options.seconds),
            "modelyard gRPC": lambda c: h2load(directory / "body.grpc", rpc, c, options.seconds),
            "FastAPI + onnxruntime JSON": lambda c: wrk(directory / "json.lua", naive, c, options.seconds),
        }
        print(fingerprint())
        print(f"\n{'':28}" + "".join(f"| {c:>3} connections: req/s, p99 ms, of nginx " for c in options.connections))
        results: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for round_ in range(options.rounds):
            for connections in options.connections:
                for label, cell in cells.items() if round_ % 2 == 0 else reversed(cells.items()):
                    results.setdefault((label, connections), []).append(cell(connections))
        for label in cells:
            line = f"{label:28}"
            for connections in options.connections:
                mine, base = results[label, connections], results["nginx, constant", connections]
                rate = statistics.median(r for r, _ in mine)
                ratio = statistics.median(m[0] / b[0] for m, b in zip(mine, base, strict=True))
                p99 = statistics.median(p for _, p in mine)
                line += f"| {rate:>15,.0f} {p99:>11.2f} {ratio:>14.3f} "
            print(line)
        busiest = max(options.connections)
        titles = ("CPU", "of it kernel", "parse", "model", "encode", "send", "the rest")
        print(f"\nus per request at {busiest:>8} " + "".join(f"| {title:>12} " for title in titles))
        for label, cell in cells.items():
            if label.startswith("modelyard"):
                before = spent(pid, ours)
                cell(busiest)
                print(f"{label:28}{shares(before, spent(pid, ours))}")


if __name__ == "__main__":
    main()
