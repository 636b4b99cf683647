"""What a batch costs and holds: the learned latency of a model, what joins a batch, whether waiting pays.

Pure functions and one estimator, shared by the server and the tuner's simulator. Times are seconds of one monotonic
clock; nothing here reads a clock. When batches are formed and who is refused is `domain.scheduling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from modelyard.domain.configuration import Batching
from modelyard.domain.tensors import Signature

INLINE_BELOW_S: Final = 1e-3
"""Batches predicted to run shorter than this run on the event loop itself: handing one to a thread and back costs
20-50 us and a GIL switch, which a 5 us model cannot afford (measured: 61k instead of 92k requests/s)."""

TRAINING_BATCHES: Final = 5
"""After so many observed batches predictions decide; before, only counts do (see `Scheduler.admit`)."""

_FORGET: Final = 0.98
"""Weight of the past per observed batch: the last ~50 batches decide, so a slowed-down model is noticed quickly."""
_SURPRISE: Final = 10.0
"""A batch slower than this many times its prediction is learned as if it took that long: one stall of the machine
does not make a model look slow, while a model that stays slow still moves the prediction tenfold per few batches."""


def most_rows(batching: Batching, row_cost: int) -> int:
    """How many rows of `row_cost` units make a full batch: bounded by `max_size` and by `max_cost`, at least one."""
    if batching.max_cost is None:
        return batching.max_size
    return max(1, min(batching.max_size, batching.max_cost // row_cost))


class RowCost:
    """What one row of a request costs, in units: the product of its input dimensions that vary between requests.

    Each symbolic dimension besides the batch counts once, however many inputs share it: for token ids and a mask of
    shape `[batch, tokens]` a row costs its number of tokens. 1 where nothing varies.
    """

    def __init__(self, signature: Signature) -> None:
        first = 1 if signature.batched else 0
        places: dict[str, tuple[int, int]] = {}
        for i, spec in enumerate(signature.inputs):
            for j, dim in enumerate(spec.shape[first:]):
                if isinstance(dim, str):
                    places.setdefault(dim, (i, j))
        self._places = tuple(places.values())

    @property
    def varies(self) -> bool:
        """Whether rows of different requests may cost differently."""
        return bool(self._places)

    def __call__(self, shapes: Sequence[Sequence[int]]) -> int:
        """Units of a row, given each input's shape without the batch dimension, in the signature's order."""
        units = 1
        for i, j in self._places:
            units *= shapes[i][j]
        return max(units, 1)


class Refusal(StrEnum):
    """Why a request was not accepted, or was dropped while it waited."""

    QUEUE_FULL = "queue-full"
    WAIT_TOO_LONG = "wait-too-long"
    EXPIRED = "expired"
    EVICTED = "evicted"
    DRAINING = "draining"


class LatencyModel:
    """Learned `latency = a * units + b` of one model: least squares over the recent batches, exponentially forgotten.

    A unit is a row, or what a row's varying dimensions make of it (`RowCost`). With a single batch size seen, the line
    goes through the origin's constant: predictions are the observed mean, scaled up (never down) in proportion to
    units, which overestimates rather than blocks a loop.
    """

    __slots__ = ("_w", "_x", "_xx", "_xy", "_y", "a", "b", "seen", "sloped")

    def __init__(self) -> None:
        self._w = self._x = self._y = self._xx = self._xy = 0.0
        self.a = 0.0
        self.b = 0.0
        self.seen = 0
        """Batches observed."""
        self.sloped = False
        """Whether batches of different sizes were seen, so that `b` is known to be the fixed part."""

    def observe(self, units: int, seconds: float) -> None:
        """Learn from one executed batch."""
        if self.seen >= TRAINING_BATCHES:
            ceiling = _SURPRISE * self.predict(units) + 1e-6
            if seconds > ceiling:
                seconds = ceiling
        self.seen += 1
        keep = _FORGET
        w = self._w = self._w * keep + 1.0
        x = self._x = self._x * keep + units
        y = self._y = self._y * keep + seconds
        xx = self._xx = self._xx * keep + units * units
        xy = self._xy = self._xy * keep + units * seconds
        spread = w * xx - x * x
        if spread > 1e-6 * w * xx:
            a = (w * xy - x * y) / spread
            self.a = a if a > 0.0 else 0.0
            b = (y - self.a * x) / w
            self.b = b if b > 0.0 else 0.0
            self.sloped = True
        else:
            self.a = 0.0
            self.b = y / w
            self.sloped = False

    @property
    def trained(self) -> bool:
        """Whether enough was observed for predictions to decide anything."""
        return self.seen >= TRAINING_BATCHES

    def predict(self, units: int) -> float:
        """Predicted seconds for a batch of `units`; 0 before the first observation."""
        if self.sloped:
            return self.a * units + self.b
        seen = self._x
        if seen == 0.0:
            return 0.0
        mean = seen / self._w
        return self.b * units / mean if units > mean else self.b


_EVER_S: Final = float("inf")


class Arrivals:
    """The observed rate of arrivals: an exponentially weighted mean of the gaps between them."""

    __slots__ = ("gap_s", "last_s")

    WEIGHT: Final = 1 / 16

    def __init__(self) -> None:
        self.gap_s = _EVER_S
        """Mean seconds between requests; infinite until two were seen."""
        self.last_s = -_EVER_S

    def observe(self, now: float) -> None:
        """A request arrived. A pause longer than a second counts as one: after it the rate is learned afresh."""
        gap = now - self.last_s
        self.last_s = now
        known = self.gap_s
        if known <= 1.0:
            self.gap_s = known + self.WEIGHT * (min(gap, 1.0) - known)
        elif gap < _EVER_S:
            self.gap_s = min(gap, 1.0)


def waiting_pays(waiting: int, gap_s: float, fixed_s: float) -> bool:
    """Whether a free slot that holds `waiting` requests should await one more rather than run them at once.

    Awaiting the next arrival delays `waiting` requests and the newcomer's own start by `gap_s` each; joining them
    spares the newcomer the rest of their batch and everyone behind it one batch's fixed cost: with latency a*n + b the
    newcomer alone gains `a*n + b - gap - a*n`. So waiting lowers the mean latency while `(waiting + 1) * gap < b`.
    BentoML compares `n * (age of the newest + 1 ms + a)` with a tuned average wait, Clipper ignores arrivals; this
    needs no tuned constant, and a single closed-loop client (gap >= a + b) never waits.
    """
    return (waiting + 1) * gap_s < fixed_s
