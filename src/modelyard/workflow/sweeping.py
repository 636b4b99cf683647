"""A sweep: every configuration under every workload, one after the other, whatever becomes of a single cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from modelyard.domain.configuration import Configuration
from modelyard.domain.errors import InvalidInput, ModelyardError
from modelyard.domain.measurement import Measurement
from modelyard.domain.versions import Version
from modelyard.domain.workload import Workload
from modelyard.workflow.progress import Listener, Progress, Step
from modelyard.workflow.values import FailedCell, SkippedConfiguration, Sweep

if TYPE_CHECKING:
    from modelyard.workflow.profiling import Bench, Profiling


@dataclass
class Sweeping:
    """Measures the cells of one sweep. A configuration's service is started once, for all of its workloads.

    What the hub has of a cell is reused, so that a sweep that was killed goes on where it was. A cell that fails is
    noted and the next one measured, unless it is the only one: then its error is the caller's. Where a verdict asks for
    longer blocks the cell is measured again with those, up to `longest_s` seconds each (0: never).
    """

    profiling: Profiling
    version: Version
    workloads: Sequence[Workload]
    listener: Listener
    longest_s: float = 0.0
    measured: list[Measurement] = field(default_factory=list)
    failed: list[FailedCell] = field(default_factory=list)
    total: int = 0

    def run(self, configurations: Sequence[Configuration], *, again: bool) -> Sweep:
        """Measure what this machine can hold. Raises InvalidInput where it can hold nothing."""
        able, skipped = feasible(configurations, self.profiling.cores)
        for found in skipped:
            self.listener(Progress(Step.PROFILE, f"skipped {found}"))
        if not able:
            raise InvalidInput(
                "this machine can hold no configuration of the sweep",
                why="; ".join(map(str, skipped)),
                hint="ask for fewer --threads or --replicas",
            )
        self.total = len(able) * len(self.workloads)
        with self.profiling.alone(self.listener):
            for configuration in able:
                with self.profiling.bench(self.version, again=again) as bench:
                    self._configuration(bench, configuration)
        return Sweep(tuple(self.measured), tuple(self.failed), tuple(skipped))

    def _configuration(self, bench: Bench, configuration: Configuration) -> None:
        for number, work in enumerate(self.workloads):
            done = len(self.measured) + len(self.failed)
            label = f"cell {done + 1}/{self.total} {configuration.label}, {work.label}"
            share = done / self.total if self.total > 1 else None  # of a single cell nothing is known

            def report(message: str, label: str = label, share: float | None = share) -> None:
                self.listener(Progress(Step.PROFILE, f"{label}: {message}", share))

            try:
                self.measured += self._cell(bench, configuration, work, report)
            except ModelyardError as error:
                if self.total == 1:
                    raise
                report(f"failed: {error}")
                started = configuration in bench.services
                left = [work] if started else self.workloads[number:]
                self.failed += [FailedCell(configuration, each, error) for each in left]
                if not started:  # nor will it for the other workloads
                    return
                bench.release()  # the next cell has a service that nothing happened to

    def _cell(
        self, bench: Bench, configuration: Configuration, work: Workload, report: Callable[[str], None]
    ) -> Sequence[Measurement]:
        while True:
            found = bench.measure([configuration], work, "profile", report)
            longer = lengthened(work, found[0].verdict.requests_wanted, self.longest_s)
            if longer is None:
                return found
            report(f"again, in blocks of {longer.requests:,} requests")
            work = longer


def lengthened(work: Workload, wanted: int, longest_s: float) -> Workload | None:
    """The workload in blocks of `wanted` requests, or as many as `longest_s` seconds have; None where that is no more.

    Only of loads whose blocks are alike, however long: not of a ramp, a trace or an MLPerf scenario.
    """
    if work.rate_rps is None or not work.stationary or work.scenario is not None:
        return None
    requests = min(wanted, int(longest_s * work.rate_rps))
    if requests <= min(work.requests, work.duration_s * work.rate_rps):
        return None
    return replace(work, requests=requests, duration_s=max(work.duration_s, longest_s))


def feasible(
    configurations: Sequence[Configuration], cores: int
) -> tuple[list[Configuration], list[SkippedConfiguration]]:
    """Those whose replicas have a core for each of their threads, and the others with the reason."""
    able: list[Configuration] = []
    skipped: list[SkippedConfiguration] = []
    for c in dict.fromkeys(configurations):
        if (needed := c.replicas * c.threads) <= cores:
            able.append(c)
        else:
            reason = f"replicas x threads = {c.replicas} x {c.threads} needs {needed} cores, this machine has {cores}"
            skipped.append(SkippedConfiguration(c, reason))
    return able, skipped
