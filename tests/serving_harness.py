"""Start real replica processes and talk to them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.configuration import Batching, QueuePolicy
from modelyard.domain.services import ReplicaSpec, ServedModel
from modelyard.domain.tensors import Datatype, Signature, TensorSpec

ROOT = Path(__file__).parent.parent


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """Poll until the condition holds; its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")


def tensor(name: str, datatype: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, Datatype(datatype), shape)


VECTOR = Signature((tensor("x", "FP32", "batch", 4),), (tensor("y", "FP32", "batch", 4),))


def scripted(
    behaviour: str,
    signature: Signature = VECTOR,
    *,
    name: str = "m",
    version: int = 1,
    batch: int = 8,
    delay_us: int = 0,
    queue: QueuePolicy | None = None,
    **options: object,
) -> ServedModel:
    """A served model of the scripted runtime."""
    artifact = LocalArtifact(
        directory="/nonexistent",
        entry="none",
        target=Target("scripted"),
        precision=Precision.FP32,
        signature=signature,
        options={"behaviour": behaviour, **{k: str(v) for k, v in options.items()}},
    )
    return ServedModel(
        name, version, artifact, "scripted", batching=Batching(batch, delay_us), queue=queue or QueuePolicy()
    )


@dataclass
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class RunningReplica:
    process: subprocess.Popen[bytes]
    log_file: Path
    http_port: int = 0
    grpc_port: int | None = None
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.http_port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.http_port), timeout=15)

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=15)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            return Response(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> Response:
        return self.request("GET", path)

    def infer(self, data: list[Any], shape: list[int] | None = None, *, model: str = "m", **more: Any) -> Response:
        item = {"name": "x", "datatype": "FP32", "shape": shape or [1, len(data)], "data": data}
        return self.request("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": [item], **more}).encode())

    def held(self, model: str = "m") -> int:
        return next(m["held"] for m in self.get("/stats").json["models"] if m["model"] == model)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def replica(directory: Path, *models: ServedModel, wait: bool = True, **spec: Any) -> Iterator[RunningReplica]:
    """A replica process of the scripted runtime, ready; ended on exit."""
    directory.mkdir(parents=True, exist_ok=True)
    ready, beat, log = directory / "ready.json", directory / "beat", directory / "log"
    whole = ReplicaSpec("test", models, ready_file=str(ready), heartbeat_file=str(beat), **spec)
    file = directory / "replica.json"
    file.write_bytes(msgspec.json.encode(whole))
    module = "tests.serving_child" if all(m.runtime == "scripted" for m in models) else "modelyard.serving"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--spec", str(file)], cwd=ROOT, stderr=stderr, env={**os.environ}
        )
    running = RunningReplica(process, log, files={"ready": ready, "beat": beat})
    try:
        if wait:
            until(lambda: ready.exists() or process.poll() is not None, "the replica is ready")
            assert process.poll() is None, log.read_text()
            ports = json.loads(ready.read_bytes())
            running.http_port, running.grpc_port = ports["http_port"], ports["grpc_port"]
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(30)
        finally:  # also where the test itself was interrupted
            process.kill()
            process.wait()
