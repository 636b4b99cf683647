"""The slots of one model: which are free, which run too long, what becomes of those.

A model that hangs hurts only itself: an execution far beyond its learned time first loses its seat among the replica's
models; its requests are answered at their own deadlines + 10 %; when all deadlines have passed it is interrupted, and
where that is impossible its thread is abandoned and a new instance takes its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Final

from modelyard.domain.errors import BackendFailed, ModelyardError, Unavailable
from modelyard.domain.scheduling import Batch
from modelyard.serving.faults import Expired, without_paths
from modelyard.serving.scheduling.batches import Execution
from modelyard.serving.scheduling.ports import Instance
from modelyard.serving.scheduling.slots import InProcess, Renewal, Slot, cores_of
from modelyard.serving.scheduling.work import Outcome, Runnable, Work

if TYPE_CHECKING:
    from modelyard.serving.scheduling.executor import Executor

_log = logging.getLogger(__name__)

LOOK_S: Final = 0.05
"""While a slot's thread is busy it is looked at this often."""
FAR: Final = 4.0
"""An execution beyond this many times its prediction (and LOOK_S) is late: it loses its seat."""
HUNG: Final = 10.0
HUNG_FLOOR_S: Final = 1.0
"""Beyond this many times its prediction, and a second, it hangs, once the deadlines of its requests have passed."""
UNTRAINED_FLOOR_S: Final = 30.0
"""The same for a model whose latency is not known yet: first executions may compile kernels."""
HOPELESS: Final = 50.0
HOPELESS_S: Final = 30.0
"""Beyond this many times its prediction, and 30 s, it hangs whatever the deadlines are."""
UNTRAINED_HOPELESS_S: Final = 300.0
"""The same for a model whose latency is not known yet: a request may name any timeout."""
GRACE: Final = 0.1
"""Requests of a late execution are answered at their deadline plus this share of it."""
RETURN_S: Final = 5.0
"""An interrupted execution that has not come back after this time is abandoned."""
MOST_ABANDONED: Final = 3
"""With more threads than this hanging, the replica should be replaced: their memory and cores are gone."""
NO_SLOT_S: Final = 30.0
"""So it should if no instance could be had for so long."""


class Watch:
    """The slots of one executor. Event-loop thread only."""

    def __init__(self, executor: Executor, execution: Execution, model: Runnable, threads: int, pin: bool) -> None:
        self._executor = executor
        self._execution = execution
        self._model = model
        self._name = executor.interface.name
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        instances = model.instances or (InProcess(model.predict, model.close),)
        self._cores = [cores_of(self._name, i, len(instances), threads) if pin else None for i in range(len(instances))]
        self._wanted = len(instances)
        self.free: list[Slot] = []
        """Slots that run nothing."""
        self.slots: list[Slot] = []
        """Slots in service, free or busy."""
        self.abandoned: list[Slot] = []
        """Slots whose thread hangs and will not be waited for."""
        self.hung = 0
        """Executions given up so far."""
        self.replaced = 0
        """Instances that took the place of abandoned ones."""
        self.restarts: Callable[[], int] = int
        """How often an instance's process was started again, if it has one."""
        self._returning: list[Slot] = []
        self._renewals: set[Renewal] = set()
        self._without_since: float | None = None
        for instance in instances:
            self._add(instance)

    def _add(self, instance: Instance) -> None:
        index = len(self.slots)
        cores = self._cores[index] if index < len(self._cores) else None
        slot = Slot(instance, self._execution, self._done, f"model-{self._name}", cores)
        self.slots.append(slot)
        self.free.append(slot)
        self._counted()

    def _counted(self) -> None:
        self._executor.scheduler.slots = len(self.slots)
        if self.slots:
            self._without_since = self._executor.down = None
        elif self._without_since is None:
            self._without_since = perf_counter()

    def start(self, slot: Slot, batch: Batch[Work]) -> None:
        """Run a batch on a slot's thread, watched."""
        slot.start(batch)
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def _done(self, slot: Slot, batch: Batch[Work], outcomes: list[Outcome]) -> None:
        """In the slot's thread."""
        self._executor.call_soon_threadsafe(self._back, slot, batch, outcomes)

    def _back(self, slot: Slot, batch: Batch[Work], outcomes: list[Outcome]) -> None:
        slot.batch = None
        if not slot.given_up:
            self._executor.worked(slot, batch, outcomes)
        elif slot in self._returning:
            self._returning.remove(slot)
            slot.given_up = False
            slot.free_at = perf_counter()
            self.slots.append(slot)
            self.free.append(slot)
            self._counted()
            self._executor.turn()
        elif slot in self.abandoned:
            self.abandoned.remove(slot)
            slot.instance.close()

    # --- too long

    def _look(self) -> None:
        """Look at what runs; again in a moment while something does."""
        self._timer = None
        now = perf_counter()
        late = False
        for slot in list(self.slots):
            batch = slot.batch
            if batch is not None and now - batch.started > max(FAR * batch.predicted_s, LOOK_S):
                late = True
                self._late(slot, batch, now)
        for slot in list(self._returning):
            if now - slot.since > RETURN_S:
                self._returning.remove(slot)
                self._abandon(slot)
        if late:
            self._executor.sweep(now)
        if self._returning or any(slot.batch is not None for slot in self.slots):
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def _late(self, slot: Slot, batch: Batch[Work], now: float) -> None:
        if slot.lent:
            slot.lent = False
            self._executor.release()
        due = 0.0
        for work in batch.items:
            if work.cancelled:
                continue
            own = work.timeout_s  # its deadline may be an SLO, or the longest wait: neither ends what runs
            last = work.received + (1 + GRACE) * (own if own is not None else work.deadline - work.received)
            if own is not None and now > last:
                error = Expired("Request timeout expired", why="the model has not answered in time")
                self._answer(work, error)
            elif last > due:
                due = last
        ran = now - batch.started
        trained = self._executor.cost.trained
        floor = max(HUNG_FLOOR_S, HUNG * batch.predicted_s) if trained else UNTRAINED_FLOOR_S
        hopeless = ran > (max(HOPELESS_S, HOPELESS * batch.predicted_s) if trained else UNTRAINED_HOPELESS_S)
        if hopeless or (now > due and ran > floor):
            self._give_up(slot, batch, now)

    def _answer(self, work: Work, error: ModelyardError) -> None:
        work.cancelled = True
        self._executor.fail(work, error)

    def _give_up(self, slot: Slot, batch: Batch[Work], now: float) -> None:
        executor = self._executor
        slot.given_up = True
        slot.since = now
        self.slots.remove(slot)
        executor.running -= len(batch.items)
        executor.scheduler.finished(batch, now)
        error = self._reason(slot, batch, now - batch.started)
        for work in batch.items:
            if not work.cancelled:
                self._answer(work, error)
        if slot.instance.interrupt():
            self._returning.append(slot)
        else:
            self._abandon(slot)
        self._counted()

    def _reason(self, slot: Slot, batch: Batch[Work], ran: float) -> ModelyardError:
        """Why an execution is given up, noted too: what its requests are told."""
        absent: str = getattr(slot.instance, "absent", "")  # of those that run in a process of their own
        if absent:
            _log.error(
                "model %s: %d rows no longer wait for its process, which is started again", self._name, batch.rows
            )
            return Unavailable(f"model '{self._name}' is being started again", why=without_paths(absent))
        self.hung += 1
        _log.error(
            "model %s: an execution of %d rows hangs, %.1f s after its start (usual: %.3f s)",
            self._name, batch.rows, ran, batch.predicted_s,
        )  # fmt: skip
        why = f"it was given up after {ran:.1f} s; it usually takes {batch.predicted_s:.3g} s"
        return BackendFailed(f"model '{self._name}' does not answer", why=why)

    def _abandon(self, slot: Slot) -> None:
        """Its thread ends should it ever come back; a new instance takes its place."""
        self.abandoned.append(slot)
        slot.end()
        if self._model.renew is None:
            _log.error("model %s cannot be interrupted and no other instance can be made", self._name)
            if not self.slots:
                self._fell("it hangs and cannot be interrupted")
            return
        # each holds a model's memory: not without end, nor for a version that is leaving
        if len(self.abandoned) <= MOST_ABANDONED and self._executor.gone is None:
            self._renewals.add(self._renew())

    def _renew(self) -> Renewal:
        call = self._executor.call_soon_threadsafe
        return Renewal(
            self._model.renew,  # type: ignore[arg-type] # checked by the caller
            lambda renewal, instance: call(self._renewed, renewal, instance),
            lambda why: call(self._fell, why),
        )

    def _renewed(self, renewal: Renewal, instance: Instance) -> None:
        self._renewals.discard(renewal)
        if len(self.slots) + len(self._returning) >= self._wanted or self._executor.gone is not None:
            instance.close()
            return
        self._add(instance)
        self.replaced += 1
        _log.info("model %s: a new instance is in service", self._name)
        self._executor.turn()

    def _fell(self, why: str) -> None:
        if not self.slots:
            self._executor.down = Unavailable(f"model '{self._name}' has no working instance", why=why)

    def stuck(self, now: float) -> bool:
        """Whether only a new process helps: too many threads hang, or no instance can be had."""
        without = self._without_since
        return len(self.abandoned) > MOST_ABANDONED or (without is not None and now - without > NO_SLOT_S)

    def close(self) -> None:
        """End all threads that can be ended; free all instances."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.free_instances()

    def free_instances(self) -> None:
        """`close`, from any thread: what hangs is still looked at until its requests are answered."""
        for renewal in list(self._renewals):
            renewal.stop()
        for slot in (*self.slots, *self._returning):
            slot.close()
        for slot in self.abandoned:
            slot.instance.close()
