"""Services, replicas, endpoints: a deployed configuration and what a replica process is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.configuration import Batching, Configuration, QueuePolicy
from modelyard.domain.versions import StepSpec


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model in a replica: a local artifact, how to run it, how to batch it.

    `steps_directory` holds the version's files that pre- and postprocessing steps use (labels, Python modules).
    """

    name: str
    version: int
    artifact: LocalArtifact
    runtime: str
    device: str = "cpu"
    threads: int = 1
    batching: Batching = field(default_factory=Batching)
    queue: QueuePolicy = field(default_factory=QueuePolicy)
    preprocess: tuple[StepSpec, ...] = ()
    postprocess: tuple[StepSpec, ...] = ()
    steps_directory: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """All that `python -m modelyard.serving --spec replica.json` needs; the same in every engine.

    Ports of 0 let the system choose (the replica then writes what it got to `ready_file`). With `reuse_port` several
    replicas share one port. `ready_file` is written (JSON: pid, http_port, grpc_port) once models are loaded and warm.
    `heartbeat_file` is touched (its mtime set) about every second from before `ready_file` appears until the replica
    exits, drain included, but only while the event loop turns and no model execution is stuck: an engine replaces a
    replica whose heartbeat stops.
    """

    service: str
    models: tuple[ServedModel, ...]
    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int | None = 0
    reuse_port: bool = False
    drain_timeout_s: float = 20.0
    memory_limit_bytes: int | None = None
    max_body_bytes: int = 64 * 1024 * 1024
    ready_file: str | None = None
    heartbeat_file: str | None = None


class ReplicaState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing-off"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Replica:
    """One process (container, actor) of a service, as last observed."""

    index: int
    state: ReplicaState
    pid: int | None = None
    restarts: int = 0
    started_at: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where clients call."""

    host: str
    http_port: int
    grpc_port: int | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.http_port}"

    @property
    def grpc_address(self) -> str | None:
        return f"{self.host}:{self.grpc_port}" if self.grpc_port else None


class ServiceState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Service:
    """A deployed configuration. `directory` holds the engine's state and the replicas' logs."""

    name: str
    model: str
    version: int
    configuration: Configuration
    endpoint: Endpoint
    directory: str
    created_at: str
    purpose: str = "service"
