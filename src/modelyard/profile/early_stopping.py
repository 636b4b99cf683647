"""MLPerf LoadGen's early stopping: what a run of n queries says about a percentile at a stated confidence.

Of n independent queries, the number above the true p-th percentile is binomial with probability 1 - p each. A latency L
is proven to be at or above that percentile, at confidence c, where so few queries took longer that at most a share of
1 - c of runs would have so few if L were below it: P(Binomial(n, 1 - p) <= t) < 1 - c. LoadGen writes the same sum as
the incomplete beta function I_p(n - t, t + 1) (loadgen/early_stopping.cc and results.cc of mlcommons/inference).

Queries that queue behind each other are not independent; near saturation the interval over blocks says more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

CONFIDENCE: Final = 0.99
"""LoadGen's own."""


def queries_needed(over: int, share: float, confidence: float = CONFIDENCE) -> int:
    """Fewest queries that certify the `share` percentile (0.99) where `over` of them took longer than the limit."""
    most = over + 1
    while not _certifies(over, most, share, confidence):
        most *= 2
    return _first(over + 1, most, lambda queries: _certifies(over, queries, share, confidence))


def overs_allowed(queries: int, share: float, confidence: float = CONFIDENCE) -> int | None:
    """How many of `queries` may take longer than the limit; None where even 0 do not certify the percentile."""
    if queries < 1 or not _certifies(0, queries, share, confidence):
        return None
    return _first(0, queries, lambda over: not _certifies(over, queries, share, confidence)) - 1


def percentile_estimate(latencies: NDArray[np.float64], share: float, confidence: float = CONFIDENCE) -> float | None:
    """A latency that the `share` percentile does not exceed, at this confidence; None from too few queries.

    As LoadGen does it: with t queries allowed to be over, the t-th largest latency. So t must be at least 1, which
    takes 662 queries for a p99 and 64 for a p90.
    """
    allowed = overs_allowed(len(latencies), share, confidence)
    return float(np.sort(latencies)[len(latencies) - allowed]) if allowed else None


def _certifies(over: int, queries: int, share: float, confidence: float) -> bool:
    from scipy.special import bdtr

    return over < queries and bool(bdtr(over, queries, 1.0 - share) < 1.0 - confidence)


def _first(low: int, high: int, true_of: Callable[[int], bool]) -> int:
    """The smallest number from `low` to `high` of which it is true; `high` where it is of none below."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if true_of(middle) else (middle + 1, high)
    return low
