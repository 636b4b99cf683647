"""A facade that answers with values at once and notes what it was asked, for tests of parsing and rendering."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.domain.artifacts import (
    Artifact,
    Conversion,
    Equivalence,
    FailureClass,
    MetricAgreement,
    Outcome,
    OutputAgreement,
    Precision,
    RejectionReason,
    Standing,
    Target,
    Tolerance,
)
from modelyard.domain.configuration import Slo
from modelyard.domain.errors import ModelyardError, NotFound
from modelyard.domain.measurement import Interval, Measurement, Validity, Verdict
from modelyard.domain.services import Endpoint, Replica, ReplicaState, Service, ServiceState
from modelyard.domain.study import (
    Aim,
    Answer,
    Knob,
    Point,
    Prediction,
    Ranked,
    Result,
    Study,
    Trial,
    TrialState,
)
from modelyard.domain.study import Standing as Rank
from modelyard.domain.tensors import Tensor
from modelyard.domain.versions import AliasEvent, Definition, Description, ModelRef, SourceSpec, Version
from modelyard.domain.workload import Arrival, Workload
from modelyard.hub.values import Freed, Lineage, ModelSummary, Page, Registration, VersionQuery
from modelyard.profile.export import ExportFormat
from modelyard.workflow.exporting import Exported
from modelyard.workflow.progress import Progress, Step
from modelyard.workflow.values import (
    Choice,
    DeployRequest,
    Finding,
    ProfileRequest,
    Publication,
    PublishRequest,
    ServiceStatus,
    Sweep,
    TunePlan,
    TuneRequest,
    VersionDiff,
)
from tests.builders import SIGNATURE, artifact, configuration, measurement

TOLERANCE = Tolerance(1e-4, 1e-3, 0.0, 0.999, 0.999, 0.005)
VERSION = Version(
    model="digits",
    number=1,
    digest="d" * 64,
    definition=Definition(
        name="digits",
        framework="pytorch",
        source=SourceSpec("pytorch-exported", "digits.pt2"),
        signature=SIGNATURE,
        task="image-classification",
        metrics={"accuracy": 0.98},
        slo=Slo(20, 200),
    ),
    description=Description(description="A small CNN", tags=("demo", "small")),
    source_artifact="a0",
    created_at="2026-11-22T06:00:00+00:00",
    aliases=("production",),
)
SERVICE = Service(
    "digits",
    "digits",
    1,
    configuration(max_batch=8),
    Endpoint("127.0.0.1", 8123, 8124),
    "/data/digits",
    "2026-11-22T06:00:00",
)


def conversion(target: str, outcome: Outcome, **changes: Any) -> Conversion:
    base = Conversion(
        id=f"c-{target}",
        key="k",
        model="digits",
        version=1,
        source_artifact="a0",
        target=Target.parse(target),
        route="dynamo",
        outcome=outcome,
        detail="",
        duration_s=3.2,
        peak_memory_bytes=10**8,
        tool_versions={"onnx": "1.23"},
    )
    return replace(base, **changes)


def equivalence(
    outcome: Outcome, *, reason: RejectionReason | None = None, error: float = 2e-6, after: float = 0.982
) -> Equivalence:
    return Equivalence(
        outcome=outcome,
        reason=reason,
        detail="",
        cases=("dataset",),
        outputs=(OutputAgreement("logits", 1000, error, error, 1.0, 0.0, 0.9972 if reason else 1.0),),
        metrics=(MetricAgreement("accuracy", 0.982, after, 360),),
        tolerance=TOLERANCE,
        runtime="onnxruntime",
    )


CONVERSIONS = (
    conversion("onnx", Outcome.PROVEN, equivalence=equivalence(Outcome.PROVEN)),
    conversion(
        "onnx:int8-static",
        Outcome.REJECTED,
        detail="accuracy fell by 0.031, more than the 0.005 allowed",
        equivalence=equivalence(Outcome.REJECTED, reason=RejectionReason.METRIC_LOSS, error=0.8, after=0.951),
    ),
    conversion(
        "openvino:bf16",
        Outcome.FAILED,
        detail="this CPU computes no bfloat16",
        hint="publish on a machine with AMX or AVX512-BF16",
        log="line one\nline [two]",
        failure=FailureClass.MISSING_DEPENDENCY,
    ),
)
NAIVE = measurement(
    "naive", config=replace(configuration("a0"), target=Target("pytorch-exported"), runtime="torch"), cost=4.1
)
CHOSEN = measurement("best", config=configuration(max_batch=8), p99=(8.0, 7.1, 9.2), cost=0.83)
SUSPECT = replace(
    measurement("odd", config=configuration(threads=2), p99=(88.8, 77.7, 99.9)),
    verdict=Verdict(Validity.INVALID, ("client saturated: send lag p99 4.2 ms",)),
)
CHOICE = Choice(
    CHOSEN, NAIVE, Slo(20, 200), True, "the cheapest of 2 that meet the SLO", (NAIVE, CHOSEN, SUSPECT), 4.94
)
ARTIFACTS: tuple[Artifact, ...] = (
    artifact("a0", target="pytorch-exported", standing=Standing.SOURCE, precision=Precision.FP32),
    artifact("a1"),
)
PUBLICATION = Publication(
    version=VERSION,
    created=True,
    artifacts=ARTIFACTS,
    conversions=CONVERSIONS,
    choice=CHOICE,
    service=SERVICE,
    prediction={"logits": np.zeros((1, 10), np.float32)},
    curl='curl -s -X POST http://127.0.0.1:8123/v2/models/digits/infer -d \'{"inputs": [' + "0.25, " * 64 + "]}'",
    report="digits-report.html",
    seconds={"convert": 21.0, "profile": 40.0},
)


def tried(
    number: int, knobs: Mapping[str, Knob], cost: float, *, p99: float, expected: float, confirms: int | None = None
) -> Trial:
    """A measured trial of the aim `min cost under p99 <= 20 ms`; `expected` is the cost that was predicted."""
    values, p99_ms = Interval(cost, cost * 0.95, cost * 1.05), Interval(p99, p99 * 0.9, p99 * 1.1)
    result = Result((math.log(cost),), (0.02,), (values,), p99_ms, p99 * 1.1 <= 20, "valid", ("best",))
    prediction = Prediction((math.log(expected),), 200.0, 2.0, 1.8, 3.0, p99, 0.5, feasible=True, spread=0.1)
    point = Point.of(knobs)
    return Trial(number, point, TrialState.MEASURED, "random", result, prediction, seconds=12.5, confirms=confirms)


SPACE = """
knobs:
  threads: {choice: [1, 2]}
  max_batch: {choice: [1, 8, 32, 64]}
constraints: [threads * max_batch <= 64]
"""
STUDY = Study(
    id="std-0123456789abcdef0123",
    model="digits",
    version=1,
    aim=Aim.parse("min cost under p99 <= 20 ms at 200 rps"),
    workload=Workload(Arrival.POISSON, rate_rps=200),
    space=SPACE,
    strategy="random",
    options={"initial": 8},
    budget=3,
    seed=0,
    fingerprint="f" * 12,
    default=Point.of({"threads": 1, "max_batch": 1}),
    trials=(
        tried(1, {"threads": 1, "max_batch": 1}, 1.6, p99=9.0, expected=1.5),
        tried(2, {"threads": 2, "max_batch": 8}, 0.8, p99=12.0, expected=0.9),
        Trial(3, Point.of({"threads": 2, "max_batch": 32}), TrialState.FAILED, "random", detail="out of [memory]"),
        tried(4, {"threads": 2, "max_batch": 8}, 0.83, p99=12.5, expected=0.9, confirms=2),
    ),
    answer=Answer(
        best=2,
        ranking=(Ranked(2, Rank.BEST, 0.97), Ranked(1, Rank.DOMINATED, 0.99)),
        stopped="the budget of 3 is spent",
        binding="p99 of larger batches",
        prediction_error={"cost": 0.07, "p99": 0.2},
    ),
    created_at="2026-11-22T06:00:00+00:00",
)
PLAN = TunePlan(replace(STUDY, id="", trials=(), answer=None), 48, STUDY.default, "the default comes first")


class FakeVersions:
    def __init__(self, calls: list[tuple[str, Any]]) -> None:
        self._calls = calls

    def models(self) -> list[ModelSummary]:
        return [
            ModelSummary(
                "digits", 1, 1, "image-classification", "pytorch", {"production": 1}, "", "2026-11-22T06:00:00"
            )
        ]

    def list(self, model: str) -> list[Version]:
        if model != "digits":
            raise NotFound(f"there is no model '{model}'", hint="yard models ls")
        return [VERSION]

    def get(self, ref: ModelRef) -> Version:
        return self.list(ref.model)[0]

    def lineage(self, ref: ModelRef) -> Lineage:
        return Lineage(
            self.get(ref), artifacts=ARTIFACTS, conversions=CONVERSIONS, measurements=(CHOSEN,), services=("digits",)
        )

    def search(self, query: VersionQuery) -> Page[Version]:
        self._calls.append(("search", query))
        return Page((VERSION,), "more-1")

    def update(self, ref: ModelRef, changes: object) -> Version:
        self._calls.append(("update", changes))
        return VERSION

    def delete(self, ref: ModelRef, *, force: bool = False, dry_run: bool = False) -> Freed:
        self._calls.append(("delete", (str(ref), force, dry_run)))
        return Freed(versions=(str(ref),), artifacts=2, size_bytes=4096, dry_run=dry_run)


class FakeAliases:
    def __init__(self, calls: list[tuple[str, Any]]) -> None:
        self._calls = calls

    def list(self, model: str) -> dict[str, int]:
        return {"production": 1}

    def _event(self, action: str, model: str, alias: str, version: int | None) -> AliasEvent:
        self._calls.append((action, (model, alias, version)))
        return AliasEvent(model, alias, version, 2, action, "2026-11-22T06:00:00")

    def set(self, model: str, alias: str, number: int) -> AliasEvent:
        return self._event("set", model, alias, number)

    def remove(self, model: str, alias: str) -> AliasEvent:
        return self._event("remove", model, alias, None)

    def rollback(self, model: str, alias: str) -> AliasEvent:
        return self._event("rollback", model, alias, 1)

    def history(self, model: str, alias: str) -> Sequence[AliasEvent]:
        return [AliasEvent(model, alias, 1, None, "set", "2026-11-22T06:00:00")]


class FakeMeasurements:
    def list(self, ref: ModelRef) -> Sequence[Measurement]:
        return [CHOSEN, NAIVE, SUSPECT]

    def get(self, name: str) -> Measurement:
        return {m.id: m for m in (CHOSEN, NAIVE, SUSPECT)}[name]


class FakeHub:
    def __init__(self, calls: list[tuple[str, Any]]) -> None:
        self.versions = FakeVersions(calls)
        self.aliases = FakeAliases(calls)
        self.measurements = FakeMeasurements()


class FakeYard:
    """Implements the facade's signatures. `fail` is raised by `publish`, `convert` and `doctor`, before they answer."""

    def __init__(self, *, fail: BaseException | None = None, publication: Publication = PUBLICATION) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.hub = FakeHub(self.calls)
        self.closed = False
        self.fail = fail
        self.publication = publication
        self.found = STUDY
        self.conversions: Sequence[Conversion] = CONVERSIONS
        self.sweep = Sweep((CHOSEN,))
        self.findings = [
            Finding("onnxruntime", True, "1.31"),
            Finding("torch", False, "absent", "pip install 'modelyard[torch]'"),
        ]
        self.statuses = [ServiceStatus(SERVICE, ServiceState.READY, (Replica(0, ReplicaState.READY, 4711),))]

    def close(self) -> None:
        self.closed = True

    def _asked(self, name: str, value: Any) -> None:
        self.calls.append((name, value))
        if self.fail is not None:
            raise self.fail

    def register(self, path: Path, *, trust: bool = False, listener: Any) -> Registration:
        self._asked("register", (path, trust))
        return Registration(VERSION, created=True)

    def convert(self, ref: str, targets: Sequence[str], *, listener: Any) -> Sequence[Conversion]:
        listener(Progress(Step.CONVERT, "onnx", 0.5))
        self._asked("convert", (ref, tuple(targets)))
        return self.conversions

    def profile(self, ref: str, request: ProfileRequest, *, listener: Any) -> Sweep:
        self._asked("profile", (ref, request))
        return self.sweep

    def publish(self, what: str | Path, request: PublishRequest, *, trust: bool = False, listener: Any) -> Publication:
        listener(Progress(Step.REGISTER, "digits"))
        self._asked("publish", (what, request, trust))
        return self.publication

    def deploy(self, ref: str, request: DeployRequest, *, listener: Any) -> Service:
        self._asked("deploy", (ref, request))
        return SERVICE

    def tune(self, ref: str, request: TuneRequest, *, listener: Any) -> Study:
        listener(Progress(Step.TUNE, "trial 1 of 3", 0.33))
        self._asked("tune", (ref, request))
        return self.found

    def plan_tune(self, ref: str, request: TuneRequest, *, listener: Any) -> TunePlan:
        self._asked("plan_tune", (ref, request))
        return PLAN

    def studies(self, ref: str) -> list[Study]:
        return [replace(self.found, id="std-ffff", answer=None), self.found]

    def study(self, name: str) -> Study:
        self._asked("study", name)
        return self.found

    def report_study(self, name: str, path: Path) -> Path:
        self._asked("report_study", (name, path))
        return path

    def services(self) -> list[ServiceStatus]:
        return self.statuses

    def service(self, name: str) -> ServiceStatus:
        return self.statuses[0]

    def stop(self, name: str) -> None:
        self._asked("stop", name)

    def logs(self, name: str, *, replica: int | None = None, follow: bool = False, tail: int = 100) -> Iterator[str]:
        self._asked("logs", (name, replica, follow, tail))
        yield from ("first [bold]line\n", "second")

    def predict(self, service: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self._asked("predict", (service, tensors))
        return {"logits": np.arange(10, dtype=np.float32).reshape(1, 10)}

    def diff(self, left: str, right: str) -> VersionDiff:
        return VersionDiff(left, right, (("task", "a", "b"),))

    def report(self, ref: str, path: Path) -> Path:
        self._asked("report", (ref, path))
        return path

    def report_measurements(self, ids: Sequence[str], path: Path) -> Path:
        self._asked("report_measurements", (tuple(ids), path))
        return path

    def report_comparison(self, a: str, b: str, path: Path) -> Path:
        self._asked("report_comparison", (a, b, path))
        return path

    def export(
        self,
        path: Path,
        *,
        ref: str | None = None,
        measurements: Sequence[str] = (),
        format: str | None = None,  # noqa: A002  (the facade's word)
    ) -> Exported:
        self._asked("export", (path, ref, tuple(measurements), format))
        return Exported(str(path), ExportFormat(format or path.suffix[1:]), 2, 1234, (("old", "its blob is gone"),))

    def doctor(self) -> list[Finding]:
        self._asked("doctor", None)
        return self.findings

    def gc(self, *, dry_run: bool) -> Freed:
        self._asked("gc", dry_run)
        return Freed(blobs=3, size_bytes=2**20, dry_run=dry_run)


def failing(kind: type[ModelyardError]) -> FakeYard:
    return FakeYard(fail=kind("what happened", why="the reason", hint="yard doctor"))
