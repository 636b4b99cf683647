"""One block of load as the client sees it: plain lists written by callbacks, turned into arrays at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic_ns
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from modelyard.profile.samples import OK, Samples


class Transport(Protocol):
    """How requests travel. `send` must end in exactly one `block.complete` for the request."""

    async def open(self) -> None:
        """Connect. Raises OSError."""

    def send(self, block: Block, index: int, payload: int) -> None:
        """Send payload number `payload` as request `index` of `block`; returns at once."""

    def expire(self, block: Block, now_ns: int) -> None:
        """Give up the requests of `block` whose deadline has passed."""

    async def close(self) -> None:
        """Disconnect."""


class Block:
    """Times in monotonic nanoseconds by request index; 0 = not yet. `on_complete` is called after each completion."""

    def __init__(self, requests: int, timeout_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self.scheduled = [0] * requests
        self.dispatched = [0] * requests
        self.sent = [0] * requests
        self.completed = [0] * requests
        self.status = [OK] * requests
        self.timeout_ns = int(timeout_s * 1e9)
        self.open = requests
        self.done: asyncio.Future[None] = loop.create_future()
        self.on_complete: Callable[[], None] | None = None

    def complete(self, index: int, status: int) -> None:
        """Record the end of a request: `OK` or what went wrong."""
        self.completed[index] = monotonic_ns()
        self.status[index] = status
        self.open -= 1
        if self.open == 0 and not self.done.done():
            self.done.set_result(None)
        if self.on_complete is not None:
            self.on_complete()

    def expired(self, index: int, now_ns: int) -> bool:
        """Whether the request's time is up, counted from when it was due."""
        return now_ns > self.scheduled[index] + self.timeout_ns

    def drop_unsent(self) -> None:
        """Shorten the block to what was dispatched (a closed loop that ran out of time)."""
        keep = next((i for i, at in enumerate(self.dispatched) if at == 0), len(self.dispatched))
        self.open -= len(self.dispatched) - keep
        for column in (self.scheduled, self.dispatched, self.sent, self.completed, self.status):
            del column[keep:]
        if self.open == 0 and not self.done.done():
            self.done.set_result(None)

    def samples(self, number: int, start_ns: int) -> Samples:
        """The rows, in seconds from `start_ns`. A request that never reached a wire counts as sent when it ended."""

        def seconds(column: list[int]) -> NDArray[np.float64]:
            return np.asarray((np.array(column, np.int64) - start_ns) / 1e9)

        sent = [at or end for at, end in zip(self.sent, self.completed, strict=True)]
        return Samples(
            block=np.full(len(self.status), number, np.int32),
            scheduled_s=seconds(self.scheduled),
            dispatched_s=seconds(self.dispatched),
            sent_s=seconds(sent),
            completed_s=seconds(self.completed),
            status=np.array(self.status, np.int16),
        )
