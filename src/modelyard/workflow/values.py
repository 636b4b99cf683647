"""What a user asks of a use case beyond the defaults, and what comes back. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelyard.domain.artifacts import Artifact, Conversion, Target
from modelyard.domain.configuration import Batching, Configuration, Slo
from modelyard.domain.measurement import Measurement
from modelyard.domain.services import Replica, Service, ServiceState
from modelyard.domain.tensors import Tensor
from modelyard.domain.versions import Version
from modelyard.domain.workload import Arrival, Protocol


@dataclass(frozen=True, slots=True)
class DeployRequest:
    """How to deploy a version. What is None is taken from the last published choice, else from the naive default.

    `target` picks the artifact (`onnx:int8-static`); it must be the source or proven. `http_port`/`grpc_port` 0: free
    ports are chosen.
    """

    name: str | None = None
    target: Target | None = None
    runtime: str | None = None
    device: str | None = None
    threads: int | None = None
    replicas: int | None = None
    batching: Batching | None = None
    memory_limit_bytes: int | None = None
    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    replace: bool = False


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """Which cells to measure: the product of every listed axis.

    `batches` are rows per request. Without `targets`, `runtimes`: every servable artifact on its default runtime. With
    `closed`
    (requests in flight) the loop is closed; with `rate_rps` it is open. Neither: closed 8.
    """

    batches: tuple[int, ...] = (1,)
    targets: tuple[Target, ...] = ()
    runtimes: tuple[str, ...] = ()
    device: str = "cpu"
    threads: tuple[int, ...] = ()
    max_batches: tuple[int, ...] = (1,)
    max_delay_us: int = 0
    replicas: int = 1
    rate_rps: float | None = None
    closed: int | None = None
    arrival: Arrival | None = None
    protocol: Protocol = Protocol.HTTP_BINARY
    blocks: int = 5
    requests: int = 1000
    duration_s: float = 10.0
    seed: int = 0
    again: bool = False


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """How to publish: an SLO that overrides the manifest's, how thorough the profile is, where to deploy.

    `effort` is `quick`, `normal` or `thorough`: samples per measured cell and number of contenders.
    """

    slo: Slo | None = None
    targets: tuple[str, ...] = ()
    effort: str = "normal"
    deploy: bool = True
    name: str | None = None
    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    html: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What publish chose and why. `met` is None without an SLO; `naive` is what one would deploy without Modelyard.

    `chosen` is None only where nothing could be measured. `cost_ratio` = naive cost / chosen cost, per request.
    """

    chosen: Measurement | None
    naive: Measurement | None
    slo: Slo | None
    met: bool | None
    reason: str
    considered: tuple[Measurement, ...]
    cost_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service as the hub has it and as the engine sees it now."""

    service: Service
    state: ServiceState
    replicas: tuple[Replica, ...]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Publication:
    """The result of `publish`: every step's evidence, and the seconds each step took."""

    version: Version
    created: bool
    artifacts: tuple[Artifact, ...]
    conversions: tuple[Conversion, ...]
    choice: Choice
    service: Service | None
    prediction: Mapping[str, Tensor] | None
    curl: str | None
    report: str | None
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """What differs between two versions: (field, left, right) as text."""

    left: str
    right: str
    rows: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `doctor`: what was checked, whether it is fine, and what to do if not."""

    check: str
    ok: bool
    detail: str
    hint: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """One configuration publish may measure."""

    configuration: Configuration
    naive: bool = False
