"""Process engines over a stand-in replica: specs that misbehave on order, and looking for what is left running."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

from modelyard.dispatch.engines.identity import MARKER
from modelyard.dispatch.engines.process import ProcessEngine
from modelyard.dispatch.engines.state import RestartPolicy
from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.services import Endpoint, ReplicaSpec, ServedModel
from tests.builders import SIGNATURE

STANDIN = Path(__file__).parent / "integration" / "dispatch_standin" / "server.py"
SOON = RestartPolicy(initial_s=0.01, max_s=0.05, stable_s=0.5, give_up_after=3)
PATIENCE_S = 30.0


def engine(state_dir: Path, policy: RestartPolicy = SOON, cgroup: str | None = None) -> ProcessEngine:
    return ProcessEngine(state_dir, command=(sys.executable, str(STANDIN)), policy=policy, cgroup=cgroup)


def spec(version: int = 1, *, drain_s: float = 5.0, threads: int = 1, port: int = 0, **options: str) -> ReplicaSpec:
    artifact = LocalArtifact("/nowhere", "model", Target("onnx"), Precision.FP32, SIGNATURE, options)
    model = ServedModel("digits", version, artifact, "onnxruntime", threads=threads)
    return ReplicaSpec("digits", (model,), http_port=port, drain_timeout_s=drain_s)


def post(endpoint: Endpoint, path: str = "/v2/models/digits/infer") -> dict[str, object]:
    with urllib.request.urlopen(urllib.request.Request(endpoint.url + path, b"{}"), timeout=10) as answer:
        return dict(json.load(answer))


def probe(endpoint: Endpoint) -> None:
    post(endpoint)


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.02)


def processes_of(state_dir: Path) -> list[psutil.Process]:
    """Every live process that belongs to a service of `state_dir`: by marker and working directory or command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE or MARKER not in process.environ():
                continue
            if str(state_dir) in " ".join([*process.cmdline(), process.cwd()]):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
