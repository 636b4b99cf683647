"""One cell being measured: takes blocks on demand, so that several cells can be interleaved, then sums up."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from modelyard.domain.configuration import Configuration
from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.domain.measurement import ClientHealth, Fingerprint, Indicators, Interval, Measurement
from modelyard.domain.services import Endpoint
from modelyard.domain.tensors import Tensors
from modelyard.domain.workload import Workload
from modelyard.profile import recording, sentinel
from modelyard.profile.bursts import Bursts
from modelyard.profile.kept_blocks import KeptBlock, KeptBlocks
from modelyard.profile.plan import BlockDone, WarmedUp, WarmUpRule
from modelyard.profile.price import Price
from modelyard.profile.process import ClientProcess, write_plan
from modelyard.profile.requests import encode
from modelyard.profile.resources import Usage, UsageMeter, wait_until_idle
from modelyard.profile.samples import OK, Samples
from modelyard.profile.scenarios import scenario_result
from modelyard.profile.stages import Snapshot, snapshot, stage_times
from modelyard.profile.stalls import StallWatch
from modelyard.profile.statistics import (
    REQUESTS_FOR_P99,
    REQUESTS_FOR_P999,
    BlockSummary,
    latency_interval,
    log_interval,
    percentile,
    summarise,
)
from modelyard.profile.verdicts import Circumstances, Rules, judge

_OPEN_LOOP_CONNECTIONS = 64
"""More than a service that keeps up has in flight; the pool grows where they do not suffice."""
_EACH = 128
"""Connections to each of several replicas, on average."""
_MOST = 1024


@dataclass(frozen=True, slots=True)
class MeasuredService:
    """What is measured: where it answers, as what, in which configuration, and which processes are its replicas.

    `datatypes`: inputs to send as another datatype than that of their arrays (`Signature.sent_as`).
    """

    endpoint: Endpoint
    model: str
    version: int
    configuration: Configuration
    replica_pids: Callable[[], list[int]]
    cold_start_s: float | None = None
    datatypes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MeasuredCell:
    """A measurement and the file of its raw samples (the caller stores it and may then delete it)."""

    measurement: Measurement
    samples: Path


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all cells of a profiler share."""

    price: Price
    rules: Rules
    warm_up: WarmUpRule
    fingerprint: Fingerprint
    now: Callable[[], datetime]
    client_cpus: tuple[int, ...] = ()
    traces: Path | None = None


@dataclass(frozen=True, slots=True)
class _Block:
    samples: Samples
    done: BlockDone
    usage: Usage
    stages: tuple[Snapshot, Snapshot]
    noisy: bool


@dataclass(slots=True)
class _Tally:
    blocks: list[_Block] = field(default_factory=list)
    discarded: int = 0
    canaries_s: list[float] = field(default_factory=list)
    stalled_s: float = 0.0


class Cell:
    """Context manager around the load client of one cell: `warm_up`, `take_block` for each block, `finish`."""

    def __init__(
        self,
        directory: Path,
        target: MeasuredService,
        workload: Workload,
        payloads: Sequence[Tensors],
        conditions: Conditions,
    ) -> None:
        """Encode the payloads and start the client. Raises InvalidInput, Unavailable."""
        if not payloads:
            raise InvalidInput("a measurement needs at least one payload", hint="give the version a dataset or samples")
        host = f"{target.endpoint.host}:{target.endpoint.http_port}"
        encoded = [
            encode(
                p,
                workload.protocol,
                model=target.model,
                version=target.version,
                host=host,
                datatypes=target.datatypes,
            )
            for p in payloads
        ]
        self.target, self.workload = target, workload
        self._directory, self._conditions = directory, conditions
        self._plan = write_plan(
            directory,
            target.endpoint,
            workload,
            encoded,
            warm_up=conditions.warm_up,
            cpus=conditions.client_cpus,
            connections=connections(workload, target.configuration.replicas),
            trace_file=trace_file(workload, conditions.traces),
        )
        self._tally = _Tally()
        self._kept = KeptBlocks(directory)
        self._warmed: WarmedUp | None = None
        self._began = sentinel.Pulse.take()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._client = stack.enter_context(ClientProcess(self._plan))
            self._watch = stack.enter_context(StallWatch(self._directory / "stalls"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def warm_up(self) -> None:
        """Warm the service up by the rule and take the canary's reference."""
        self._warmed = self._client.warm_up()
        self._tally.canaries_s += [sentinel.canary_s() for _ in range(3)]

    def take_block(self, number: int) -> None:
        """Measure block `number`; again while the machine was disturbed, by the sentinel, and retakes are left.

        A block that a killed process finished a short time ago is taken as it is.
        """
        kept = self._kept.find(number)
        if kept is not None:
            self._tally.canaries_s += kept.canaries_s
            samples = Samples.load(Path(kept.done.samples))
            self._tally.blocks.append(_Block(samples, kept.done, kept.usage, kept.stages, kept.noisy))
            return
        rules = self._conditions.rules
        while True:
            block = self._measure(number)
            if not block.noisy or self._tally.discarded >= rules.max_retakes:
                break
            self._tally.discarded += 1
        self._tally.blocks.append(block)
        canaries = tuple(self._tally.canaries_s[-2:])
        self._kept.keep(number, KeptBlock(block.done, block.usage, block.stages, block.noisy, canaries, time.time()))

    @property
    def summaries(self) -> list[BlockSummary]:
        """What the blocks taken so far say, each by itself."""
        workload = self.workload
        return [
            summarise(b.samples, open_loop=workload.open_loop, timeout_s=workload.timeout_s) for b in self._tally.blocks
        ]

    def finish(self, purpose: str, *, abandoned: str = "") -> MeasuredCell:
        """Sum up the blocks taken; write the raw samples. `abandoned`: why there are no more blocks, if there are not.

        The verdict begins with it.
        """
        path = self._directory / "samples.npz"
        samples = Samples.join([block.samples for block in self._tally.blocks])
        samples.save(path)
        measurement = self._measurement(samples, purpose)
        if abandoned:
            verdict = replace(measurement.verdict, reasons=(abandoned, *measurement.verdict.reasons))
            measurement = replace(measurement, verdict=verdict)
        return MeasuredCell(measurement, path)

    def _measure(self, number: int) -> _Block:
        pids = self.target.replica_pids()
        before = sentinel.canary_s()
        self._client.lead_in()  # the canary, and other services between the blocks, left cold caches
        stats = snapshot(self.target.endpoint, pids)
        began = time.monotonic()
        with UsageMeter(self.target.replica_pids, self._conditions.client_cpus) as meter:
            done = self._client.run_block(number)
        stalled_s = self._watch.stalled_s(began, time.monotonic())
        stats_after = snapshot(self.target.endpoint, pids)
        wait_until_idle(pids)
        after = sentinel.canary_s()
        self._tally.canaries_s += [before, after]
        self._tally.stalled_s += stalled_s
        rules = self._conditions.rules
        slow = max(before, after) > min(self._tally.canaries_s) * rules.canary_tolerance
        return _Block(
            samples=Samples.load(Path(done.samples)),
            done=done,
            usage=meter.usage,
            stages=(stats, stats_after),
            noisy=slow or stalled_s > max(rules.max_stalled_s, rules.max_stalled * done.wall_s),
        )

    def _measurement(self, samples: Samples, purpose: str) -> Measurement:
        blocks, workload, conditions = self._tally.blocks, self.workload, self._conditions
        summaries = self.summaries
        client = client_health(samples, blocks, summaries, workload)
        indicators = self._indicators(samples, summaries)
        verdict = judge(
            summaries,
            client,
            p50_ms=indicators.p50_ms.value,
            concurrency=None if workload.open_loop else workload.concurrency,
            circumstances=Circumstances(
                warmed_up=self._warmed is not None and self._warmed.settled,
                noisy_blocks=sum(b.noisy for b in blocks),
                replicas_changed=any(b.usage.replicas_changed for b in blocks),
                cpu_seen=any(b.usage.cpu_s > 0 for b in blocks),
                stationary=workload.stationary,
                bursts=Bursts.count([b.samples.latencies_ms(workload.timeout_s) for b in blocks])
                if workload.open_loop
                else None,
            ),
            rules=conditions.rules,
        )
        return Measurement(
            id=uuid.uuid4().hex,
            model=self.target.model,
            version=self.target.version,
            configuration=self.target.configuration,
            workload=workload,
            fingerprint=conditions.fingerprint,
            indicators=indicators,
            verdict=verdict,
            client=client,
            blocks_discarded=self._tally.discarded,
            purpose=purpose,
            created_at=conditions.now().isoformat(timespec="seconds"),
            environment=self._environment(),
        )

    def _environment(self) -> dict[str, str]:
        price = self._conditions.price
        noise = sentinel.environment(self._began, sentinel.Pulse.take(), self._tally.canaries_s)
        return {
            **noise,
            "price": f"{price.per_core_hour:g} {price.currency} per core-hour: {price.source} ({price.as_of})",
            "warm_up_p50s_ms": " ".join(f"{p50:.4g}" for p50 in (self._warmed.p50s_ms if self._warmed else ())),
            "stalled_s": f"{self._tally.stalled_s:.4f}" if self._watch.available else "",
            "client_scheduling": self._warmed.scheduling if self._warmed else "",
        }

    def _indicators(self, samples: Samples, summaries: Sequence[BlockSummary]) -> Indicators:
        blocks, timeout_s = self._tally.blocks, self.workload.timeout_s
        parts = [b.samples for b in blocks]
        ok, count = int(samples.ok.sum()), len(samples)
        cpu_s, wall_s = sum(b.usage.cpu_s for b in blocks), sum(b.done.wall_s for b in blocks)
        core_s = cpu_s / ok if ok else 0.0
        throughput = log_interval([s.throughput_rps for s in summaries])
        warmed = self._warmed
        return Indicators(
            throughput_rps=throughput,
            p50_ms=latency_interval(parts, 0.50, timeout_s),
            p95_ms=latency_interval(parts, 0.95, timeout_s),
            p99_ms=latency_interval(parts, 0.99, timeout_s) if count >= REQUESTS_FOR_P99 else None,
            p999_ms=percentile(samples.latencies_ms(timeout_s), 0.999) if count >= REQUESTS_FOR_P999 else None,
            memory_rss_bytes=max(b.usage.rss_bytes for b in blocks),
            cpu_cores=cpu_s / wall_s if wall_s else 0.0,
            core_s_per_request=core_s,
            cost_per_million=self._conditions.price.per_million(core_s),
            error_fraction=1 - ok / count,
            requests=count,
            rows_per_s=throughput.value * self.workload.batch,
            time_to_first_response_ms=warmed.first_response_ms if warmed and warmed.first_status == OK else None,
            cold_start_s=self.target.cold_start_s,
            stages=stage_times([b.stages for b in blocks], self.target.model, self.target.version),
            cost_interval=cost_interval(
                [(b.usage.cpu_s, int(b.samples.ok.sum())) for b in blocks], self._conditions.price
            ),
            scenario=scenario_result(self.workload, parts, self.target.configuration.queue.slo_ms),
            mean_ms=log_interval(
                [float(part.latencies_ms(timeout_s).mean()) for part in parts],
                centre=float(samples.latencies_ms(timeout_s).mean()),
            ),
        )


def cost_interval(blocks: Sequence[tuple[float, int]], price: Price) -> Interval | None:
    """Cost of a million requests over all blocks, from (CPU seconds, successes) of each; None where one has neither."""
    if len(blocks) < 2 or price.per_core_hour == 0 or any(cpu_s <= 0 or ok == 0 for cpu_s, ok in blocks):
        return None
    together = sum(cpu_s for cpu_s, _ in blocks) / sum(ok for _, ok in blocks)
    return log_interval([price.per_million(cpu_s / ok) for cpu_s, ok in blocks], centre=price.per_million(together))


def trace_file(workload: Workload, traces: Path | None) -> Path | None:
    """Where the recording of the workload's trace is kept; None where it has no trace. Raises NotFound."""
    if workload.trace is None:
        return None
    path = recording.path_of(traces or Path(), workload.trace.digest)
    if not path.exists():
        raise NotFound(f"trace {workload.trace.digest[:12]} is not kept here", hint="give its file: --trace FILE")
    return path


def connections(workload: Workload, replicas: int) -> int:
    """Connections the client keeps and uses in turn.

    Replicas behind one port get connections by the kernel's hash: with few of them one replica may get most. So several
    replicas get many each, also in a closed loop (where the number of requests in flight stays what it is): with 128
    the share of one of two has a standard deviation of 3 %.
    """
    if replicas > 1:
        return max(workload.concurrency, min(_EACH * replicas, _MOST))
    return _OPEN_LOOP_CONNECTIONS if workload.open_loop else workload.concurrency


def client_health(
    samples: Samples, blocks: Sequence[_Block], summaries: Sequence[BlockSummary], workload: Workload
) -> ClientHealth:
    """What the client itself did: how late it sent, at which rate, with how much CPU."""
    wall_s = sum(b.done.wall_s for b in blocks)
    return ClientHealth(
        send_lag_p99_ms=percentile(samples.dispatched_s - samples.scheduled_s, 0.99) * 1e3,
        offered_rps=float(np.mean([s.offered_rps for s in summaries])),
        scheduled_rps=float(np.mean([s.scheduled_rps for s in summaries])) if workload.open_loop else None,
        cpu_cores=sum(b.done.client_cpu_s for b in blocks) / wall_s if wall_s else 0.0,
    )
