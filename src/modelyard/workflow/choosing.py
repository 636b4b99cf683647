"""The decision: the cheapest measured configuration whose upper confidence bound meets the SLO.

Pure functions over measurements. Without an SLO: the best throughput per core, with its p99 shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from modelyard.domain.configuration import Slo
from modelyard.domain.figures import figure
from modelyard.domain.measurement import Measurement, Validity
from modelyard.workflow.values import Choice


def choose(
    slo: Slo | None,
    measured: Sequence[Measurement],
    capacities: Sequence[Measurement],
    naive_artifact: str | None,
) -> Choice:
    """Choose among `measured` (open loop, the SLO's numbers) or, without an SLO, `capacities` (closed loop).

    `naive_artifact` marks the naive deployment among them (its configuration has that artifact, one replica, no
    batching). Invalid and saturated measurements are never chosen.
    """
    pool = list(capacities if slo is None else measured)
    naive = next((m for m in pool if is_naive(m, naive_artifact)), None)
    if slo is None:
        return _by_throughput(pool, capacities, naive)
    trusted = [m for m in pool if trustworthy(m)]
    meeting = [m for m in trusted if meets(m, slo)]
    if meeting:
        best = min(meeting, key=lambda m: (_cost(m), _p99(m)))
        others = len(meeting) - 1
        which = f"the cheapest of {len(meeting)} that meet" if others else f"the only one of {len(pool)} that meets"
        reason = f"{which} {slo}: p99 {best.indicators.p99_ms} ms, upper bound {figure(_upper(best))} ms"
        tied = sum(m is not best and costs_overlap(m, best) for m in meeting)
        if tied:
            reason += f" (no difference in cost shown to {tied} other{'s' if tied > 1 else ''} that meet it)"
        return Choice(best, naive, slo, True, reason, tuple(pool), cost_ratio(naive, best))
    return _none_meets(slo, pool, trusted, naive)


def _none_meets(slo: Slo, pool: list[Measurement], trusted: list[Measurement], naive: Measurement | None) -> Choice:
    if not pool:
        return Choice(None, None, slo, False, "nothing could be measured", ())
    if not trusted:
        saturated = sum(m.verdict.saturated for m in pool)
        invalid = sum(m.verdict.validity is Validity.INVALID for m in pool)
        reason = (
            f"none of {len(pool)} measurements can be trusted: {invalid} invalid, {saturated} saturated; "
            "each verdict says why. On a busy machine, publish again when it is quieter"
        )
        return Choice(None, naive, slo, False, reason, tuple(pool))
    best = min(trusted, key=lambda m: (_upper(m), _cost(m)))
    reason = (
        f"none of {len(pool)} configurations meets {slo}; the closest is {best.configuration.label} "
        f"with p99 {best.indicators.p99_ms} ms"
    )
    return Choice(best, naive, slo, False, reason, tuple(pool), cost_ratio(naive, best))


def _by_throughput(pool: list[Measurement], everything: Sequence[Measurement], naive: Measurement | None) -> Choice:
    trusted = [m for m in pool if m.verdict.validity is not Validity.INVALID]
    if not trusted:
        return Choice(None, naive, None, None, "nothing could be measured", tuple(everything))
    best = max(trusted, key=throughput_per_core)
    per_core = throughput_per_core(best)
    reason = (
        f"no SLO given: the best throughput per core, {per_core:{',.0f' if per_core >= 100 else '.3g'}} rps per core"
    )
    return Choice(best, naive, None, None, reason, tuple(everything), cost_ratio(naive, best))


def confirmed(
    choice: Choice, again: Measurement, considered: Sequence[Measurement], dropped: Sequence[Measurement]
) -> Choice:
    """The choice after its configuration held the SLO again under fresh seeds: `again` is now its number.

    `dropped` are confirmations that others failed. The cost against naive stays that of the interleaved measurements.
    """
    reason = f"{choice.reason}; confirmed with fresh seeds: p99 {again.indicators.p99_ms} ms"
    for m in dropped:
        reason += f"; {m.configuration.label} met it first but not again: p99 {m.indicators.p99_ms} ms"
    return replace(choice, chosen=again, reason=reason, considered=(*considered, again))


def is_naive(m: Measurement, naive_artifact: str | None) -> bool:
    """Whether `m` measured the naive deployment: the source artifact, one replica, no batching."""
    c = m.configuration
    return c.artifact == naive_artifact and c.replicas == 1 and c.batching.max_size == 1


def trustworthy(m: Measurement) -> bool:
    """Whether a decision may rest on `m`: not invalid, not saturated."""
    return m.verdict.validity is not Validity.INVALID and not m.verdict.saturated


def meets(m: Measurement, slo: Slo) -> bool:
    """Whether the upper confidence bound of p99 is within the SLO and errors are rarer than the 1 % p99 leaves."""
    return _upper(m) <= slo.p99_ms and m.indicators.error_fraction < 0.01


def throughput_per_core(m: Measurement) -> float:
    """Completed requests per second per core kept busy."""
    return m.indicators.throughput_rps.value / max(m.indicators.cpu_cores, 1e-9)


def cost_ratio(naive: Measurement | None, best: Measurement) -> float | None:
    """Cost per request of the naive deployment over the chosen one's; 1 where it is the chosen one itself.

    None where naive has no valid number, or where the two costs' confidence intervals overlap: no difference is shown.
    """
    if naive is None or naive.verdict.validity is Validity.INVALID:
        return None
    if naive.configuration == best.configuration:
        return 1.0
    if not (naive.indicators.cost_known and best.indicators.cost_known) or costs_overlap(naive, best):
        return None
    return naive.indicators.cost_per_million / best.indicators.cost_per_million


def costs_overlap(a: Measurement, b: Measurement) -> bool:
    """Whether the confidence intervals of the two costs overlap; also where one has no interval."""
    left, right = a.indicators.cost_interval, b.indicators.cost_interval
    if left is None or right is None or None in (left.low, left.high, right.low, right.high):
        return True
    return not (left.high < right.low or right.high < left.low)  # type: ignore[operator]  # none of them is None


def _cost(m: Measurement) -> float:
    return m.indicators.cost_per_million if m.indicators.cost_known else float("inf")


def _upper(m: Measurement) -> float:
    p99 = m.indicators.p99_ms
    return float("inf") if p99 is None or p99.high is None else p99.high


def _p99(m: Measurement) -> float:
    return m.indicators.p99_ms.value if m.indicators.p99_ms else float("inf")
