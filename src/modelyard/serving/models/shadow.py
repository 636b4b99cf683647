"""A shadow version: gets copies of requests after they are answered, and only while the replica has nothing better
to do; its answers are compared with the primary's and dropped.

No answer waits for the shadow: a copy is made of a request whose answer is already written, and it is dropped unless
every model of the replica is idle at that moment. What is compared is therefore a sample, and its size is counted
(`ShadowStatistics`, below `shadows` in `/stats`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor as Pool
from time import perf_counter
from typing import Any, Final

from modelyard.domain.errors import ModelyardError
from modelyard.domain.tensors import Tensor
from modelyard.serving.models.comparison import Difference, ShadowStatistics, compare
from modelyard.serving.oip.plan import Interface
from modelyard.serving.scheduling.executor import Executor
from modelyard.serving.scheduling.work import Work

__all__ = ["Mirror", "Shadow", "ShadowStatistics"]

_log = logging.getLogger(__name__)

_COMPARED_INLINE: Final = 4096
"""Answers with more elements than this are compared in a pool thread: about 50 us of the loop's time."""


class Shadow:
    """One shadow version, and the copies on their way to it. Event-loop thread only."""

    def __init__(self, executor: Executor, max_rows: int, priority: int, idle: Callable[[], bool], pool: Pool) -> None:
        self.executor = executor
        self.statistics = ShadowStatistics(executor.interface.name, executor.interface.version)
        self._max_rows = max_rows
        self._priority = priority
        self._idle = idle
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._offered: list[Copy] = []
        self._rows = 0

    def offer(self, copy: Copy) -> None:
        """A primary answered: run the copy at the end of this turn of the loop if it need not wait then."""
        self.statistics.offered += 1
        if self._rows + copy.rows > self._max_rows and self._offered:
            self.statistics.dropped += 1
            return
        if not self._offered:
            self._loop.call_soon(self._flush)
        self._offered.append(copy)
        self._rows += copy.rows

    def _flush(self) -> None:
        copies, self._offered, self._rows = self._offered, [], 0
        if not self._idle():
            self.statistics.dropped += len(copies)
            return
        for copy in copies:
            copy.priority = self._priority
            copy.received = copy.whole = copy.enqueued = perf_counter()
            try:
                self.executor.submit(copy)
            except ModelyardError:
                self.statistics.dropped += 1

    def answered(self, primary: list[Tensor], shadow: list[Tensor]) -> None:
        """Both answered."""
        if sum(t.size for t in primary) <= _COMPARED_INLINE:
            self._compared(compare(primary, shadow))
        else:
            self._pool.submit(self._compare_aside, primary, shadow)

    def _compare_aside(self, primary: list[Tensor], shadow: list[Tensor]) -> None:
        difference: Difference | None = None
        try:
            difference = compare(primary, shadow)
        except Exception:  # noqa: BLE001 - boundary of a pool thread
            _log.exception("comparing a shadow's answer failed")
        self._loop.call_soon_threadsafe(self._compared, difference)

    def _compared(self, difference: Difference | None) -> None:
        if difference is None:
            self.statistics.failed += 1
        else:
            difference.into(self.statistics)


class Copy(Work):
    """A request's copy for the shadow; it has nobody to answer to."""

    __slots__ = ("_primary", "_shadow")

    def __init__(self, work: Work, tensors: tuple[Tensor, ...], primary: list[Tensor], shadow: Shadow) -> None:
        Work.__init__(self, work.plan, tensors, work.received)
        self.timeout_s = None
        self._primary = primary
        self._shadow = shadow

    def reply(self, outputs: list[Tensor], start: int, stop: int) -> float:
        """Compare with what the primary answered."""
        rendered = perf_counter()  # nothing is
        batched = self.plan.interface.batched
        self._shadow.answered(self._primary, [o[start:stop] if batched else o for o in outputs])
        return rendered

    def fail(self, error: ModelyardError) -> None:  # noqa: ARG002 - Work's
        """The shadow failed, or dropped the copy in its queue."""
        self._shadow.statistics.failed += 1


class _Observed(Work):
    """A primary's request, of which a copy is made once it is answered. Stands for the front's own work, which
    answers as ever."""

    __slots__ = ("_given", "_shadow", "_work")

    def __init__(self, work: Work, shadow: Shadow) -> None:
        for slot in Work.__slots__:
            if slot != "cancelled":  # that one is asked of the front's
                setattr(self, slot, getattr(work, slot))
        self._work = work
        self._shadow = shadow
        # what a model may write to must be copied before it runs
        self._given = tuple(t.copy() if t.flags.writeable else t for t in work.tensors)

    @property
    def cancelled(self) -> bool:
        """Whether the client left."""
        return self._work.cancelled

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        self._work.cancelled = value

    def reply(self, outputs: list[Tensor], start: int, stop: int) -> float | None:
        """Answer, then offer the copy."""
        rendered = self._work.reply(outputs, start, stop)
        batched = self.plan.interface.batched
        kept = [o[start:stop] if batched else o for o in outputs]
        self._shadow.offer(Copy(self._work, self._given, kept, self._shadow))
        return rendered

    def later(self, sent: Callable[[float], None]) -> None:
        """See `Work.later`."""
        self._work.later(sent)

    def fail(self, error: ModelyardError) -> None:
        """Answer; there is nothing to compare with."""
        self._work.fail(error)


class Mirror:
    """Stands for a primary's executor where requests come in, so that the shadow sees what it was asked."""

    __slots__ = ("_shadow", "interface", "primary")

    def __init__(self, primary: Executor, shadow: Shadow) -> None:
        self.primary = primary
        self.interface: Interface = primary.interface
        self._shadow = shadow

    def submit(self, work: Work) -> None:
        """`Executor.submit` of the primary."""
        self.primary.submit(_Observed(work, self._shadow))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.primary, name)
