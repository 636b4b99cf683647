"""Counts and times of one model version, kept per batch size, and the JSON that `/stats` shows.

All times are sums in seconds over requests (`busy_s`: over batches), so that the difference of two snapshots divided
by the difference of `requests` is the mean of the requests in between.
"""

from __future__ import annotations

from bisect import bisect_left
from time import time
from typing import Any, Final

import msgspec

from modelyard.domain.batching import Refusal
from modelyard.serving.models.comparison import ShadowStatistics

BOUNDS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the request-duration histogram, seconds."""
SIZES_KEPT: Final = 1024
"""Batch sizes with counters of their own. A client decides how many rows a request has, and each size is kept for good
and shown on every page of statistics; of further sizes the next power of two is counted."""


class BatchStatistics(msgspec.Struct):
    """What happened to the requests that were executed in batches of `rows` rows.

    `receive_s`: from the request's first byte's arrival until it is whole; `parse_s`: from there to the queue (decoding
    and checks); `queue_s`: waiting for the execution slot; `batch_wait_s`: waiting, slot free, for more rows (and the
    loop's turn); `pre_s`, `post_s`: steps; `infer_s`: the execution of the batch, counted for each of its requests;
    `encode_s`: rendering; `send_s`: writing; `busy_s`: the execution, counted once per batch.
    """

    rows: int
    batches: int = 0
    requests: int = 0
    receive_s: float = 0.0
    parse_s: float = 0.0
    queue_s: float = 0.0
    batch_wait_s: float = 0.0
    pre_s: float = 0.0
    infer_s: float = 0.0
    post_s: float = 0.0
    encode_s: float = 0.0
    send_s: float = 0.0
    busy_s: float = 0.0


class ModelStatistics(msgspec.Struct):
    """One model version in a snapshot. `held` requests wait or run now; `refused` by reason; `failed` requests.

    `cached` were answered from the cache; they are in no batch.
    """

    model: str
    version: int
    held: int
    failed: int
    refused: dict[str, int]
    last_inference_unix_s: float
    batches: list[BatchStatistics]
    cached: int = 0


class ReplicaStatistics(msgspec.Struct):
    """`GET /stats`. `schema` changes when a field changes its meaning. `pid` tells replicas of one port apart."""

    schema: int
    service: str
    pid: int
    uptime_s: float
    ready: bool
    models: list[ModelStatistics]
    shadows: list[ShadowStatistics] = []


class Ledger:
    """The counters of one model version. Touched by the event loop's thread only."""

    __slots__ = ("by_rows", "duration_counts", "duration_sum_s", "failed", "failed_s", "last_unix_s", "refused")

    def __init__(self) -> None:
        self.by_rows: dict[int, BatchStatistics] = {}
        self.failed = 0
        self.failed_s = 0.0
        self.refused = dict.fromkeys(Refusal, 0)
        self.last_unix_s = 0.0
        self.duration_counts = [0] * (len(BOUNDS_S) + 1)
        self.duration_sum_s = 0.0

    def of_rows(self, rows: int) -> BatchStatistics:
        """The counters of batches of `rows` rows."""
        found = self.by_rows.get(rows)
        if found is None and len(self.by_rows) >= SIZES_KEPT:
            rows = 1 << (rows - 1).bit_length()
            found = self.by_rows.get(rows)
        if found is None:
            found = self.by_rows[rows] = BatchStatistics(rows)
        return found

    def count(
        self,
        seen: BatchStatistics,
        members: list[Any],
        free: float,
        start: float,
        end: float,
        encoding: float = 0.0,
    ) -> None:
        """Count answered requests of an executed batch: `members` as `scheduling.work.member` makes them.

        Their answers took `encoding` seconds to render and send; a member that is sent later (0) is not timed yet.
        """
        queued = waited = receiving = parsing = before = after = sending = lasting = 0.0
        counts = self.duration_counts
        for received, whole, enqueued, pre, post, rendered, sent, _, _ in members:
            if enqueued < free:
                queued += free - enqueued
                waited += start - free
            else:
                waited += start - enqueued
            receiving += whole - received
            parsing += enqueued - whole - pre
            before += pre
            after += post
            if sent:
                sending += sent - rendered
                duration = sent - received
                lasting += duration
                counts[bisect_left(BOUNDS_S, duration)] += 1
        n = len(members)
        self.last_unix_s = time()
        self.duration_sum_s += lasting
        seen.requests += n
        seen.receive_s += receiving
        seen.parse_s += parsing
        seen.queue_s += queued
        seen.batch_wait_s += waited
        seen.pre_s += before
        seen.post_s += after
        seen.infer_s += (end - start) * n
        seen.encode_s += encoding - sending
        seen.send_s += sending

    def count_durations(self, seconds: list[float]) -> None:
        """Count answered requests, receipt to response, in the histogram."""
        counts = self.duration_counts
        for duration in seconds:
            counts[bisect_left(BOUNDS_S, duration)] += 1
        self.duration_sum_s += sum(seconds)
