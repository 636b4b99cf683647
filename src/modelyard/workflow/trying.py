"""A point of a study on this machine: its service for the time of a trial, the load of the aim, the outcome."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from modelyard.domain.configuration import Slo
from modelyard.domain.errors import BackendFailed, InvalidInput, Unavailable, Unsupported
from modelyard.domain.measurement import Measurement
from modelyard.domain.study import Aim, Point, TrialState
from modelyard.domain.versions import Version
from modelyard.domain.workload import Arrival, Workload
from modelyard.profile.profiler import ABANDONED
from modelyard.profile.samples import Samples
from modelyard.profile.slo_evidence import Limits
from modelyard.profile.statistics import REQUESTS_FOR_P99, BlockSummary
from modelyard.tune.ports import Outcome
from modelyard.workflow.max_rate import MaxRateRequest, search_on
from modelyard.workflow.profiling import Profiling
from modelyard.workflow.progress import Listener, Progress, Step
from modelyard.workflow.results import infeasible, result_of, result_of_rate
from modelyard.workflow.spaces import Meaning
from modelyard.workflow.values import TuneRequest

CLOSED_BLOCK_S: Final = 1.0
OPEN_BLOCK_S: Final = 10.0
ANY_RATE_RPS: Final = 1.0
_MANY: Final = 1_000_000
"""Requests of a block that its duration ends: a closed loop of a fast service makes 100,000 a second."""
_KEPT_UP: Final = 0.9


@dataclass(frozen=True)
class Trying:
    """Measures points of one study. Not thread-safe: measurements on one machine disturb each other."""

    profiling: Profiling
    version: Version
    meaning: Meaning
    aim: Aim
    workload: Workload
    listener: Listener

    def report(self, message: str) -> None:
        """Tell what is being done for the trial."""
        self.listener(Progress(Step.PROFILE, message))

    def measure(self, point: Point) -> Outcome:
        """One trial. A service that does not start, or that the first blocks show to be hopeless, is an outcome."""
        if self.aim.seeks_rate:
            return self._highest_rate(point, self.workload.seed, again=False)
        configuration = self.meaning.configuration(point)
        work = replace(self.workload, protocol=self.meaning.protocol(point))
        with self.profiling.bench(self.version) as bench:
            found = bench.measure([configuration], work, "tune", self.report, hopeless=self._hopeless)
        return self._outcome(found[0])

    def confirm(self, points: Sequence[Point], seed: int) -> list[Outcome]:
        """Measure points block by block in turns, under the same fresh schedules; highest rates one after the other."""
        if self.aim.seeks_rate:
            return [self._rate_again(point, seed) for point in points]
        groups: dict[Workload, list[int]] = {}
        for place, point in enumerate(points):
            work = replace(self.workload, protocol=self.meaning.protocol(point), seed=seed)
            groups.setdefault(work, []).append(place)
        outcomes: dict[int, Outcome] = {}
        for work, places in groups.items():  # one, unless the protocol is a knob
            outcomes.update(self._confirmed([(k, points[k]) for k in places], work))
        return [outcomes[k] for k in range(len(points))]

    def _confirmed(self, points: Sequence[tuple[int, Point]], work: Workload) -> dict[int, Outcome]:
        wanted = {k: self.meaning.configuration(p) for k, p in points}
        try:
            with self.profiling.bench(self.version, again=True) as bench:
                measured = bench.measure(list(dict.fromkeys(wanted.values())), work, "confirm", self.report)
        except (BackendFailed, Unavailable, Unsupported) as error:  # the only one of them
            return {k: Outcome(TrialState.FAILED, detail=str(error)) for k in wanted}
        by_configuration = {m.configuration: m for m in measured}
        missing = Outcome(TrialState.FAILED, detail="it did not start again")
        return {k: self._outcome(by_configuration[c]) if c in by_configuration else missing for k, c in wanted.items()}

    def _rate_again(self, point: Point, seed: int) -> Outcome:
        try:
            return self._highest_rate(point, seed, again=True)
        except (BackendFailed, Unavailable, Unsupported) as error:
            return Outcome(TrialState.FAILED, detail=str(error))

    def _highest_rate(self, point: Point, seed: int, *, again: bool) -> Outcome:
        """The highest rate of a point under the SLO; a search of its own, each of its measurements in the hub."""
        slo, longest_s = Slo(self.aim.slo_ms or 0.0), self.workload.duration_s
        request = MaxRateRequest(
            slo,
            protocol=self.meaning.protocol(point),
            seed=seed,
            blocks=self.workload.blocks,
            limits=Limits(
                requests=self.workload.requests,
                confirm_block_s=min(OPEN_BLOCK_S, longest_s),
                most_block_s=longest_s,
            ),
        )
        with self.profiling.bench(self.version, again=again) as bench:
            found = search_on(bench, self.meaning.configuration(point), slo, request, self.listener)
        return Outcome(TrialState.MEASURED, result_of_rate(found, self.aim))

    def _outcome(self, measured: Measurement) -> Outcome:
        samples = Samples.load(self.profiling.hub.measurements.samples(measured))
        result = result_of(measured, self.aim, samples)
        if measured.purpose == ABANDONED:
            return Outcome(TrialState.ABANDONED, infeasible(result), str(measured.verdict))
        return Outcome(TrialState.MEASURED, result)

    def _hopeless(self, blocks: Sequence[BlockSummary]) -> str:
        """Why further blocks cannot make a configuration good, or nothing: it fails, or is far beyond its capacity."""
        done, sent = sum(b.ok for b in blocks), sum(b.requests for b in blocks)
        if done < _KEPT_UP * sent:
            return f"{sent - done} of {sent} requests failed"
        if not self.workload.open_loop:
            return ""
        kept_up = sum(b.completed_ratio * b.requests for b in blocks) / sent
        if kept_up < _KEPT_UP:
            return f"it completed {kept_up:.0%} of what was offered"
        slo_ms = self.aim.slo_ms
        if slo_ms is not None and min(b.p50_ms for b in blocks) > slo_ms:
            return f"half of its requests took longer than the {slo_ms:g} ms that 99 % are to keep"
        return ""


def workload_for(aim: Aim, request: TuneRequest) -> Workload:
    """What every trial is measured under; only its protocol may be a knob.

    The goal `rate` looks for its rate: there the workload has `ANY_RATE_RPS`, in place of each that is tried. Raises
    InvalidInput where no trial could be feasible: blocks of which there is no p99, or no interval.
    """
    if aim.concurrency is not None:
        return Workload(
            Arrival.CLOSED,
            concurrency=aim.concurrency,
            blocks=request.blocks,
            requests=_MANY,
            duration_s=request.duration_s or CLOSED_BLOCK_S,
            seed=request.seed,
        )
    if aim.slo_ms is not None and request.blocks < 2:
        raise InvalidInput(
            "one block shows no SLO to be kept", why="that takes an interval, which is over blocks", hint="--blocks 5"
        )
    needs_p99 = aim.slo_ms is not None or any(o.statistic == "p99" for o in aim.objectives)
    work = Workload(
        Arrival.POISSON,
        rate_rps=aim.rate_rps or ANY_RATE_RPS,
        blocks=request.blocks,
        requests=request.requests,
        duration_s=request.duration_s or _block_s(aim, request.blocks, needs_p99=needs_p99),
        seed=request.seed,
    )
    if needs_p99:
        _check_p99(work, aim)
    return work


def _block_s(aim: Aim, blocks: int, *, needs_p99: bool) -> float:
    """How long a block is where nothing is said: at low rates as long as a p99 takes."""
    if aim.rate_rps is None:
        return Limits().most_block_s
    least_s = (math.ceil(REQUESTS_FOR_P99 / blocks) + 1) / aim.rate_rps
    return max(OPEN_BLOCK_S, least_s) if needs_p99 else OPEN_BLOCK_S


def _check_p99(work: Workload, aim: Aim) -> None:
    """Raise InvalidInput where the blocks are too short for a p99 whatever is measured."""
    within = int(aim.rate_rps * work.duration_s) if aim.rate_rps is not None else work.requests
    requests = work.blocks * min(work.requests, within)
    if requests < REQUESTS_FOR_P99:
        raise InvalidInput(
            f"a trial would have {requests} requests, and a p99 takes {REQUESTS_FOR_P99}",
            why=f"{work.blocks} blocks of {min(work.requests, within)} requests",
            hint="more --blocks, a longer --duration, or more --requests",
        )
