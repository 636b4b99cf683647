"""publish: register -> convert -> prove -> profile -> choose -> deploy -> one real prediction.

What was done before is reused, step by step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from modelyard.domain.artifacts import Artifact, Standing
from modelyard.domain.configuration import Configuration, Slo
from modelyard.domain.decision import Decision
from modelyard.domain.errors import BackendFailed, InvalidInput
from modelyard.domain.figures import figure
from modelyard.domain.measurement import Measurement
from modelyard.domain.versions import ModelRef, Version
from modelyard.domain.workload import Arrival, Workload
from modelyard.hub import Hub
from modelyard.profile.curve import CurvePoint
from modelyard.workflow.choosing import choose, confirmed, is_naive, meets, trustworthy
from modelyard.workflow.converting import Converting
from modelyard.workflow.deploying import Deployer
from modelyard.workflow.planning import HEADROOM, candidates, contenders, single, with_slo
from modelyard.workflow.profiling import Bench, Profiling, reporter
from modelyard.workflow.progress import Listener, Progress, Step
from modelyard.workflow.registering import Registering
from modelyard.workflow.reporting import Reporting
from modelyard.workflow.rows import Rows
from modelyard.workflow.samples import curl_line
from modelyard.workflow.values import Choice, DeployRequest, Publication, PublishRequest

FRESH_SEED = 1_000_003
"""Seed of the confirming measurement: none of the schedules that led to the choice."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much publish measures. `p99_requests` is per block of five; `capacity_s` the length of a closed block."""

    contenders: int
    capacity_blocks: int
    capacity_s: float
    p99_requests: int
    confirm_requests: int


EFFORTS = {
    "quick": Effort(contenders=2, capacity_blocks=2, capacity_s=0.5, p99_requests=100, confirm_requests=100),
    "normal": Effort(contenders=3, capacity_blocks=3, capacity_s=0.5, p99_requests=150, confirm_requests=300),
    "thorough": Effort(contenders=8, capacity_blocks=5, capacity_s=2.0, p99_requests=1000, confirm_requests=1000),
}
LATENCY_SHARES = (HEADROOM, 0.4, 0.2)
"""Shares of capacity at which the latency of a choice without an SLO is measured, until one is not saturated."""
CONCURRENCY = 16
"""Requests in flight when capacity is measured."""
CONFIRMATIONS = 3
"""How many of the best are re-measured with fresh seeds before publish says that none meets the SLO."""


@dataclass(frozen=True)
class Publisher:
    """The whole pipeline. What is already in the hub (version, conversions, measurements) is not done again."""

    hub: Hub
    registering: Registering
    converting: Converting
    profiling: Profiling
    deployer: Deployer
    reporting: Reporting
    rows: Rows
    sample_dir: Path
    clock: Callable[[], float] = time.monotonic

    def publish(self, what: str | Path, request: PublishRequest, *, trust: bool, listener: Listener) -> Publication:
        """Publish a manifest file or a registered version.

        Without any configuration that meets the SLO nothing is deployed and `choice.met` is False. Raises what the
        steps raise; a step that was finished before stays finished.
        """
        effort = EFFORTS.get(request.effort)
        if effort is None:
            raise InvalidInput(f"'{request.effort}' is not an effort", hint=f"use {', '.join(EFFORTS)}")
        seconds: dict[str, float] = {}
        with self._timed(seconds, Step.REGISTER):
            version, created = self._version(what, trust, listener)
        wanted = DeployRequest(
            name=request.name,
            host=request.host,
            http_port=request.http_port,
            grpc_port=request.grpc_port,
            replace=True,
        )
        if request.deploy:  # what would stop the last step is told before the long ones
            wanted = replace(wanted, serving=self.deployer.settings_kept(wanted.name or version.model))
            if wanted.serving is not None:
                kept = f"the service keeps 'replica' of {wanted.serving.file}; how its model runs is chosen anew"
                listener(Progress(Step.REGISTER, kept))
            running = self.deployer.check(version, wanted, same_model=True)
            if running is not None and running.others:
                listener(Progress(Step.REGISTER, f"its canary, shadow and labels will end: {running.name} is replaced"))
        slo = request.slo or version.definition.slo
        with self._timed(seconds, Step.CONVERT):
            conversions = self.converting.convert(version, request.targets or version.definition.convert, listener)
        artifacts = self.hub.artifacts.list(ModelRef(version.model, version.number))
        with self._timed(seconds, Step.PROFILE), self.profiling.alone(listener):
            choice = self._measure_and_choose(version, artifacts, slo, effort, listener)
            self.hub.decisions.record(decision_of(version, choice))
        service = prediction = curl = report = None
        if request.deploy and choice.chosen is not None and choice.met is not False:
            with self._timed(seconds, Step.DEPLOY):
                service = self.deployer.start(version, choice.chosen.configuration, wanted, listener)
            with self._timed(seconds, Step.PREDICT):
                sample = self.rows.sample(version)
                prediction = self.deployer.predict(service.name, sample)
                curl = curl_line(service, sample, self.sample_dir)
                listener(Progress(Step.PREDICT, "one real prediction made through the endpoint", 1.0))
        if request.html:
            with self._timed(seconds, Step.REPORT):
                report = str(self.reporting.write(version, Path(request.html)))
        return Publication(
            version, created, tuple(artifacts), tuple(conversions), choice, service, prediction, curl, report, seconds
        )

    def _version(self, what: str | Path, trust: bool, listener: Listener) -> tuple[Version, bool]:
        path = Path(what)
        if isinstance(what, str) and path.suffix not in (".yaml", ".yml") and not path.exists():
            return self.hub.versions.get(ModelRef.parse(what)), False
        registration = self.registering.register(path, trust=trust, listener=listener)
        return registration.version, registration.created

    def _measure_and_choose(
        self, version: Version, artifacts: Sequence[Artifact], slo: Slo | None, effort: Effort, listener: Listener
    ) -> Choice:
        servable = [a for a in artifacts if a.standing.servable]
        source = next(a for a in servable if a.standing is Standing.SOURCE)
        curves = self.profiling.curves(version, servable, listener)
        cells = self._cells(curves, servable, source, slo, effort, listener)
        slowest = max((min(p.wall_s for p in points) for points in curves.values()), default=0.0)
        with self.profiling.bench(version) as bench:
            work = closed(effort, slowest)
            capacities = bench.measure(cells, work, "publish", reporter(listener, work.label))
            if not capacities:
                raise BackendFailed(
                    f"no configuration of {version.ref} could be measured",
                    hint=f"yard profile {version.ref} shows each error",
                )
            if slo is None:
                return self._with_p99(bench, choose(None, [], capacities, source.id), effort, listener)
            rate = slo.rate_rps or round(HEADROOM * _naive_capacity(capacities, source.id), 1)
            able = [with_slo(c, slo) for c in self._able(capacities, rate, source.id, listener)]
            bench.release()
            work = open_loop(rate, effort.p99_requests, 0)
            measured = bench.measure(able, work, "publish", reporter(listener, work.label))
            choice = self._confirm(bench, Slo(slo.p99_ms, rate), measured, source.id, effort, listener)
            return replace(choice, considered=(*capacities, *choice.considered))

    def _cells(
        self,
        curves: Mapping[tuple[str, str], Sequence[CurvePoint]],
        servable: Sequence[Artifact],
        source: Artifact,
        slo: Slo | None,
        effort: Effort,
        listener: Listener,
    ) -> list[Configuration]:
        """The naive configuration first, then the contenders."""
        ranked = candidates(curves, {a.id: a for a in servable}, cores=self.profiling.cores, slo=slo)
        runtimes = self.profiling.runtimes_for(source)
        baseline = [single(source, runtimes[0], self.profiling.cores)] if runtimes else []
        chosen = [c for c in contenders(ranked, effort.contenders) if c not in baseline]
        total = len(ranked)
        listener(Progress(Step.PROFILE, f"{total} configurations planned, {len(chosen)} and the naive one measured"))
        return baseline + chosen

    def _able(
        self, capacities: Sequence[Measurement], rate: float, source: str, listener: Listener
    ) -> list[Configuration]:
        """What can carry the rate at all; the naive one stays in for the comparison."""
        able = []
        for m in capacities:
            carries = m.indicators.throughput_rps.value
            if carries >= rate or is_naive(m, source):
                able.append(m.configuration)
            else:
                text = f"{m.configuration.label} carries {carries:.0f} of {rate:g} rps: left out"
                listener(Progress(Step.PROFILE, text))
        return able

    def _confirm(
        self, bench: Bench, slo: Slo, measured: list[Measurement], source: str, effort: Effort, listener: Listener
    ) -> Choice:
        """Re-measure the best with fresh seeds; what fails its confirmation is not chosen."""
        pool = list(measured)
        dropped: list[Measurement] = []
        for _ in range(CONFIRMATIONS):
            choice = choose(slo, pool, [], source)
            if choice.chosen is None or not choice.met:
                break
            candidate = choice.chosen.configuration
            work = open_loop(slo.rate_rps or 1.0, effort.confirm_requests, FRESH_SEED)
            report = reporter(listener, f"confirming {candidate.label} with fresh seeds", step=Step.CHOOSE)
            again = bench.measure([candidate], work, "confirm", report)[0]
            if trustworthy(again) and meets(again, slo):
                return confirmed(choice, again, [*measured, *dropped], dropped)
            report(f"did not hold {slo} again: {again.verdict}, p99 {again.indicators.p99_ms} ms")
            dropped.append(again)
            pool = [again if m.configuration == candidate else m for m in pool]
        return replace(choose(slo, pool, [], source), considered=(*measured, *dropped))

    def _with_p99(self, bench: Bench, choice: Choice, effort: Effort, listener: Listener) -> Choice:
        """Without an SLO: the chosen configuration's latency, open loop, at as much of its capacity as it holds."""
        if choice.chosen is None:
            return choice
        cell = choice.chosen.configuration
        tried: list[Measurement] = []
        for share in LATENCY_SHARES:
            rate = round(share * choice.chosen.indicators.throughput_rps.value, 1)
            work = open_loop(rate, effort.p99_requests, FRESH_SEED)
            tried += bench.measure([cell], work, "confirm", reporter(listener, cell.label, step=Step.CHOOSE))
            latency = tried[-1]
            considered = (*choice.considered, *tried)
            if trustworthy(latency) and latency.indicators.p99_ms:
                text = f"; p99 {latency.indicators.p99_ms} ms at {figure(rate)} rps ({share:.0%} of its capacity)"
                return replace(choice, chosen=latency, reason=choice.reason + text, considered=considered)
        text = "; no p99 that can be trusted at any rate tried, see the verdicts"
        return replace(choice, reason=choice.reason + text, considered=considered)

    @contextmanager
    def _timed(self, seconds: dict[str, float], step: Step) -> Iterator[None]:
        started = self.clock()
        try:
            yield
        finally:
            seconds[str(step)] = round(self.clock() - started, 2)


def decision_of(version: Version, choice: Choice) -> Decision:
    """The choice as the hub keeps it."""
    return Decision(
        id="",
        model=version.model,
        version=version.number,
        chosen=choice.chosen.id if choice.chosen else None,
        naive=choice.naive.id if choice.naive else None,
        considered=tuple(dict.fromkeys(m.id for m in choice.considered)),
        slo=choice.slo,
        met=choice.met,
        reason=choice.reason,
        cost_ratio=choice.cost_ratio,
    )


def closed(effort: Effort, slowest_s: float) -> Workload:
    """The workload that finds capacity: blocks long enough for two rounds of the slowest, in powers of two."""
    rounds = 2 * CONCURRENCY * slowest_s / effort.capacity_s
    duration = effort.capacity_s * 2 ** max(0, math.ceil(math.log2(rounds)) if rounds > 0 else 0)
    return Workload(
        Arrival.CLOSED,
        concurrency=CONCURRENCY,
        blocks=effort.capacity_blocks,
        requests=100_000,
        duration_s=duration,
    )


def open_loop(rate: float, requests: int, seed: int) -> Workload:
    """The workload that gives latency: Poisson arrivals, five blocks, at most 60 s a block."""
    return Workload(Arrival.POISSON, rate_rps=rate, blocks=5, requests=requests, duration_s=60.0, seed=seed)


def _naive_capacity(capacities: Sequence[Measurement], source: str) -> float:
    mine = [m for m in capacities if is_naive(m, source)] or list(capacities)
    return mine[0].indicators.throughput_rps.value
