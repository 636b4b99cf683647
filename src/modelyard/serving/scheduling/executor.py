"""One model version's driver: takes requests, gives them to the scheduler, runs the batches it forms, answers.

The decisions are `domain.scheduling`'s; here are the clock, the event loop, the slots' threads and the answers.
Everything but the slots' own work happens on the event loop. Cheap batches run right in the loop's tick, so that
whatever arrived in one turn of the loop makes one batch without a thread switch; others run on the slots' threads,
while the next batches gather.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor as Pool
from dataclasses import dataclass
from math import inf
from time import perf_counter
from typing import Any, Final

from modelyard.domain.batching import INLINE_BELOW_S, LatencyModel, Refusal, RowCost, most_rows
from modelyard.domain.configuration import Batching, QueuePolicy
from modelyard.domain.errors import BackendFailed, ModelyardError, Unavailable
from modelyard.domain.scheduling import Batch, Scheduler
from modelyard.domain.services import ServedModel
from modelyard.serving.faults import Expired
from modelyard.serving.instances.steps import StepsWatch
from modelyard.serving.oip.plan import Interface
from modelyard.serving.scheduling.answers import Answering
from modelyard.serving.scheduling.batches import Execution, owned
from modelyard.serving.scheduling.cache import Responses, Shared
from modelyard.serving.scheduling.refusals import Refusals
from modelyard.serving.scheduling.slots import Slot
from modelyard.serving.scheduling.timer import FineTimer
from modelyard.serving.scheduling.turns import Turns
from modelyard.serving.scheduling.watch import Watch
from modelyard.serving.scheduling.work import Outcome, Runnable, Work

_log = logging.getLogger(__name__)

_TIMER_RESOLUTION_S: Final = 5e-3
"""The loop's timers tick in milliseconds; shorter waits take a timer of their own."""


@dataclass(frozen=True, slots=True)
class Allotment:
    """What an executor gets of its replica: `threads` per execution, its `weight` against the other models.

    `pin` lets several instances have cores of their own. `cache_bytes` and `coalesce`: see `scheduling.cache`.
    """

    threads: int = 1
    weight: float = 1.0
    cache_bytes: int = 0
    coalesce: bool = False
    pin: bool = False

    @classmethod
    def of(cls, served: ServedModel, *, pin: bool = False) -> Allotment:
        """As the model's spec has it."""
        return cls(served.threads, served.weight, served.cache_bytes, served.coalesce, pin)


class Executor(Answering):
    """The queue and the execution slots of one model version. Use from the event loop's thread only."""

    def __init__(
        self,
        interface: Interface,
        model: Runnable,
        batching: Batching,
        queue: QueuePolicy,
        steps_pool: Pool,
        allotment: Allotment = Allotment(),
        turns: Turns | None = None,
    ) -> None:
        super().__init__(interface, sliced=model.post is None)
        self.running = 0
        """Requests being executed."""
        self.down: Unavailable | None = None
        """Why no instance is left, where none is and none could be made."""
        self.gone: Unavailable | None = None
        """The answer to whatever still comes, once this executor takes part no more."""
        batched = model.inner.batched
        row_cost = RowCost(model.inner)
        self._batching = batching if batched else Batching()
        self._model = model
        self._steps = StepsWatch(self, steps_pool)
        self._pre = model.pre
        self._inputs = tuple(spec.name for spec in model.inner.inputs)
        self.scheduler: Scheduler[Work] = Scheduler(
            self._batching, queue, LatencyModel(), row_cost=row_cost if row_cost.varies else None
        )
        self._full_units = self._batching.max_cost or most_rows(self._batching, 1)
        self._refusals = Refusals(interface.name)
        self._loop = asyncio.get_running_loop()
        self._turns = turns or Turns()
        self.flow = self._turns.join(self, allotment.weight, allotment.threads)
        self._armed = False
        self._timer: asyncio.TimerHandle | None = None
        self._fine: FineTimer | None = None
        self._awaiting = False
        """Whether a free slot waits for more rows."""
        self._delayed = self._batching.max_delay_us > 0
        self.watch = Watch(self, Execution(interface, model), model, allotment.threads, allotment.pin)
        self._free = self.watch.free
        self.responses: Responses | None = None
        """The cache of responses and the identical requests in flight, where the model has either."""
        if allotment.cache_bytes or allotment.coalesce:
            self.responses = Responses(
                self.submit, self.note, self._loop, allotment.cache_bytes, coalesce=allotment.coalesce
            )

    @property
    def cost(self) -> LatencyModel:
        """The model's learned latency, by units of `domain.batching.RowCost`."""
        return self.scheduler.cost

    @cost.setter
    def cost(self, cost: LatencyModel) -> None:
        self.scheduler.cost = cost

    @property
    def waiting(self) -> int:
        """Requests accepted and not yet taken into a batch, those in pre-processing included."""
        return self.scheduler.held

    # --- acceptance

    def submit(self, work: Work) -> None:
        """Accept a request. Raises Unavailable (with the time to come back) when it cannot be served in time."""
        if self.responses is not None and work.__class__ is not Shared:
            self.responses.submit(work)
            return
        if self.down is not None:
            raise self.down.with_traceback(None)  # one object for all: its traceback would grow by every refusal
        scheduler = self.scheduler
        now = perf_counter()
        if self._pre is None:
            refused = scheduler.offer(work, now)
            if refused is None:
                if self._free and not self._armed:
                    self._enqueued(work)
                if scheduler.dropped:
                    self.answer_dropped()
                return
        else:
            refused = scheduler.admit(work, now)
            if refused is None:
                self._start_steps(work)
                if scheduler.dropped:
                    self.answer_dropped()
                return
        self.ledger.refused[refused.refusal] += 1
        raise self._refusals.of(refused.refusal, refused.retry_after_s)

    def _start_steps(self, work: Work) -> None:
        try:
            self._steps.start(work)
        except RuntimeError as error:  # no thread can be started
            self.scheduler.withdraw()
            raise Unavailable(
                f"pre-processing for model '{self.interface.name}' cannot start",
                why=str(error),
                hint="the system's limit of threads is reached: retry later, or raise it",
            ) from error

    def _enqueued(self, work: Work) -> None:
        """A slot is free and something came."""
        if self._awaiting:
            if self._delayed and work.timeout_s is None and self.scheduler.rows < self._batching.max_size:
                return  # a fixed delay only ends early for a full batch or a deadline
            self._stop_waiting()
        self._armed = True
        self._turns.arm(self)

    def preprocess(self, work: Work) -> None:
        """In a pool thread: run the steps, then queue the result as what the inner model takes."""
        assert self._pre is not None  # noqa: S101 - for the type checker; only then is this called
        started = perf_counter()
        error: ModelyardError | None = None
        try:
            specs = self.interface.signature.inputs
            given = {spec.name: owned(t) for spec, t in zip(specs, work.tensors, strict=True)}
            inner = self._pre.apply(given)
            work.rows = self._model.inner.check_inputs(inner)
            if not work.rows:
                raise BackendFailed(f"pre-processing for model '{self.interface.name}' left no rows")
            work.tensors = tuple(inner[name] for name in self._inputs)
            batched = self._model.inner.batched
            work.shape_key = tuple(t.shape[1:] if batched else t.shape for t in work.tensors)
        except ModelyardError as problem:
            error = problem
        except BaseException as problem:  # noqa: BLE001 - steps may be the user's code; it may even exit
            _log.exception("pre-processing failed")
            error = BackendFailed(f"pre-processing for model '{self.interface.name}' failed", why=str(problem))
        work.pre_s = perf_counter() - started
        self._loop.call_soon_threadsafe(self._preprocessed, work, error)

    def unprepared(self, work: Work, error: ModelyardError) -> None:
        """Answer a request whose pre-processing has not come to an end; `preprocess` may still return, to nobody."""
        self.scheduler.withdraw()
        if not work.cancelled:
            self.fail(work, error)

    def _preprocessed(self, work: Work, error: ModelyardError | None) -> None:
        if not self._steps.finished(work):
            return
        error = error or self.gone
        if error is None and not work.cancelled:
            self.scheduler.enqueue(work, perf_counter())
            if self._free and not self._armed:
                self._enqueued(work)
            return
        self.scheduler.withdraw()
        if error is not None:
            self.fail(work, error)

    # --- turns

    def turn(self) -> None:
        """Run the next batch, if there is one and it is this model's turn."""
        self._armed = False
        scheduler, free = self.scheduler, self._free
        if not free or not scheduler.rows:
            return
        slot = free[-1]
        units = scheduler.units
        if units > self._full_units:
            units = self._full_units
        predicted = scheduler.cost.predict(units)
        inline = predicted < INLINE_BELOW_S and self.sliced and slot.instance.inline
        if not inline and not self._turns.share.enter(self.flow, predicted):
            return  # held back: `Turns.dispatch` comes back to it
        now = perf_counter()
        step = scheduler.next(now)
        if scheduler.dropped:
            self.answer_dropped()
        if step.__class__ is not Batch:
            if not inline:
                self._turns.share.leave(self.flow, -predicted)
            if step is not None:
                self._wait(step - now)  # type: ignore[operator]
            return
        batch: Batch[Work] = step
        self.running += len(batch.items)
        if inline:
            self._run_here(slot, batch)
        else:
            free.pop()
            slot.lent = True
            batch.started = perf_counter()
            self.watch.start(slot, batch)
        if scheduler.rows and free and not self._armed:
            self._armed = True
            self._turns.arm(self)

    def _run_here(self, slot: Slot, batch: Batch[Work]) -> None:
        outcomes = slot.run(batch)
        end = perf_counter()
        self.running -= len(batch.items)
        scheduler = self.scheduler
        try:
            for outcome in outcomes:  # first of all: the callers wait
                self.answer(outcome, slot.free_at)
        finally:
            scheduler.finished(batch, end)
        self._turns.share.charge(self.flow, end - batch.started)
        for outcome in outcomes:
            if outcome.units:
                scheduler.learn(outcome.units, outcome.end - outcome.start)
        slot.free_at = perf_counter()

    def worked(self, slot: Slot, batch: Batch[Work], outcomes: list[Outcome]) -> None:
        """A slot's thread is done with a batch: start the next one before the answers of this one are encoded."""
        free_at, now = slot.free_at, perf_counter()
        slot.free_at = now
        self._free.append(slot)
        self.scheduler.finished(batch, now)
        error = now - batch.started - batch.predicted_s
        if slot.lent:
            self._turns.share.leave(self.flow, error)
        else:
            self._turns.share.correct(self.flow, error)
        for outcome in outcomes:
            if outcome.units:
                self.scheduler.learn(outcome.units, outcome.end - outcome.start)
        if self.scheduler.rows and not self._armed:
            self.turn()
        self._turns.dispatch()
        self.running -= len(batch.items)
        for outcome in outcomes:
            self.answer(outcome, free_at)

    def _wait(self, delay: float) -> None:
        self._awaiting = True
        if delay >= _TIMER_RESOLUTION_S:
            self._timer = self._loop.call_later(delay, self._waited)
            return
        if self._fine is None:
            try:
                self._fine = FineTimer(self._loop, self._waited)
            except OSError:  # out of file descriptors: later is better than never
                self._timer = self._loop.call_later(_TIMER_RESOLUTION_S, self._waited)
                return
        self._fine.start(delay)

    def _waited(self) -> None:
        self._awaiting = False
        self._timer = None
        if not self._armed:
            self.turn()

    def _stop_waiting(self) -> None:
        """More has come: look again in the next turn of the loop."""
        self._awaiting = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif self._fine is not None:
            self._fine.cancel()

    # --- answers

    def answer_dropped(self) -> None:
        """Answer what the scheduler dropped."""
        scheduler = self.scheduler
        dropped, scheduler.dropped = scheduler.dropped, []
        again = scheduler.drain_s(perf_counter())
        for work, refusal in dropped:
            self.ledger.refused[refusal] += 1
            own = work.timeout_s is not None and work.deadline >= work.received + work.timeout_s
            if refusal is Refusal.EXPIRED and own:
                error: ModelyardError = Expired("Request timeout expired", why="it waited longer than its own timeout")
            elif refusal is Refusal.EXPIRED and work.pre_s > work.deadline - work.received:
                error = self._refusals.slow_steps(work.pre_s, work.deadline - work.received)
            else:
                error = self._refusals.of(refusal, again)
            self.refuse(work, error)

    # --- life

    def sweep(self, now: float) -> None:
        """Drop expired requests that no batch formation has met, e.g. behind a slow execution."""
        self.scheduler.expire(now)
        if self.scheduler.dropped:
            self.answer_dropped()

    def stuck(self, now: float) -> bool:
        """Whether the replica must be replaced for this model to be served again."""
        return self.watch.stuck(now)

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs."""
        if self.responses is not None and self.responses.digesting:
            return False
        return self.scheduler.held == 0 and self.running == 0

    def leave(self) -> None:
        """Take part no more: what waits is refused, what runs is still answered. `free` may follow."""
        face = self.interface
        self.gone = self.down = Unavailable(f"model '{face.name}' version {face.version} is no longer served")
        self.scheduler.expire(inf)
        dropped, self.scheduler.dropped = self.scheduler.dropped, []
        for work, _ in dropped:
            self.ledger.refused[Refusal.DRAINING] += 1
            self.refuse(work, self.gone)
        self._stop_waiting()
        if self._fine is not None:
            self._fine.close()
            self._fine = None
        self._turns.part(self.flow)

    def free(self) -> None:
        """End the slots' threads after their present batches and free the model: after `leave`; blocks; any thread."""
        self.watch.free_instances()

    def close(self) -> None:
        """Both at once."""
        self.leave()
        self.watch.close()

    def release(self) -> None:
        """A late execution's seat goes to the other models."""
        self._turns.share.leave(self.flow)
        self._turns.dispatch()

    def call_soon_threadsafe(self, call: Any, *arguments: Any) -> None:
        """From a slot's thread; nothing where the loop has ended before an abandoned thread came back."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)
