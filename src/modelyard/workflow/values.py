"""What a user asks of a use case beyond the defaults, and what comes back. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf

from modelyard.dispatch import AppliedLimits
from modelyard.domain.artifacts import Artifact, Conversion, Target
from modelyard.domain.configuration import Batching, Configuration, Slo
from modelyard.domain.errors import InvalidInput, ModelyardError
from modelyard.domain.measurement import Measurement
from modelyard.domain.services import Replica, Service, ServiceState, Serving
from modelyard.domain.study import Aim, Knob, Point, Study
from modelyard.domain.tensors import Tensor
from modelyard.domain.versions import Version
from modelyard.domain.workload import Arrival, Protocol, Scenario, Workload
from modelyard.profile.traces import TraceFile


@dataclass(frozen=True, slots=True)
class DeployRequest:
    """How to deploy a version. What is None is taken from the last published choice, else from the naive default.

    `target` picks the artifact (`onnx:int8-static`); it must be the source or proven. `http_port`/`grpc_port` 0: free
    ports are chosen. `serving` is part of each deployment: None means its defaults, also where a service is replaced.

    Further versions of the model in the same replicas, by reference: `canary` gives each its share (0 to 1) of the
    requests that name no version; `shadow` gets copies of them, and its answers are only compared; `labels` names
    versions, the deployed one included.

    `from_study` (an id): the configuration that this study of the version found best takes the place of the last
    published choice; with `trial` the one of that trial.
    """

    name: str | None = None
    target: Target | None = None
    runtime: str | None = None
    device: str | None = None
    threads: int | None = None
    replicas: int | None = None
    batching: Batching | None = None
    memory_limit_bytes: int | None = None
    cpu_limit: float | None = None
    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    replace: bool = False
    serving: Serving | None = None
    canary: Mapping[str, float] = field(default_factory=dict)
    shadow: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    from_study: str | None = None
    trial: int | None = None

    def __post_init__(self) -> None:
        if self.trial is not None and self.from_study is None:
            raise InvalidInput(f"trial {self.trial} is one of a study", hint="name the study: --from-study ID")


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """Which cells to measure: the product of every axis (a tuple).

    `batches` are rows per request. Without `targets`, `runtimes`: every servable artifact on its default runtime;
    without `threads`: the cores divided by the replicas. With `closed` (requests in flight) the loop is closed; with
    `rates_rps` it is open. Neither: closed 8. `arrival` follows from `cv` (gamma), `end_rate_rps` (ramp) and `trace`,
    else Poisson. `trace` is a file, or the digest of one replayed before in place of its path; `rates_rps` then scale
    it. A `scenario` brings its load; `slo` replaces the version's. Where a verdict asks for longer blocks they are
    taken, up to `longest_s` seconds each (0: never).
    """

    batches: tuple[int, ...] = (1,)
    targets: tuple[Target, ...] = ()
    runtimes: tuple[str, ...] = ()
    device: str = "cpu"
    threads: tuple[int, ...] = ()
    max_batches: tuple[int, ...] = (1,)
    max_delay_us: int = 0
    replicas: tuple[int, ...] = (1,)
    rates_rps: tuple[float, ...] = ()
    closed: tuple[int, ...] = ()
    arrival: Arrival | None = None
    cv: float | None = None
    end_rate_rps: float | None = None
    trace: TraceFile | None = None
    trace_start_s: float = 0.0
    scenario: Scenario | None = None
    slo: Slo | None = None
    protocols: tuple[Protocol, ...] = (Protocol.HTTP_BINARY,)
    blocks: int = 5
    requests: int = 1000
    duration_s: float = 10.0
    seed: int = 0
    again: bool = False
    longest_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.longest_s < inf:
            raise InvalidInput(f"longer blocks of {self.longest_s} s", hint="give seconds from 0, say 60")
        steady = self.rates_rps and not (self.trace or self.scenario or self.end_rate_rps)
        if self.longest_s and not steady:
            raise InvalidInput(
                "longer blocks (--lengthen) are of a steady rate",
                why="a closed loop, a ramp, a trace and a scenario have the length they were given",
                hint="give --rate, or leave --lengthen out",
            )


@dataclass(frozen=True, slots=True)
class FailedCell:
    """A cell that could not be measured, and why."""

    configuration: Configuration
    workload: Workload
    error: ModelyardError

    def __str__(self) -> str:
        return f"{self.configuration.label}, {self.workload.label}: {self.error}"


@dataclass(frozen=True, slots=True)
class SkippedConfiguration:
    """A configuration that this machine cannot hold, and why."""

    configuration: Configuration
    reason: str

    def __str__(self) -> str:
        return f"{self.configuration.label}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Sweep:
    """What became of each cell: measured now or before, failed, or skipped with its whole configuration."""

    measurements: tuple[Measurement, ...]
    failed: tuple[FailedCell, ...] = ()
    skipped: tuple[SkippedConfiguration, ...] = ()


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
class TuneRequest:
    """What a study looks for, where, and how thoroughly each trial is measured.

    `aim` None: the cheapest configuration under the version's SLO, else the highest throughput at 16 concurrent.
    `space` is a space's YAML text, None the space of the version on this node; `space_name` is its file's, for errors.
    `options` are the strategy's settings.
    `budget`: configurations measured at most, confirmations not counted. A trial is `blocks` blocks of `requests`
    requests or `duration_s` seconds each (None: 10 at a rate, 1 in a closed loop, which counts no requests).

    A study with the same settings is gone on with, and returned as it is where it is finished, unless `again`. `resume`
    names the one to go on with; it keeps the settings that it was begun with.
    """

    aim: Aim | None = None
    space: str | None = None
    strategy: str = "simulate-verify"
    options: Mapping[str, Knob] = field(default_factory=dict)
    budget: int = 6
    seed: int = 0
    blocks: int = 5
    requests: int = 1000
    duration_s: float | None = None
    again: bool = False
    resume: str | None = None
    space_name: str = "space"

    def __post_init__(self) -> None:
        positive = self.duration_s is None or 0 < self.duration_s < inf
        if min(self.budget, self.blocks, self.requests) < 1 or not positive:
            raise InvalidInput("a study needs a budget, blocks and requests of at least 1 and a positive duration")
        if self.again and self.resume:
            raise InvalidInput("a study is begun again or resumed, not both", hint="leave out one of the two")
        if self.resume and replace(self, resume=None) != TuneRequest():
            raise InvalidInput(
                "a study that is resumed keeps the settings it was begun with", hint="give --resume and nothing else"
            )


@dataclass(frozen=True, slots=True)
class TunePlan:
    """What `tune` would do now: the study that it would begin (its id is empty) or go on with.

    `size`: configurations in the space, None where it cannot be counted. `first` would be measured next, because of
    `reason`; None where nothing more would be. `fixed`: knobs that the space leaves out, and what they are.
    """

    study: Study
    size: int | None
    first: Point | None
    reason: str
    fixed: Point = field(default_factory=lambda: Point(()))


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
class VersionTraffic:
    """What one version of a service did since its replicas started, and its share of the requests that name none.

    `share` is 0 for a shadow and for a version that is reached by its number or a label only. `refused` were not
    admitted, or expired in the queue.
    """

    version: int
    share: float
    shadow: bool
    labels: tuple[str, ...]
    requests: int
    failed: int
    refused: int


@dataclass(frozen=True, slots=True)
class ShadowTraffic:
    """How a shadow's answers compare with those given, over all replicas.

    Of `offered` requests, `dropped` were not copied (the replica was busy) and `failed` by the shadow; `mismatched` of
    the `compared` differ in shape, in what is NaN or in a text. Of `rows` that have a best class, it is the same in
    `rows_agreeing`.
    """

    version: int
    offered: int
    dropped: int
    failed: int
    compared: int
    mismatched: int
    max_abs_error: float
    rows: int
    rows_agreeing: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the replicas of a service say of themselves, summed; `error` where not all of them could be asked."""

    versions: tuple[VersionTraffic, ...]
    shadow: ShadowTraffic | None
    replicas: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service as the hub has it and as the engine sees it now; `traffic` where it was asked for, and runs.

    `limits` are those in force, by replica in the same order.
    """

    service: Service
    state: ServiceState
    replicas: tuple[Replica, ...]
    detail: str = ""
    traffic: Traffic | None = None
    limits: tuple[AppliedLimits, ...] = ()


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
