"""How many separate slow spells a tail percentile rests on: what its samples are worth near saturation.

Queueing makes slow requests come in bursts: one long queue delays hundreds of requests in a row, so that the fifty
slowest of 5000 may be one event and not fifty. A burst begins with a request slower than p75 and ends with one no
slower than p25; single slow requests are smoothed away first (a mean over four in a row), for among several servers
they come from the request itself and not from the queue. The levels are that low because the largest bursts decide p99:
a rule on them would take runs without large ones, whose p99 is too low, for the good ones.

The threshold of the verdict and the variance were checked against queues of known truth, see docs/uncertainty.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

TAIL_BEGINS: Final = 0.9
"""The percentile from which the slope of a tail is taken."""
_CALM: Final = 0.25
_SLOW: Final = 0.75
_TAIL: Final = 0.99
_SMOOTHED: Final = 4
_SIZE_VARIANCE: Final = 2.0
"""Mean square over squared mean of the size of a burst: 2 for geometric sizes, as of a queue above a high level."""
_NORMAL_95: Final = 1.96


@dataclass(frozen=True, slots=True)
class Bursts:
    """Separate bursts over all blocks: `slow` rose above p75, `tail` above p99. Both 0 where nothing is slower."""

    slow: int
    tail: int
    blocks: int

    @property
    def per_block(self) -> float:
        return self.slow / self.blocks

    @classmethod
    def count(cls, latencies: Sequence[NDArray[np.float64]]) -> Bursts:
        """Count those of blocks; latencies in the order of the schedule, in any unit."""
        smooth = [_smoothed(block) for block in latencies]
        calm, slow, tail = np.quantile(np.concatenate(smooth), (_CALM, _SLOW, _TAIL), method="inverted_cdf")
        return cls(
            slow=sum(_spells(block, slow, calm) for block in smooth),
            tail=sum(_spells(block, tail, calm) for block in smooth),
            blocks=len(smooth),
        )

    def tail_half_width(self, log_tail: float, share: float) -> float:
        """Half width on the logarithm that a percentile above p90 has at least, whatever the blocks say.

        `log_tail` is ln(percentile / p90). Bursts above the percentile are a Poisson count, their sizes geometric, so
        the number of slower requests has the relative variance 2 / bursts (a compound Poisson sum); on an exponential
        tail an error of that number moves the percentile by the tail's slope on the logarithm. Their number is taken
        from the bursts above p75, of which there are as many more as the requests above it are: large bursts that
        happened not to come lower the percentile, its spread over blocks and their own count alike.
        """
        if self.slow == 0 or share <= TAIL_BEGINS:
            return 0.0
        slope = log_tail / math.log((1 - TAIL_BEGINS) / (1 - share))
        above = self.slow * (1 - share) / (1 - _SLOW)
        return _NORMAL_95 * slope * math.sqrt(_SIZE_VARIANCE / above)


def _smoothed(latencies: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(latencies) < _SMOOTHED:
        return latencies
    return np.convolve(latencies, np.full(_SMOOTHED, 1 / _SMOOTHED), mode="valid")


def _spells(latencies: NDArray[np.float64], level: float, calm: float) -> int:
    """Excursions to `level`, separated by a return to `calm`; where the two are the same, above it."""
    returns = np.cumsum(latencies <= calm)[(latencies >= level) & (latencies > calm)]
    return 1 + int(np.count_nonzero(np.diff(returns))) if len(returns) else 0
