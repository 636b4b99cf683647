"""The batching policy: pure functions of a queue's state and the clock.

The server asks them at every tick and the tuner's simulator at every simulated event, so that what is simulated is
what runs. Times are seconds of one monotonic clock; nothing here reads a clock, waits or allocates a queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from modelyard.domain.configuration import Batching, QueuePolicy

INLINE_BELOW_S = 1e-3
"""Batches predicted to run shorter than this run on the event loop itself: handing one to a thread and back costs
20-50 us and a GIL switch, which a 5 us model cannot afford (measured: 61k instead of 92k requests/s)."""

_FORGET = 0.98
"""Weight of the past per observed batch: the last ~50 batches decide, so a slowed-down model is noticed quickly."""


def wait_s(batching: Batching, waiting_rows: int, oldest_enqueued_s: float, now_s: float) -> float:
    """How long a free execution slot still waits for more rows; 0 starts the batch now.

    Greedy without a delay. With one, the batch starts when it is full or its oldest request is `max_delay_us` old.
    """
    if batching.max_delay_us == 0 or waiting_rows >= batching.max_size:
        return 0.0
    left = oldest_enqueued_s + batching.max_delay_us * 1e-6 - now_s
    return left if left > 0.0 else 0.0


def joins(batching: Batching, batch_rows: int, next_rows: int) -> bool:
    """Whether the queue's next request (`next_rows`) goes into a batch that has `batch_rows` rows so far.

    The first always does: a request is never split, so one that alone exceeds `max_size` runs alone.
    """
    return batch_rows == 0 or batch_rows + next_rows <= batching.max_size


class Refusal(StrEnum):
    """Why a request was not accepted, or was dropped while it waited."""

    QUEUE_FULL = "queue-full"
    WAIT_TOO_LONG = "wait-too-long"
    EXPIRED = "expired"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to a request that wants in: `refusal` is None where it may, else try again in `retry_after_s`."""

    refusal: Refusal | None = None
    retry_after_s: float = 0.0


ADMITTED = Admission()


def admit(
    policy: QueuePolicy,
    batching: Batching,
    cost: LatencyModel,
    held_requests: int,
    waiting_rows: int,
    wait_limit_s: float,
) -> Admission:
    """Whether one more request may wait, given `held_requests` held and `waiting_rows` rows before it.

    Refused at once when the queue is full, or when the predicted wait exceeds `wait_limit_s` (the smaller of the
    queue's bound and the request's own deadline): an early refusal costs microseconds, a late one a model run.
    """
    if held_requests >= policy.max_requests:
        return Admission(Refusal.QUEUE_FULL, max(drain_s(batching, cost, waiting_rows), 1e-3))
    if waiting_rows <= batching.max_size:
        return ADMITTED
    predicted = drain_s(batching, cost, waiting_rows)
    if predicted > wait_limit_s:
        return Admission(Refusal.WAIT_TOO_LONG, predicted - wait_limit_s)
    return ADMITTED


def drain_s(batching: Batching, cost: LatencyModel, waiting_rows: int) -> float:
    """Predicted seconds until `waiting_rows` rows have been executed in full batches."""
    full, rest = divmod(waiting_rows, batching.max_size)
    return full * cost.predict(batching.max_size) + (cost.predict(rest) if rest else 0.0)


class LatencyModel:
    """Learned `latency = a * rows + b` of one model: least squares over the recent batches, exponentially forgotten.

    With a single batch size seen, the line goes through the origin's constant: predictions are the observed mean,
    scaled up (never down) in proportion to rows, which overestimates rather than blocks a loop.
    """

    __slots__ = ("_w", "_x", "_xx", "_xy", "_y", "a", "b")

    def __init__(self) -> None:
        self._w = self._x = self._y = self._xx = self._xy = 0.0
        self.a = 0.0
        self.b = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from one executed batch."""
        keep = _FORGET
        w = self._w = self._w * keep + 1.0
        x = self._x = self._x * keep + rows
        y = self._y = self._y * keep + seconds
        xx = self._xx = self._xx * keep + rows * rows
        xy = self._xy = self._xy * keep + rows * seconds
        spread = w * xx - x * x
        if spread > 1e-6 * w * xx:
            a = (w * xy - x * y) / spread
            self.a = a if a > 0.0 else 0.0
            b = (y - self.a * x) / w
            self.b = b if b > 0.0 else 0.0
        else:
            self.a = 0.0
            self.b = y / w

    @property
    def trained(self) -> bool:
        """Whether anything was observed; before, every prediction is 0."""
        return self._w > 0.0

    def predict(self, rows: int) -> float:
        """Predicted seconds for a batch of `rows`."""
        if self.a == 0.0 and self._w > 0.0:
            seen = self._x / self._w
            return self.b * rows / seen if rows > seen else self.b
        return self.a * rows + self.b
