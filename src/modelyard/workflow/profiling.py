"""Measure configurations of a version: deploy one for the time of its measurement, load it, record the numbers."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import msgspec

from modelyard.domain.artifacts import Artifact
from modelyard.domain.configuration import Batching, Configuration
from modelyard.domain.errors import BackendFailed, InvalidInput, NotFound, Unsupported
from modelyard.domain.measurement import Measurement, Validity
from modelyard.domain.tensors import Tensor, Tensors
from modelyard.domain.versions import ModelRef, Version
from modelyard.domain.workload import Workload
from modelyard.hub import Hub, MeasurementQuery
from modelyard.profile import MeasuredService, Profiler, fingerprint, mixed_payloads
from modelyard.profile.curve import Curve, CurvePoint, measure_curve
from modelyard.profile.profiler import ABANDONED
from modelyard.profile.statistics import BlockSummary
from modelyard.runtimes import Runtimes
from modelyard.workflow.alone import alone, free
from modelyard.workflow.deploying import Deployer, check_target
from modelyard.workflow.loads import replayed, workloads
from modelyard.workflow.planning import MAX_BATCHES, thread_choices, with_slo
from modelyard.workflow.progress import Listener, Progress, Step
from modelyard.workflow.rows import Rows
from modelyard.workflow.sweeping import Sweeping
from modelyard.workflow.values import ProfileRequest, Sweep

Report: TypeAlias = Callable[[str], None]
Hopeless: TypeAlias = Callable[[Sequence[BlockSummary]], str]
RETAKES = 2
"""How often an invalid measurement (disturbed, or its client too slow) is taken again before it is left invalid."""
PAYLOADS = 64
"""Different requests a measurement cycles through."""


@dataclass(frozen=True)
class Profiling:
    """Measures cells (configuration x workload) on this node, and reuses what the hub already has of them."""

    hub: Hub
    runtimes: Runtimes
    deployer: Deployer
    rows: Rows
    profiler: Profiler
    work_dir: Path
    traces: Path
    cores: int = os.cpu_count() or 1

    def profile(self, ref: str, request: ProfileRequest, listener: Listener) -> Sweep:
        """Measure the product of the request's axes. Raises NotFound, Unsupported, InvalidInput.

        A cell that fails is in the sweep's `failed`; the only cell of a sweep raises what it failed of.
        """
        version = self.hub.versions.get(ModelRef.parse(ref))
        configurations = self.configurations(version, request)
        replay = replayed(request.trace, self.traces) if request.trace else None
        if replay:
            listener(Progress(Step.PROFILE, replay.words))
        loads = workloads(request, replay)
        if loads[0].open_loop:  # a closed loop finds capacity, which refusals would hide
            configurations = [with_slo(c, request.slo or version.definition.slo) for c in configurations]
        sweeping = Sweeping(self, version, loads, listener, request.longest_s)
        return sweeping.run(configurations, again=request.again)

    def alone(self, listener: Listener) -> AbstractContextManager[None]:
        """Wait until no other process of this home measures, and keep others waiting while the block runs."""
        return alone(self.work_dir / "measuring.lock", reporter(listener, "measurements"))

    def sweep(self, *, dry_run: bool) -> tuple[int, int]:
        """Remove what a killed process left of its measurements: number of files and their bytes."""
        if not free(self.work_dir / "measuring.lock"):
            return 0, 0
        left = [path for cell in (self.work_dir / "profile").glob("cell-*") for path in cell.rglob("*")]
        sizes = [path.stat().st_size for path in left if path.is_file()]
        if not dry_run:
            for cell in (self.work_dir / "profile").glob("cell-*"):
                shutil.rmtree(cell, ignore_errors=True)
        return len(sizes), sum(sizes)

    @contextmanager
    def bench(self, version: Version, *, again: bool = False) -> Iterator[Bench]:
        """A place to measure configurations of `version`; every service it started is gone on exit."""
        with ExitStack() as stack:
            yield Bench(self, version, again, stack)

    def configurations(self, version: Version, request: ProfileRequest) -> list[Configuration]:
        """The configurations a request means. Raises NotFound (no such artifact), Unsupported (runtime)."""
        servable = self.hub.artifacts.list(ModelRef(version.model, version.number), servable_only=True)
        artifacts = [a for a in servable if not request.targets or a.target in request.targets]
        missing = [t for t in request.targets if t not in {a.target for a in servable}]
        if missing:
            check_target(version, missing[0])
            raise NotFound(
                f"{version.ref} has no servable artifact {missing[0]}",
                hint=f"yard convert {version.ref} --to {missing[0]}",
            )
        if max(request.max_batches) > 1 and not version.definition.signature.batched:
            raise InvalidInput(f"{version.ref} has no batch dimension to batch over", hint="leave out --max-batch")
        cells = [
            Configuration(
                artifact=artifact.id,
                target=artifact.target,
                runtime=runtime,
                precision=artifact.precision,
                device=request.device,
                threads=count,
                replicas=replicas,
                batching=Batching(max_batch, request.max_delay_us if max_batch > 1 else 0),
            )
            for artifact in artifacts
            for runtime in self.runtimes_for(artifact, request.runtimes)
            for replicas in request.replicas
            for count in request.threads or (max(1, self.cores // replicas),)
            for max_batch in request.max_batches
        ]
        if not cells:
            names = ", ".join(str(artifact.target) for artifact in artifacts)
            raise Unsupported(
                f"no artifact asked for runs on {', '.join(request.runtimes)}",
                why=f"asked for: {names}",
                hint="yard doctor lists runtimes",
            )
        return cells

    def runtimes_for(self, artifact: Artifact, wanted: Sequence[str] = ()) -> list[str]:
        """The runtime that an artifact was proven on, if it is wanted. Raises Unsupported for unknown names."""
        for name in wanted:
            self.runtimes.get(name)
        proven = self.deployer.proof.runtime(artifact)
        return [proven] if not wanted or proven in wanted else []

    def known(self, version: Version, configuration: Configuration, work: Workload) -> Measurement | None:
        """The latest believable measurement of this cell on this node."""
        query = MeasurementQuery(
            model=version.model,
            version=version.number,
            configuration=configuration,
            workload=work,
            fingerprint=fingerprint().id,
        )
        found = [
            m
            for m in self.hub.measurements.find(query)
            if m.verdict.validity is not Validity.INVALID and m.purpose != ABANDONED
        ]
        return found[0] if found else None

    def curves(
        self, version: Version, artifacts: Sequence[Artifact], listener: Listener
    ) -> dict[tuple[str, str], tuple[CurvePoint, ...]]:
        """The in-process batch-latency curve of every artifact on every runtime that takes it."""
        found: dict[tuple[str, str], tuple[CurvePoint, ...]] = {}
        for k, artifact in enumerate(artifacts):
            for runtime in self.runtimes_for(artifact):
                curve = self._curve(
                    version, artifact, runtime, reporter(listener, str(artifact.target), k / len(artifacts))
                )
                if curve.error:
                    listener(Progress(Step.PROFILE, f"{artifact.target} on {runtime} left out: {curve.error}"))
                else:
                    found[artifact.id, runtime] = curve.points
        return found

    def _curve(self, version: Version, artifact: Artifact, runtime: str, report: Report) -> Curve:
        """Measured once on this node and kept, so that a repeated publish plans the same configurations."""
        threads = thread_choices(self.cores)
        batches = MAX_BATCHES if version.definition.signature.batched else (1,)
        identity = f"{artifact.id} {runtime} {threads} {batches} {fingerprint().id}"
        kept = self.work_dir / "curves" / f"{hashlib.sha256(identity.encode()).hexdigest()}.json"
        with suppress(FileNotFoundError, msgspec.MsgspecError):
            return msgspec.json.decode(kept.read_bytes(), type=Curve)
        report(f"in-process on {runtime}")
        local, rows = self.hub.artifacts.checkout(artifact), self.rows.model_rows(version)
        curve = measure_curve(local, runtime, rows, threads=threads, batches=batches, point_budget_s=0.12)
        if not curve.error:
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_suffix(f".{os.getpid()}")
            part.write_bytes(msgspec.json.encode(curve))
            part.replace(kept)
        return curve


@dataclass
class Bench:
    """Temporary services of one version, started when first needed and kept while the bench lives, or until `release`.

    Configurations measured together are measured block by block in turns, so that a disturbance hits all alike.
    """

    profiling: Profiling
    version: Version
    again: bool
    stack: ExitStack
    services: dict[Configuration, MeasuredService] = field(default_factory=dict)

    def release(self) -> None:
        """Stop the services started so far; those needed again are started again."""
        self.stack.close()
        self.services.clear()

    def measure(
        self,
        configurations: Sequence[Configuration],
        work: Workload,
        purpose: str,
        report: Report,
        *,
        hopeless: Hopeless | None = None,
    ) -> list[Measurement]:
        """Measure every configuration under `work`, in the given order; what this node measured before is reused.

        A configuration that does not start is left out, and reported, unless it is the only one: then BackendFailed.
        `hopeless`: as in `Profiler.measure_interleaved`.
        """
        found = {} if self.again else self._known(configurations, work)
        if found:
            report(f"{len(found)} of {len(configurations)} measured before, reused")
        fresh: list[MeasuredService] = []
        for configuration in configurations:
            if configuration in found:
                continue
            try:
                fresh.append(self._service(configuration, report))
            except BackendFailed as error:  # one broken configuration must not end the others
                if len(configurations) == 1:
                    raise
                report(f"{configuration.label} left out: {error}")
        for take in range(1 + RETAKES):
            if take:
                report(f"{len(fresh)} invalid, measured again ({take} of {RETAKES})")
            for measured in self._interleaved(fresh, work, purpose, report, hopeless or (lambda _: "")):
                found[measured.configuration] = measured
            fresh = [s for s in fresh if _to_be_retaken(found[s.configuration])]
            if not fresh:
                break
        return [found[c] for c in configurations if c in found]

    def _interleaved(
        self, services: Sequence[MeasuredService], work: Workload, purpose: str, report: Report, hopeless: Hopeless
    ) -> Iterator[Measurement]:
        if not services:
            return
        profiling = self.profiling
        groups = profiling.rows.groups(self.version)
        payloads = payloads_of(groups, work, profiling.rows.outer_signature(self.version).batched)
        cells = profiling.profiler.measure_interleaved(
            services,
            work,
            payloads,
            purpose=purpose,
            progress=lambda p: report(f"{p.stage} {p.done}/{p.total}"),
            hopeless=hopeless,
        )
        for cell in cells:
            yield profiling.hub.measurements.record(cell.measurement, cell.samples)
            shutil.rmtree(cell.samples.parent, ignore_errors=True)

    def _known(self, configurations: Sequence[Configuration], work: Workload) -> dict[Configuration, Measurement]:
        known = {c: self.profiling.known(self.version, c, work) for c in configurations}
        return {c: m for c, m in known.items() if m is not None}

    def _service(self, configuration: Configuration, report: Report) -> MeasuredService:
        if configuration not in self.services:
            report(f"starting {configuration.label}")
            name = f"{self.version.model}-profile-{uuid.uuid4().hex[:8]}"
            deployer = self.profiling.deployer
            started = time.monotonic()
            endpoint = self.stack.enter_context(deployer.temporary(self.version, configuration, name))
            self.services[configuration] = MeasuredService(
                endpoint,
                self.version.model,
                self.version.number,
                configuration,
                lambda: [r.pid for r in deployer.engine.replicas(name) if r.pid],
                round(time.monotonic() - started, 3),
                self.profiling.rows.outer_signature(self.version).sent_as,
            )
        return self.services[configuration]


def _to_be_retaken(measurement: Measurement) -> bool:
    return measurement.verdict.validity is Validity.INVALID and measurement.purpose != ABANDONED


def payloads_of(groups: Sequence[Tensors], work: Workload, batched: bool) -> list[dict[str, Tensor]]:
    """The requests a measurement cycles through. Raises InvalidInput for a batch of a model without a batch."""
    if batched:
        return mixed_payloads(groups, work.batch, PAYLOADS, work.seed)
    if work.batch != 1:
        raise InvalidInput(f"this model takes no batches, so not {work.batch} rows", hint="leave out --batch")
    return [dict(groups[0])]


def reporter(listener: Listener, label: str, fraction: float | None = None, step: Step = Step.PROFILE) -> Report:
    """A report function that puts `label` before each message."""
    return lambda message: listener(Progress(step, f"{label}: {message}", fraction))
