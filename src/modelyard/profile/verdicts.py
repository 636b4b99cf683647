"""Whether a measurement may be believed. Pure functions from block summaries to a verdict in words.

A rule that says "the service is saturated" looks at all blocks together: the effect must be large (the threshold) and
there in the blocks on the whole (lower end of the 95 % interval above 1). One stall in one block is a latency result,
not saturation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from modelyard.domain.measurement import ClientHealth, Validity, Verdict
from modelyard.profile.bursts import Bursts
from modelyard.profile.statistics import REQUESTS_FOR_P99, BlockSummary, half_width

CLIENT_SATURATED: Final = "client saturated"
"""How each reason begins that says that the load client, and not the service, was the bottleneck."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Thresholds of the verdicts; the defaults are the design's (section 9)."""

    max_send_lag_ms: float = 1.0
    max_send_lag_of_p50: float = 0.05
    max_rate_error: float = 0.01
    max_client_cores: float = 0.95
    min_completed_ratio: float = 0.98
    max_growth: float = 1.5
    max_little_error: float = 0.05
    full_blocks: int = 5
    full_requests: int = 1000
    min_bursts_per_block: float = 16.0
    min_tail_bursts: int = 3
    canary_tolerance: float = 1.25
    max_stalled: float = 0.003
    max_stalled_s: float = 0.002
    max_retakes: int = 3


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What happened around the blocks: things that weaken a number without being visible in it.

    `bursts` are those of an open loop.
    """

    warmed_up: bool = True
    noisy_blocks: int = 0
    replicas_changed: bool = False
    cpu_seen: bool = True
    stationary: bool = True
    bursts: Bursts | None = None


def judge(
    blocks: Sequence[BlockSummary],
    client: ClientHealth,
    *,
    p50_ms: float,
    concurrency: int | None,
    circumstances: Circumstances = Circumstances(),
    rules: Rules = Rules(),
) -> Verdict:
    """The verdict over all blocks; `concurrency` is that of a closed loop, None in an open one."""
    invalid = client_faults(client, p50_ms, rules)
    if concurrency is not None:
        invalid += little_faults(blocks, concurrency, rules)
    if not any(block.ok for block in blocks):
        invalid.append("no request succeeded")
    if circumstances.replicas_changed:
        invalid.append("a replica died or was replaced during a block")
    saturation = saturation_signs(blocks, rules, stationary=circumstances.stationary) if concurrency is None else []
    weak = _weaknesses(blocks, circumstances, rules)
    wanted = 0
    if circumstances.bursts is not None and circumstances.stationary and not saturation:
        too_few, wanted = burst_faults(circumstances.bursts, min(b.requests for b in blocks), rules)
        weak += too_few
    validity = Validity.INVALID if invalid else Validity.PROVISIONAL if weak else Validity.VALID
    reasons = (*invalid, *saturation, *weak, *_failures(blocks))
    return Verdict(validity, reasons, saturated=bool(saturation), requests_wanted=wanted)


def client_faults(client: ClientHealth, p50_ms: float, rules: Rules) -> list[str]:
    """Reasons to say that the load client itself was the bottleneck."""
    faults = []
    if client.send_lag_p99_ms >= max(rules.max_send_lag_ms, rules.max_send_lag_of_p50 * p50_ms):
        faults.append(f"{CLIENT_SATURATED}: requests went out late (p99 lag {client.send_lag_p99_ms:.2f} ms)")
    if client.scheduled_rps:
        error = client.offered_rps / client.scheduled_rps - 1
        if abs(error) > rules.max_rate_error:
            offered = f"offered {client.offered_rps:.5g} of {client.scheduled_rps:.5g} requests/s ({error:+.1%})"
            faults.append(f"{CLIENT_SATURATED}: {offered}")
    elif client.cpu_cores >= rules.max_client_cores:
        faults.append(
            f"{CLIENT_SATURATED}: it used {client.cpu_cores:.2f} of one core, so the throughput is a lower bound"
        )
    return faults


def little_faults(blocks: Sequence[BlockSummary], concurrency: int, rules: Rules) -> list[str]:
    """Little's law, L = X * W, in a closed loop: throughput x time in system must be the concurrency.

    Blocks too short for a steady state (fewer than 10 requests per place in flight) are not checked.
    """
    checked = [block.in_flight for block in blocks if block.requests >= 10 * concurrency]
    if not checked:
        return []
    held = float(np.mean(checked))
    if abs(held / concurrency - 1) <= rules.max_little_error:
        return []
    return [f"{CLIENT_SATURATED}: by Little's law {held:.3g} of {concurrency} requests were in flight"]


def saturation_signs(blocks: Sequence[BlockSummary], rules: Rules, *, stationary: bool = True) -> list[str]:
    """Reasons to say that the service did not keep up with an open loop.

    Where the load itself changes over a block (not `stationary`: a ramp, a trace) growth is its doing, and no sign.
    """
    signs = []
    completed = sum(b.completed_ratio * b.requests for b in blocks) / max(1, sum(b.requests for b in blocks))
    if completed < rules.min_completed_ratio:
        signs.append(f"saturated: completed {completed:.1%} of what was offered")
    if not stationary:
        return signs
    for name, ratios in (
        ("requests in flight grew", [b.in_flight_growth for b in blocks]),
        ("p99 grew", [b.p99_growth for b in blocks]),
    ):
        growth = _clear_growth(ratios, rules.max_growth)
        if growth is not None:
            signs.append(f"saturated: {name} x{growth:.2g} from the first to the last third")
    return signs


def _clear_growth(ratios: Sequence[float], threshold: float) -> float | None:
    logs = np.log(np.maximum(ratios, 1e-9))
    growth = float(np.exp(logs.mean()))
    if growth <= threshold:
        return None
    if len(logs) < 2 or logs.mean() - half_width(logs) > 0:
        return growth
    return None


def burst_faults(bursts: Bursts, requests: int, rules: Rules) -> tuple[list[str], int]:
    """Reasons to say that p99 rests on too few bursts of slow requests, and the requests a block should have (or 0).

    Blocks begin with an empty queue. Near saturation short ones end before it has been long as often as it is on the
    whole: p99 comes out low, and alike in all blocks. The thresholds are from queues of known truth
    (docs/uncertainty.md).
    """
    if bursts.slow == 0:
        return [], 0
    if bursts.per_block < rules.min_bursts_per_block:
        wanted = _round_up(requests * 1.5 * rules.min_bursts_per_block / bursts.per_block)
        seen = f"{bursts.per_block:.2g} of slow requests in a block, below {rules.min_bursts_per_block:g}"
        return [f"too few bursts for a p99: {seen} (take blocks of {wanted} requests)"], wanted
    if bursts.tail < rules.min_tail_bursts:
        wanted = _round_up(requests * 2.0)
        times = f"{bursts.tail} bursts" if bursts.tail > 1 else "one burst"
        return [f"p99 rests on {times} of slow requests (take blocks of {wanted} requests)"], wanted
    return [], 0


def _round_up(requests: float) -> int:
    """To the next of 1, 2, 5, 10, 20, 50 ..., at most 100 000."""
    unit: int = 10 ** math.floor(math.log10(requests))
    return min(100_000, next(unit * step for step in (1, 2, 5, 10) if unit * step >= requests))


def _weaknesses(blocks: Sequence[BlockSummary], circumstances: Circumstances, rules: Rules) -> list[str]:
    weak = []
    total, smallest = sum(b.requests for b in blocks), min(b.requests for b in blocks)
    if total < REQUESTS_FOR_P99:
        weak.append(f"no p99: {total} requests, it takes {REQUESTS_FOR_P99}")
    if len(blocks) < rules.full_blocks or smallest < rules.full_requests:
        weak.append(f"{len(blocks)} blocks of {smallest}+ requests, below {rules.full_blocks} x {rules.full_requests}")
    if not circumstances.warmed_up:
        weak.append("the warm-up did not settle: two blocks in a row never agreed within 5 %")
    if circumstances.noisy_blocks:
        weak.append(
            f"noisy machine: the canary was slow, or a core stood still, in {circumstances.noisy_blocks} of the blocks "
            "that were kept"
        )
    if not circumstances.cpu_seen:
        weak.append("no cost: the service's CPU time was too small to tell")
    return weak


def _failures(blocks: Sequence[BlockSummary]) -> list[str]:
    total = sum(b.requests for b in blocks)
    failed = total - sum(b.ok for b in blocks)
    return [f"{failed} of {total} requests failed, each counted as a full timeout"] if failed else []
