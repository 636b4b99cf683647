"""From raw samples to numbers with their uncertainty. Pure functions.

Queueing makes the latencies of one run autocorrelated, so formulas for independent samples give intervals that are
far too narrow. The unit of replication is therefore the block: each has its own schedule, and the spread over blocks
gives a t-interval on the logarithm (latencies and rates are positive and skewed; on the log scale an interval is a
factor). The centre is the percentile of all blocks' samples together, which is less biased for short blocks than the
mean of the blocks' percentiles; its standard error is the larger of the blocks' and the delete-one-block jackknife's.

Runs in which the few large bursts did not come see a low percentile *and* a small spread, so the upper end of a tail
percentile is not let below what its number of bursts allows (`Bursts.tail_half_width`). How often intervals hold the
truth, on queues whose truth is known, is in docs/uncertainty.md (`python -m bench.interval_coverage`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.measurement import Interval
from modelyard.profile.bursts import TAIL_BEGINS, Bursts
from modelyard.profile.samples import Samples

REQUESTS_FOR_P99: Final = 459
"""Fewest samples of which the largest exceeds the true p99 with 99 % confidence: ln(0.01) / ln(0.99)."""
REQUESTS_FOR_P999: Final = 4603
"""The same for the p99.9: ln(0.01) / ln(0.999)."""


@dataclass(frozen=True, slots=True)
class BlockSummary:
    """What one block says. Latencies in ms from the scheduled time; rates per second.

    `completed_ratio`: successes that came within the block (plus the usual latency) over requests offered.
    `in_flight_growth`, `p99_growth`: last third over first third. `in_flight`: mean while sending.
    """

    requests: int
    ok: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    throughput_rps: float
    offered_rps: float
    scheduled_rps: float
    completed_ratio: float
    in_flight: float
    in_flight_growth: float
    p99_growth: float


def percentile(values: NDArray[np.float64], share: float) -> float:
    """Nearest-rank percentile: the smallest observed value that at least `share` of the values do not exceed."""
    return float(np.quantile(values, share, method="inverted_cdf"))


def summarise(block: Samples, *, open_loop: bool, timeout_s: float) -> BlockSummary:
    """Summary of the samples of one block (at least one row)."""
    latencies = block.latencies_ms(timeout_s)
    window_s = _window_s(block)
    ratio, throughput = _service_rate(block, window_s, open_loop)
    thirds = window_s / 3
    return BlockSummary(
        requests=len(block),
        ok=int(block.ok.sum()),
        p50_ms=percentile(latencies, 0.50),
        p95_ms=percentile(latencies, 0.95),
        p99_ms=percentile(latencies, 0.99),
        throughput_rps=throughput,
        offered_rps=_rate(block.dispatched_s),
        scheduled_rps=_rate(block.scheduled_s),
        completed_ratio=ratio,
        in_flight=mean_in_flight(block, 0.0, window_s),
        # One request is added to both so that an almost idle service does not show "growth" from 0.01 to 0.02.
        in_flight_growth=(mean_in_flight(block, 2 * thirds, window_s) + 1) / (mean_in_flight(block, 0.0, thirds) + 1),
        p99_growth=_p99_growth(block),
    )


def mean_in_flight(block: Samples, begin_s: float, end_s: float) -> float:
    """Time average of the number of requests taken up and not yet completed between two instants of a block."""
    if end_s <= begin_s:
        return 0.0
    overlap = np.minimum(block.completed_s, end_s) - np.maximum(block.dispatched_s, begin_s)
    return float(np.clip(overlap, 0.0, None).sum() / (end_s - begin_s))


def log_interval(values: Sequence[float], *, centre: float | None = None, confidence: float = 0.95) -> Interval:
    """t-interval over blocks on the logarithm, around `centre` (default: the geometric mean).

    No bounds from fewer than two blocks or where a value is not positive.
    """
    positive = all(value > 0 for value in values)
    logs = np.log(values) if positive and values else np.array([])
    if centre is None:
        centre = float(np.exp(logs.mean())) if len(logs) else float(np.mean(values or [0.0]))
    if len(logs) < 2 or centre <= 0:
        return Interval(centre, confidence=confidence)
    half = half_width(logs, confidence)
    return Interval(centre, centre * math.exp(-half), centre * math.exp(half), confidence)


def half_width(values: NDArray[np.float64], confidence: float = 0.95) -> float:
    """Half the width of the t-interval for the mean of two or more independent values."""
    return quantile_of_t(len(values) - 1, confidence) * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def quantile_of_t(degrees: int, confidence: float = 0.95) -> float:
    """How many standard errors a two-sided interval reaches to either side, by Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + confidence / 2))


def latency_interval(blocks: Sequence[Samples], share: float, timeout_s: float) -> Interval:
    """A latency percentile in ms over all blocks, with its interval; the upper end may be the farther one.

    The interval ends at the fastest request seen, and at the timeout or the slowest one: blocks of which some answer at
    once and others time out would otherwise have bounds of centuries.
    """
    per_block = [block.latencies_ms(timeout_s) for block in blocks]
    together = np.concatenate(per_block)
    centre = percentile(together, share)
    if len(blocks) < 2 or centre <= 0:
        return Interval(centre)
    logs = _logs([percentile(latencies, share) for latencies in per_block])
    without = [percentile(np.concatenate([*per_block[:k], *per_block[k + 1 :]]), share) for k in range(len(blocks))]
    half = max(half_width(logs), _jackknife_half_width(_logs(without)))
    tail = 0.0
    if share > TAIL_BEGINS:
        log_tail = math.log(centre / max(percentile(together, TAIL_BEGINS), 1e-9))
        tail = Bursts.count(per_block).tail_half_width(log_tail, share)
    low, high = centre * math.exp(-half), centre * math.exp(max(half, tail))
    return Interval(centre, max(low, float(together.min())), min(high, max(float(together.max()), timeout_s * 1e3)))


def _logs(values_ms: Sequence[float]) -> NDArray[np.float64]:
    return np.log(np.maximum(values_ms, 1e-9))


def _jackknife_half_width(without_one: NDArray[np.float64]) -> float:
    """Half width from the estimates that each leave one block out: their spread times (k - 1), as k mean estimates."""
    return half_width(without_one * (len(without_one) - 1))


def settled(p50s_ms: Sequence[float], tolerance: float = 0.05) -> bool:
    """Whether the last two warm-up blocks' p50 differ by less than `tolerance`."""
    if len(p50s_ms) < 2:
        return False
    before, now = p50s_ms[-2:]
    return abs(now - before) < tolerance * min(before, now)


def _window_s(block: Samples) -> float:
    """Time during which the block offered load: up to one mean gap after the last request was taken up."""
    last = float(block.dispatched_s.max())
    return last * len(block) / (len(block) - 1) if len(block) > 1 and last > 0 else float(block.completed_s.max())


def _rate(times_s: NDArray[np.float64]) -> float:
    span = float(times_s.max() - times_s.min())
    return (len(times_s) - 1) / span if span > 0 else 0.0


def _service_rate(block: Samples, window_s: float, open_loop: bool) -> tuple[float, float]:
    """Completed over offered, and successes per second.

    An open loop grants the requests sent last the latency that the block's first third saw (p95) before they count as
    not completed. A service that keeps up serves what was offered; one that does not is counted while it was loaded.
    """
    done_s = block.completed_s[block.ok]
    if window_s <= 0:
        return 1.0, 0.0
    if not open_loop:
        in_window = int((done_s <= window_s).sum())
        whole_s = float(block.completed_s.max())
        return 1.0, in_window / window_s if in_window > len(block) / 2 else len(done_s) / whole_s
    third = max(1, len(block) // 3)
    grace_s = percentile((block.completed_s - block.dispatched_s)[:third], 0.95)
    ratio = float((done_s <= window_s + grace_s).sum()) / len(block)
    served = len(done_s) if ratio >= 0.98 else int((done_s <= window_s).sum())
    return ratio, served / window_s


def _p99_growth(block: Samples) -> float:
    """p99 of the last third over that of the first, from when the client took the requests up."""
    third = len(block) // 3
    if third < 1:
        return 1.0
    spent = block.completed_s - block.dispatched_s
    return percentile(spent[-third:], 0.99) / max(percentile(spent[:third], 0.99), 1e-9)
