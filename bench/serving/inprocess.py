"""The runtime without a server, and the right answers to every request."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import psutil

from bench.serving.clients import ClientFailed
from bench.serving.deployed import Workload
from bench.serving.models import Model
from bench.serving.systems.ports import PEERS
from modelyard.runtimes.onnxruntime import import_onnxruntime


class Alone(msgspec.Struct):
    """Rows per second and run times at one batch size."""

    rate: float
    p50_ms: float
    p99_ms: float
    count: int


class InProcess:
    """The runtime alone, in a process of its own that waits on its stdin between measurements."""

    def __init__(self, workload: Workload, threads: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "requests.npz"
        arrays = {f"{i}.{name}": array for i, t in enumerate(workload.requests) for name, array in t.items()}
        np.savez(file, **arrays)  # type: ignore[arg-type]
        env = {**os.environ, "BENCH_MODEL": str(workload.file), "BENCH_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, str(PEERS / "inprocess.py"), str(file)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    @property
    def process(self) -> psutil.Process:
        """Its process."""
        return psutil.Process(self._process.pid)

    def measure(self, batch: int, seconds: float) -> Alone:
        """Rows per second and run times at one batch size."""
        if self._process.stdin is None:
            raise ClientFailed("the in-process runtime has no stdin")
        self._process.stdin.write(f"{batch} {seconds}\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._line(), type=Alone)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def _line(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise ClientFailed(f"the in-process runtime ended with {self._process.wait()}")
        return line


def workload_of(model: Model, cache: Path) -> Workload:
    """A model with its requests and the right answers to them."""
    file = model.file(cache / "models")
    requests = model.requests()
    session = import_onnxruntime().InferenceSession(str(file), providers=["CPUExecutionProvider"])
    expected = [np.asarray(session.run(None, request)[0], np.float32).ravel() for request in requests]
    return Workload(model, file, requests, expected)
