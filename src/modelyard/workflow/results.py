"""Measurements as results of a study: what an aim makes of their indicators."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from modelyard.domain.measurement import Interval, Measurement, Validity
from modelyard.domain.study import Aim, Goal, Objective, Result
from modelyard.profile.compare import block_logs
from modelyard.profile.max_rate import MaxRate
from modelyard.profile.samples import Samples
from modelyard.profile.statistics import quantile_of_t
from modelyard.workflow.choosing import meets, trustworthy

ONE_READING: Final = 0.02
"""Standard error, as a share, of memory, which is read once per block and has no interval."""


STEP_OF_RATE: Final = 0.03
"""Standard error, as a share, of a highest rate: it is found in steps of 5 %."""


def result_of(measurement: Measurement, aim: Aim, samples: Samples | None = None) -> Result:
    """What `measurement` is worth to `aim`; with `samples`, block by block too where the objective has that."""
    values = tuple(_value(measurement, objective) for objective in aim.objectives)
    return Result(
        losses=tuple(_loss(o, v) for o, v in zip(aim.objectives, values, strict=True)),
        errors=tuple(
            _error(v, measurement.workload.blocks) if v is not None and v.low is not None else ONE_READING
            for v in values
        ),
        values=tuple(Interval(math.nan) if v is None else v for v in values),
        p99_ms=measurement.indicators.p99_ms,
        feasible=_feasible(measurement, aim) and None not in values,
        verdict=str(measurement.verdict),
        measurements=(measurement.id,),
        blocks=() if samples is None else _blocks(measurement, samples, aim),
    )


def result_of_rate(found: MaxRate, aim: Aim) -> Result:
    """A highest rate as the result of a trial; where none was confirmed, the point is not feasible."""
    confirmed = [p.evidence.measurement for p in found.probes if p.met and p.load.rate_rps == found.rate_rps]
    tried = [p.evidence.measurement for p in found.probes]
    rate = found.rate_rps
    return Result(
        losses=(math.inf if rate is None else aim.objectives[0].loss(rate),),
        errors=(STEP_OF_RATE,),
        values=(Interval(math.nan if rate is None else rate),),
        p99_ms=found.p99_ms,
        feasible=rate is not None,
        verdict=str(found.stop) if rate is not None and not found.provisional else f"{found.stop}: {found.reason}",
        measurements=tuple(dict.fromkeys([*reversed(confirmed), *tried])),
    )


def infeasible(result: Result) -> Result:
    """The result of a point that was given up: it teaches, and is never chosen."""
    return replace(result, feasible=False)


def _value(m: Measurement, objective: Objective) -> Interval | None:
    """The objective's indicator; None where this measurement has none."""
    indicators = m.indicators
    if objective.goal is Goal.THROUGHPUT:
        return indicators.throughput_rps
    if objective.goal is Goal.COST:
        if not indicators.cost_known:
            return None
        return indicators.cost_interval or Interval(indicators.cost_per_million)
    if objective.goal is Goal.MEMORY:
        return Interval(float(indicators.memory_rss_bytes))
    latencies = {
        "mean": indicators.mean_ms,
        "p50": indicators.p50_ms,
        "p95": indicators.p95_ms,
        "p99": indicators.p99_ms,
    }
    return latencies[objective.statistic]


def _loss(objective: Objective, value: Interval | None) -> float:
    return math.inf if value is None else objective.loss(value.value)


def _error(value: Interval, blocks: int) -> float:
    """The standard error of the logarithm behind a t-interval over blocks."""
    if value.low is None or value.high is None or not 0 < value.low <= value.high:
        return ONE_READING
    return math.log(value.high / value.low) / (2 * quantile_of_t(blocks - 1)) if blocks > 1 else ONE_READING


def _feasible(m: Measurement, aim: Aim) -> bool:
    if m.verdict.validity is Validity.INVALID:
        return False
    if aim.slo is None:
        return m.indicators.error_fraction < 0.01
    return trustworthy(m) and meets(m, aim.slo)


def _blocks(m: Measurement, samples: Samples, aim: Aim) -> tuple[tuple[float, ...], ...]:
    """Losses of every block, to be paired with those of another configuration; empty where a block has no such."""
    if len(aim.objectives) > 1:
        return ()
    objective = aim.objectives[0]
    if objective.statistic == "mean":
        means = (block.latencies_ms(m.workload.timeout_s).mean() for block in samples.blocks())
        return tuple((objective.loss(float(mean)),) for mean in means)
    logs = block_logs(m, samples)
    name = "throughput" if objective.goal is Goal.THROUGHPUT else objective.statistic
    if name not in logs:
        return ()
    sign = -1.0 if objective.goal.maximised else 1.0
    return tuple((sign * float(value),) for value in logs[name])
