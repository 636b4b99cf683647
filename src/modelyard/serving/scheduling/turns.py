"""The executors of one replica take turns: on the event loop, and on the cores."""

from __future__ import annotations

import asyncio
import logging
import os
from math import ceil
from time import perf_counter
from typing import Final, Protocol

from modelyard.domain.fairness import FairShare, Flow

_log = logging.getLogger(__name__)

_LOOP_SHARE_S: Final = 1e-3
"""Where several models run on the event loop, they do so this long before sockets are looked at again."""


class TurnTaker(Protocol):
    """What takes turns: an executor."""

    flow: Flow

    def turn(self) -> None:
        """Run the next batch, if there is one."""
        ...


class Turns:
    """Who is next, over all models of a replica. Event-loop thread only.

    `max_running` bounds the executions on worker threads at the same time; None: as many as their threads fit the
    cores that this process may use, or `cpu_limit` where that is less. An execution on the event loop needs no seat, so
    that a cheap model is not behind a dear one; it is charged for its time all the same, and where several have work in
    the same turn of the loop the one with the smallest start tag goes first.
    """

    def __init__(self, max_running: int | None = None, cpu_limit: float | None = None) -> None:
        self._by_threads = max_running is None
        self.share = FairShare(max_running if max_running is not None else usable_cores(cpu_limit))
        self._owners: dict[Flow, TurnTaker] = {}
        self._ready: list[TurnTaker] = []
        self._loop = asyncio.get_running_loop()
        self._scheduled = False

    def join(self, taker: TurnTaker, weight: float, threads: int) -> Flow:
        """Take part from now on. Raises InvalidInput for a weight that is not positive."""
        flow = Flow(weight, min(threads, self.share.capacity) if self._by_threads else 1)
        self._owners[flow] = taker
        return flow

    def part(self, flow: Flow) -> None:
        """Take part no more."""
        self.share.forgo(flow)
        self._owners.pop(flow, None)
        self._ready[:] = [taker for taker in self._ready if taker.flow is not flow]
        self.dispatch()

    def arm(self, taker: TurnTaker) -> None:
        """Give `taker` a turn in the loop's next iteration: with all that arrives in this one."""
        self._ready.append(taker)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._tick)

    def dispatch(self) -> None:
        """Give free seats to those held back."""
        while (flow := self.share.grant()) is not None:
            self._owners[flow].turn()
            self.share.forgo(flow)  # a no-op where the turn took the seat

    def _tick(self) -> None:
        ready, share = self._ready, self.share
        if len(ready) == 1:
            self._scheduled = False
            ready.pop().turn()
            return
        until = perf_counter() + _LOOP_SHARE_S
        while len(ready) > 1 and perf_counter() < until:
            taker = min(ready, key=lambda taker: share.tag(taker.flow))
            ready.remove(taker)
            try:
                taker.turn()
            except Exception:  # noqa: BLE001 - the other models' turns must not be lost
                _log.exception("a turn failed")
        self._scheduled = bool(ready)
        if ready:  # the last one too: what arrived meanwhile goes into its batch
            self._loop.call_soon(self._tick)


def usable_cores(cpu_limit: float | None = None) -> int:
    """Cores that this process may use; under a quota of `cpu_limit` cores' time, at most as many, rounded up."""
    bound = len(os.sched_getaffinity(0))
    return bound if cpu_limit is None else min(bound, ceil(cpu_limit))
