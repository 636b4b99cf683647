"""Services, replicas, endpoints: a deployed configuration and what a replica process is told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.configuration import MOST_THREADS, Batching, Configuration, QueuePolicy, check_cpu_limit
from modelyard.domain.errors import InvalidInput
from modelyard.domain.sizes import MOST_BYTES
from modelyard.domain.versions import StepSpec

MOST_INSTANCES: Final = 1024
LEAST_WEIGHT: Final = 1e-6
MOST_WEIGHT: Final = 1e6
MOST_BODY_BYTES: Final = 64 * 1024**3
MOST_DRAIN_S: Final = 3600.0
_HTTP_URL: Final = re.compile(r"https?://[^/\s]+(/\S*)?")


class Isolation(StrEnum):
    """Where a model executes: in the replica's own process, or each instance in a child process of its own.

    `auto` chooses by runtime: what can be interrupted stays inside.
    """

    AUTO = "auto"
    THREAD = "thread"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model in a replica: a local artifact, how to run it, how to batch it.

    `steps_directory` holds the version's files that pre- and postprocessing steps use (labels, Python modules).
    `instances` copies of the model run at the same time, with `threads` each. `weight` is the model's share where
    models of one replica compete. `cache_bytes` bounds a cache of responses (0: none); `coalesce` lets identical
    requests that are in flight at the same time share one execution: both only for models that are pure functions.
    `classes` are the labels of a classifier's output columns. `memory_limit_bytes` bounds the process of each instance
    (isolation `process`, which `auto` then means).
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
    instances: int = 1
    isolation: Isolation = Isolation.AUTO
    weight: float = 1.0
    cache_bytes: int = 0
    coalesce: bool = False
    classes: tuple[str, ...] = ()
    memory_limit_bytes: int | None = None

    def __post_init__(self) -> None:
        counted = 1 <= self.instances <= MOST_INSTANCES and 1 <= self.threads <= MOST_THREADS
        bounded = 0 <= self.cache_bytes <= MOST_BYTES and _fits_memory(self.memory_limit_bytes)
        if not (counted and bounded and LEAST_WEIGHT <= self.weight <= MOST_WEIGHT):
            raise InvalidInput(
                f"model '{self.name}' version {self.version} cannot be served so",
                why=f"it needs instances from 1 to {MOST_INSTANCES}, threads from 1 to {MOST_THREADS}, weight from "
                f"{LEAST_WEIGHT:g} to {MOST_WEIGHT:g}, cache_bytes from 0 to {MOST_BYTES} and memory_limit_bytes from "
                f"1 to {MOST_BYTES}",
                hint="correct its settings",
            )


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions of a model are served and who gets how much.

    `latest` n newest versions, or exactly `versions`, or (both unset) all. `labels` name versions for clients.
    `canary` gives versions a share (0..1) of the requests that name neither version nor label; the rest goes to the
    latest, or to `default` where one is named. `shadow`: a version that gets a copy of those requests, whose answers
    are only compared.
    """

    latest: int | None = None
    versions: tuple[int, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)
    canary: dict[int, float] = field(default_factory=dict)
    shadow: int | None = None
    default: int | None = None


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS of a replica's HTTP and gRPC ports: PEM files. With `client_ca` clients must show a certificate of it."""

    certificate: str
    key: str
    client_ca: str = ""


@dataclass(frozen=True, slots=True)
class Tracing:
    """Traces of requests: the share that is sampled where the caller does not say, and where spans go.

    `file` takes one JSON object per span; `otlp_endpoint` is an OpenTelemetry collector's HTTP address.
    """

    rate: float = 0.0
    file: str = ""
    otlp_endpoint: str = ""

    def __post_init__(self) -> None:
        if self.otlp_endpoint and not _HTTP_URL.fullmatch(self.otlp_endpoint):
            raise InvalidInput(
                f"otlp_endpoint is '{self.otlp_endpoint}'",
                why="spans are sent to an http or https URL",
                hint="give one as http://collector:4318/v1/traces",
            )


class GrpcFront(StrEnum):
    """What serves gRPC: our own HTTP/2 (`fast`), or grpcio's server (`aio`). Clients see the same."""

    FAST = "fast"
    AIO = "aio"


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """All that `python -m modelyard.serving --spec replica.json` needs; the same in every engine.

    Ports of 0 let the system choose (the replica then writes what it got to `ready_file`). With `reuse_port` several
    replicas share one port. `ready_file` is written (JSON: pid, http_port, grpc_port) once models are loaded and warm.
    `heartbeat_file` is touched (its mtime set) about every second from before `ready_file` appears until the replica
    exits, drain included, but only while the event loop turns and no model execution is stuck: an engine replaces a
    replica whose heartbeat stops. `unix_socket` is served beside the HTTP port. `repository` is a directory of models
    that can be loaded while the replica runs (`M/V.json`, each a ServedModel); with `exit_on_error` the replica does
    not start where one of them cannot be served (those of `models` must be in any case). `policies` by model name.
    `triton_metrics` adds the `nv_inference_*` metrics. `max_running` bounds executions that run at the same time over
    all models (None: the cores this process may use). `shared_memory` lets clients register system shared memory (None:
    where `host` is a loopback address). `cpu_limit`: the cores whose time it may use (None: all); the engine
    holds it to that.
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
    unix_socket: str | None = None
    tls: Tls | None = None
    repository: str | None = None
    policies: dict[str, VersionPolicy] = field(default_factory=dict)
    tracing: Tracing = field(default_factory=Tracing)
    triton_metrics: bool = False
    max_running: int | None = None
    grpc_front: GrpcFront = GrpcFront.FAST
    shared_memory: bool | None = None
    exit_on_error: bool = True
    cpu_limit: float | None = None

    def __post_init__(self) -> None:
        ports_fit = 0 <= self.http_port < 65536 and 0 <= (self.grpc_port or 0) < 65536
        bounded = 1 <= self.max_body_bytes <= MOST_BODY_BYTES and 0 <= self.drain_timeout_s <= MOST_DRAIN_S
        bounded = bounded and (self.max_running is None or 1 <= self.max_running <= MOST_INSTANCES)
        bounded = bounded and _fits_memory(self.memory_limit_bytes)
        check_cpu_limit(self.cpu_limit)
        if not (ports_fit and bounded and 0 <= self.tracing.rate <= 1):
            raise InvalidInput(
                f"a replica of '{self.service}' cannot run so",
                why=f"it needs ports from 0 to 65535, max_body_bytes from 1 to {MOST_BODY_BYTES}, drain_timeout_s from "
                f"0 to {MOST_DRAIN_S:g}, max_running from 1 to {MOST_INSTANCES}, memory_limit_bytes from 1 to "
                f"{MOST_BYTES} and a tracing.rate from 0 to 1",
                hint="correct its settings",
            )


def _fits_memory(limit_bytes: int | None) -> bool:
    return limit_bytes is None or 1 <= limit_bytes <= MOST_BYTES


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
    """Where clients call; with `tls` both ports speak it."""

    host: str
    http_port: int
    grpc_port: int | None = None
    tls: bool = False

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.http_port}"

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
class QueueSettings:
    """What a service changes of its configuration's queue; None leaves it. `slo_ms` of 0: no latency target."""

    max_requests: int | None = None
    max_wait_s: float | None = None
    priorities: int | None = None
    default_priority: int | None = None
    slo_ms: float | None = None

    def over(self, base: QueuePolicy) -> QueuePolicy:
        """`base` with these changes. Raises InvalidInput where the two do not fit together."""
        return QueuePolicy(
            max_requests=self.max_requests or base.max_requests,
            max_wait_s=self.max_wait_s or base.max_wait_s,
            priorities=self.priorities or base.priorities,
            default_priority=self.default_priority or base.default_priority,
            slo_ms=base.slo_ms if self.slo_ms is None else self.slo_ms or None,
        )


@dataclass(frozen=True, slots=True)
class BatchingSettings:
    """What a service changes of its configuration's batching; None leaves it."""

    max_size: int | None = None
    max_delay_us: int | None = None
    max_cost: int | None = None

    def over(self, base: Batching) -> Batching:
        """`base` with these changes."""
        return Batching(
            max_size=self.max_size or base.max_size,
            max_delay_us=base.max_delay_us if self.max_delay_us is None else self.max_delay_us,
            max_cost=self.max_cost or base.max_cost,
        )


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The section `model`: how each version of the model runs in a replica. See `ServedModel`."""

    instances: int = 1
    isolation: Isolation = Isolation.AUTO
    weight: float = 1.0
    cache_bytes: int = 0
    coalesce: bool = False
    classes: tuple[str, ...] = ()
    memory_limit_bytes: int | None = None
    queue: QueueSettings = field(default_factory=QueueSettings)
    batching: BatchingSettings = field(default_factory=BatchingSettings)


@dataclass(frozen=True, slots=True)
class CallerIdentity:
    """What yard's own calls (probe, predict, statistics) show a service that asks its clients for a certificate."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """The section `replica`: how a replica meets its clients. See `ReplicaSpec`. Paths are absolute."""

    tls: Tls | None = None
    caller: CallerIdentity | None = None
    unix_socket: str | None = None
    tracing: Tracing = field(default_factory=Tracing)
    triton_metrics: bool = False
    max_body_bytes: int = 64 * 1024 * 1024
    drain_timeout_s: float = 20.0
    grpc_front: GrpcFront = GrpcFront.FAST
    max_running: int | None = None
    repository: str | None = None
    shared_memory: bool | None = None
    exit_on_error: bool = True


@dataclass(frozen=True, slots=True)
class Serving:
    """All settings of a service; `file` is where they were read from."""

    model: ModelSettings = field(default_factory=ModelSettings)
    replica: ReplicaSettings = field(default_factory=ReplicaSettings)
    file: str = ""

    def of_replica(self) -> Serving:
        """These settings without the model's: what a service keeps where its model's are measured anew."""
        return replace(self, model=ModelSettings())


@dataclass(frozen=True, slots=True)
class Release:
    """A further version of a service's model in its replicas, and the configuration it runs by."""

    version: int
    configuration: Configuration


@dataclass(frozen=True, slots=True)
class Service:
    """A deployed configuration. `directory` holds the engine's state and the replicas' logs.

    `others` are the versions beside the service's own; `policy` says who gets which requests, `serving` how they are
    served.
    """

    name: str
    model: str
    version: int
    configuration: Configuration
    endpoint: Endpoint
    directory: str
    created_at: str
    purpose: str = "service"
    others: tuple[Release, ...] = ()
    policy: VersionPolicy = field(default_factory=VersionPolicy)
    serving: Serving = field(default_factory=Serving)
