"""What the plots need of a measurement's raw samples: a few hundred numbers, however many requests there were."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from modelyard.profile.samples import Samples

Numbers = NDArray[np.float64]
_STEPS: Final = 120
"""Points of a distribution's line: one each four units of a plot's width."""
MOST_POINTS: Final = 300
"""Requests shown one by one, of each measurement."""
_SURE: Final = math.log(0.01)
"""Of n requests the largest exceeds the true percentile `share` with 99 % confidence where n ln(share) <= ln(0.01)."""


@dataclass(frozen=True, slots=True)
class Band:
    """A 95 % interval at each share of `shares`, in ms."""

    shares: Numbers
    low_ms: Numbers
    high_ms: Numbers


@dataclass(frozen=True, slots=True)
class Distribution:
    """Latencies from the scheduled send time; a failed request counts as the full timeout.

    `latency_ms[i]` is the percentile `shares[i]` of all requests (nearest rank); `sure_to` is the largest share that so
    many requests support. `band` is pointwise over blocks; None with fewer than two. `mean_ms` is of successes alone.
    `points_ms` are latencies of single requests, evenly spaced by rank, and `points_ok` which of these succeeded.
    """

    requests: int
    failed: int
    blocks: int
    mean_ms: float | None
    shares: Numbers
    latency_ms: Numbers
    sure_to: float
    band: Band | None
    points_ms: Numbers
    points_ok: NDArray[np.bool_]

    @classmethod
    def of(cls, samples: Samples, timeout_s: float) -> Distribution:
        """Of at least one request."""
        latencies, ok = samples.latencies_ms(timeout_s), samples.ok
        order = np.argsort(latencies, kind="stable")
        count = len(order)
        shares = _shares(count)
        ranks = np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(np.int64))
        shown = order[ranks]
        pooled = latencies[order][_rank(shares, count)]
        return cls(
            requests=count,
            failed=count - int(ok.sum()),
            blocks=len(np.unique(samples.block)),
            mean_ms=float(latencies[ok].mean()) if ok.any() else None,
            shares=shares,
            latency_ms=pooled,
            sure_to=math.exp(_SURE / count),
            band=_band([np.sort(block.latencies_ms(timeout_s)) for block in samples.blocks()], shares, pooled),
            points_ms=latencies[shown],
            points_ok=ok[shown],
        )


def _shares(count: int) -> Numbers:
    """Evenly spaced in nines, from the smallest request to the largest, which stands for what is beyond 1 - 1/count."""
    return np.asarray(1 - 10 ** -np.linspace(0, math.log10(2 * count), _STEPS))


def _rank(shares: Numbers, count: int) -> NDArray[np.int64]:
    """Nearest rank, from 0; the allowance keeps 0.99 of 100 from being the hundredth."""
    return np.clip(np.ceil(shares * count - 1e-9).astype(np.int64) - 1, 0, count - 1)


def _band(blocks: Sequence[Numbers], shares: Numbers, centre: Numbers) -> Band | None:
    """The t-interval over the blocks' percentiles on the logarithm, around that of all requests.

    As far as each block has a request beyond the percentile.
    """
    if len(blocks) < 2:
        return None
    from scipy.special import stdtrit

    reach = shares <= 1 - 1 / min(map(len, blocks)) + 1e-12
    kept = shares[reach]
    logs = np.log(np.maximum([block[_rank(kept, len(block))] for block in blocks], 1e-9))
    half = stdtrit(len(blocks) - 1, 0.975) * logs.std(axis=0, ddof=1) / math.sqrt(len(blocks))
    # A factor of e^20 is beyond every axis, and short of what floats hold.
    factor = np.exp(np.minimum(half, 20.0))
    return Band(kept, centre[reach] / factor, centre[reach] * factor)
