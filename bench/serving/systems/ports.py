"""What a system under test is: how it is installed, how it is started for one model, in which form it is asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from bench.serving.models import Model
from modelyard.domain.workload import Protocol

PEERS = Path(__file__).parents[1] / "peers"
JSON, BINARY, GRPC = Protocol.HTTP_JSON, Protocol.HTTP_BINARY, Protocol.GRPC


class JsonForm(StrEnum):
    """How a JSON request is written: by the Open Inference Protocol, or as an object of nested lists by input name."""

    OIP = "oip"
    FIELDS = "fields"


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model to be served by one system: what its launch may use. `max_batch` 1: dynamic batching is off.

    `scratch` is the server's TMPDIR, with a short path: sockets lie in it, and their paths are limited.
    """

    model: Model
    file: Path
    max_batch: int
    threads: int
    folder: Path
    scratch: Path
    python: str
    http_port: int
    grpc_port: int
    spare_ports: tuple[int, ...]

    def env(self) -> dict[str, str]:
        """What the scripts in peers/ read. No peer reports anything to anyone."""
        return {
            "BENCH_MODEL": str(self.file),
            "BENCH_NAME": self.model.name,
            "BENCH_MAX_BATCH": str(self.max_batch),
            "BENCH_THREADS": str(self.threads),
            "BENCH_HTTP_PORT": str(self.http_port),
            "BENCH_GRPC_PORT": str(self.grpc_port),
            "BENCH_PEERS": str(PEERS),
            "PYTHONPATH": str(PEERS),
            "TMPDIR": str(self.scratch),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": str(self.threads),
            "DO_NOT_TRACK": "1",
            "BENTOML_DO_NOT_TRACK": "True",
            "RAY_USAGE_STATS_ENABLED": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


def first_on_path(folder: Path) -> str:
    """This process's PATH with `folder` before all others."""
    return f"{folder}:{os.environ.get('PATH', '/usr/bin:/bin')}"


@dataclass(frozen=True, slots=True)
class Launch:
    """Processes to start, and where requests go.

    `ready` files must exist before the server counts as up. `shared_memory`: how the names of its shared memory begin;
    what is left of it when the server has ended is removed.
    """

    commands: Sequence[Sequence[str]]
    env: Mapping[str, str]
    path: str
    ready: tuple[Path, ...] = ()
    shared_memory: str = ""


@dataclass(frozen=True, slots=True)
class System:
    """A row of the table.

    `launch` may write files into the deployment's folder. `batches`: has dynamic batching, which is then measured on
    and off; `batches_ragged`: also for requests of different shapes, without code of the user's. `limit`: not a server
    of models; measured for comparison only, its answers are constants. `models`: measured on these only; empty: on all.
    """

    name: str
    title: str
    launch: Callable[[Deployment], Launch]
    requirements: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    protocols: tuple[Protocol, ...] = (JSON,)
    form: JsonForm = JsonForm.OIP
    batches: bool = True
    batches_ragged: bool = False
    replicas: int = 1
    limit: bool = False
    shared_libpython: bool = False
    start_timeout_s: float = 60.0
    models: frozenset[str] = field(default_factory=frozenset)
