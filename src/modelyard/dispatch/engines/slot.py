"""A replica's place in a service: its lives, one process after the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from modelyard.dispatch.engines.placement import bind
from modelyard.dispatch.engines.replica import Ready, ReplicaProcess
from modelyard.dispatch.engines.restart import End, EndKind, RestartBudget
from modelyard.dispatch.engines.state import ReplicaRecord
from modelyard.dispatch.ports import AppliedLimits
from modelyard.domain.errors import BackendFailed
from modelyard.domain.services import Replica, ReplicaSpec, ReplicaState

log = logging.getLogger(__name__)


class Slot:
    """A replica's place in the service: keeps a process alive in it, by restarts, until told to end."""

    def __init__(
        self,
        index: int,
        spec: ReplicaSpec,
        life: Callable[[], ReplicaProcess],
        budget: RestartBudget,
        environment: Mapping[str, str],
        changed: Callable[[], None],
    ) -> None:
        """`life` makes the next process; `changed` is called whenever `record` is a new one."""
        self.index = index
        self.spec = spec
        self.record = ReplicaRecord(Replica(index, ReplicaState.STARTING))
        self.ready: Ready | None = None
        self._life = life
        self._budget = budget
        self._environment = environment
        self._changed = changed
        self._ending = asyncio.Event()
        self._drain_s = 0.0
        self._others_serve = False
        self._task: asyncio.Task[None] | None = None
        self._started_at = ""
        self._last_reason = ""
        self._limits = AppliedLimits()
        self.cores: tuple[int, ...] = ()

    def place(self, cores: tuple[int, ...]) -> None:
        """Bind the replica to these cores from now on, after a restart too. Nothing happens where it is already."""
        if cores != self.cores:
            self.cores = cores
            self._bind()
            self._changed()

    def _bind(self) -> None:
        identity = self.record.identity
        if self.cores and identity and self.record.replica.state is ReplicaState.READY:
            bind(identity.pid, self.cores)
            self._limits = replace(self._limits, cores=self.cores)
            self.record = ReplicaRecord(self.record.replica, identity, self._limits)

    async def start(self) -> None:
        """Start the first life and wait until it is ready; from then on it is kept alive.

        Raises BackendFailed, with the last log lines, if the first life does not get ready (it is not retried).
        """
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep_alive(first))
        await first

    async def end(self, drain_s: float, *, others_serve: bool = False) -> None:
        """End the replica for good, giving it `drain_s` to finish what is in flight.

        `others_serve`: other replicas share its ports and take over its callers.
        """
        self._drain_s, self._others_serve = drain_s, others_serve
        self._ending.set()
        if self._task:
            await self._task

    async def _keep_alive(self, first: asyncio.Future[None]) -> None:
        restarts = 0
        while not self._ending.is_set():
            end, tail = await self._one_life(restarts, first)
            if self._ending.is_set():
                break
            self._note(ReplicaState.BACKING_OFF, restarts, detail=end.reason)
            log.warning("replica %s: %s", self.index, end.reason)
            if not first.done():
                self._note(ReplicaState.FAILED, restarts, detail=end.reason)
                first.set_exception(_not_started(self.index, end, tail))
                return
            delay_s = self._budget.delay_s(end)
            if delay_s is None:
                detail = f"gave up after {restarts} restarts; last: {end.reason}"
                self._note(ReplicaState.FAILED, restarts, detail=f"{detail}\n{tail}".rstrip())
                log.error("replica %s: %s", self.index, detail)
                return
            self._note(ReplicaState.BACKING_OFF, restarts, detail=f"{end.reason}; next start in {delay_s:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), delay_s)
            restarts += 1
        if not first.done():
            first.set_exception(BackendFailed(f"replica {self.index} was ended before it was ready"))
        self._note(ReplicaState.STOPPED, restarts)

    async def _one_life(self, restarts: int, first: asyncio.Future[None]) -> tuple[End, str]:
        """Run one process from start to end; returns how it ended and its last log lines."""
        process = None
        drain_s = 0.0
        try:
            process = self._life()
            process.spawn(self._environment)
            self._note(ReplicaState.STARTING, restarts, process, self._last_reason)
            end = await self._unless_ending(process.until_ready())
            if end is None and not self._ending.is_set():
                self.ready = process.ready
                detail = f"restarted: {self._last_reason}" if restarts else ""
                self._note(ReplicaState.READY, restarts, process, detail)
                self._bind()
                if not first.done():
                    first.set_result(None)
                end = await self._unless_ending(process.until_end())
            if self._ending.is_set():
                drain_s = self._drain_s
                self._note(ReplicaState.STOPPING, restarts, process)
            end = end or End(EndKind.EXITED, "told to end")
        except Exception as error:  # the task's boundary: whatever it is, the slot must not silently stop working
            log.exception("replica %s could not be run", self.index)
            end = End(EndKind.NOT_READY, f"could not be run: {error}")
        finally:
            if process:
                await process.finish(drain_s, others_serve=self._others_serve)
        self._last_reason = end.reason
        return end, process.log_tail() if process else ""

    async def _unless_ending(self, watching: Coroutine[None, None, End | None]) -> End | None:
        """The result of `watching`, or None as soon as the slot is told to end."""
        watch, ending = asyncio.create_task(watching), asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait((watch, ending), return_when=asyncio.FIRST_COMPLETED)
            return watch.result() if watch.done() else None
        finally:
            for task in (watch, ending):
                task.cancel()

    def _note(
        self, state: ReplicaState, restarts: int, process: ReplicaProcess | None = None, detail: str = ""
    ) -> None:
        """Make a new record. `process` is given while one runs."""
        identity = process.identity if process else None
        if process and (not self.record.identity or self.record.identity != identity):
            self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
            self._limits = process.applied_limits()
        replica = Replica(self.index, state, identity.pid if identity else None, restarts, self._started_at, detail)
        self.record = ReplicaRecord(replica, identity, self._limits)
        self._changed()


def _not_started(index: int, end: End, tail: str) -> BackendFailed:
    what = f"{'the trial replica' if index < 0 else f'replica {index}'} did not start: {end.reason}"
    return BackendFailed(what, why=f"its last log lines:\n{tail}" if tail else "it logged nothing")
