"""One model version's queue and execution slot: joins waiting requests, runs them, splits the results.

Everything but `_run` happens on the event loop. Cheap batches run right in the loop's tick, so that whatever arrived
in one turn of the loop makes one batch without a thread switch; others run on the model's own worker thread, while
the next batch gathers. What to run and when to wait is `domain.batching`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from concurrent.futures import Executor as Pool
from queue import SimpleQueue
from time import perf_counter, time
from typing import TYPE_CHECKING

import numpy as np

from modelyard.domain.batching import INLINE_BELOW_S, LatencyModel, Refusal, admit, drain_s, joins, wait_s
from modelyard.domain.configuration import Batching, QueuePolicy
from modelyard.domain.errors import BackendFailed, ModelyardError, Unavailable
from modelyard.domain.tensors import Tensor
from modelyard.serving.faults import Expired
from modelyard.serving.observe.statistics import Ledger
from modelyard.serving.oip import wire
from modelyard.serving.oip.plan import Interface
from modelyard.serving.scheduling.work import Group, Outcome, Runnable, Work

if TYPE_CHECKING:
    from modelyard.serving.observe.stages import Recorder

_log = logging.getLogger(__name__)

_STUCK_AFTER_S = 30.0
_STUCK_FACTOR = 50.0
"""An execution counts as stuck after 30 s, and 50 times its predicted time: models that take minutes exist."""
_TIMER_RESOLUTION_S = 1e-3
"""uvloop's timers tick in milliseconds; shorter waits are polled turn by turn."""


class Executor:
    """The queue and the execution slot of one model version. Use from the event loop's thread only."""

    def __init__(
        self, interface: Interface, model: Runnable, batching: Batching, queue: QueuePolicy, steps_pool: Pool
    ) -> None:
        self.interface = interface
        self.ledger = Ledger()
        self.cost = LatencyModel()
        self.recorder: Recorder | None = None
        """Where the stages of executed requests go (`observe.stages`)."""
        self.waiting = 0
        """Requests accepted and not yet taken into a batch, those in pre-processing included."""
        self.running = 0
        self._waiting_rows = 0
        self._model = model
        self._batched = model.inner.batched
        self._batching = batching if model.inner.batched else Batching()
        self._policy = queue
        self._max_rows = self._batching.max_size
        self._inputs = tuple(spec.name for spec in model.inner.inputs)
        self._outputs = tuple((s.name, s.datatype.numpy) for s in model.inner.outputs)
        self._steps_pool = steps_pool
        self._groups: dict[object, Group] = {}
        self._loop = asyncio.get_running_loop()
        self._armed: asyncio.Handle | None = None
        self._armed_is_timer = False
        self._busy = False
        self._running_since = 0.0
        self._running_rows = 0
        self._free_at = perf_counter()
        self._jobs: SimpleQueue[tuple[list[Work], int] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"model-{interface.name}", daemon=True)
        self._thread.start()

    # --- acceptance

    def submit(self, work: Work) -> None:
        """Accept a request. Raises Unavailable (with the time to come back) when it cannot be served in time."""
        timeout = work.timeout_s
        limit = self._policy.max_wait_s if timeout is None else min(timeout, self._policy.max_wait_s)
        if self._waiting_rows > self._max_rows or self.waiting >= self._policy.max_requests:
            self._check_admission(limit)
        self.waiting += 1
        work.deadline = work.received + limit
        if self._model.pre is None:
            self._enqueue(work)
        else:
            self._steps_pool.submit(self._preprocess, work)

    def _check_admission(self, limit: float) -> None:
        answer = admit(self._policy, self._batching, self.cost, self.waiting, self._waiting_rows, limit)
        if answer.refusal is not None:
            self.ledger.refused[answer.refusal] += 1
            raise _refused(self.interface.name, answer.refusal, answer.retry_after_s)

    def _enqueue(self, work: Work) -> None:
        work.enqueued = perf_counter()
        group = self._groups.get(work.shape_key)
        if group is None:
            group = self._groups[work.shape_key] = Group()
        group.queue.append(work)
        group.rows += work.rows
        self._waiting_rows += work.rows
        if self._armed is None:
            if not self._busy:
                self._armed = self._loop.call_soon(self._tick)
        elif self._armed_is_timer and group.rows >= self._max_rows:
            self._armed.cancel()
            self._armed_is_timer = False
            self._armed = self._loop.call_soon(self._tick)

    def _preprocess(self, work: Work) -> None:
        """In a pool thread: run the steps, then queue the result as what the inner model takes."""
        assert self._model.pre is not None  # noqa: S101 - for the type checker; only then is this called
        started = perf_counter()
        error: ModelyardError | None = None
        try:
            specs = self.interface.signature.inputs
            given = {spec.name: _owned(t) for spec, t in zip(specs, work.tensors, strict=True)}
            inner = self._model.pre.apply(given)
            work.rows = self._model.inner.check_inputs(inner)
            work.tensors = tuple(inner[name] for name in self._inputs)
            batched = self._batched
            work.shape_key = tuple(t.shape[1:] if batched else t.shape for t in work.tensors)
        except ModelyardError as problem:
            error = problem
        except Exception as problem:  # noqa: BLE001 - steps may be the user's code
            _log.exception("pre-processing failed")
            error = BackendFailed(f"pre-processing for model '{self.interface.name}' failed", why=str(problem))
        work.pre_s = perf_counter() - started
        self._loop.call_soon_threadsafe(self._preprocessed, work, error)

    def _preprocessed(self, work: Work, error: ModelyardError | None) -> None:
        if error is None and not work.cancelled:
            self._enqueue(work)
            return
        self.waiting -= 1
        if error is not None:
            self._fail(work, error)

    # --- batches

    def _tick(self) -> None:
        self._armed = None
        self._armed_is_timer = False
        if self._busy or not self._groups:
            return
        now = perf_counter()
        key, group = self._oldest()
        delay = wait_s(self._batching, group.rows, group.queue[0].enqueued, now) if self._max_rows > 1 else 0.0
        if delay > 0.0:
            self._wait(delay)
            return
        batch, rows = self._take(key, group, now)
        if batch:
            self.running += len(batch)
            if self._model.post is None and self.cost.predict(rows) < INLINE_BELOW_S:
                for outcome in self._run(batch, rows):
                    self._complete(outcome)
                self._free_at = perf_counter()
            else:
                self._busy = True
                self._running_since, self._running_rows = now, rows
                self._jobs.put((batch, rows))
                return
        if self._groups:
            self._armed = self._loop.call_soon(self._tick)

    def _wait(self, delay: float) -> None:
        if delay < _TIMER_RESOLUTION_S:
            self._armed = self._loop.call_soon(self._tick)
        else:
            self._armed = self._loop.call_later(delay, self._tick)
            self._armed_is_timer = True

    def _oldest(self) -> tuple[object, Group]:
        groups = self._groups
        if len(groups) == 1:
            return next(iter(groups.items()))
        return min(groups.items(), key=lambda item: item[1].queue[0].enqueued)

    def _take(self, key: object, group: Group, now: float) -> tuple[list[Work], int]:
        """Remove the next batch from a group; requests that expired or whose client left are dropped here."""
        queue, most, policy = group.queue, self._max_rows, self._batching
        batch: list[Work] = []
        rows = removed = dropped = 0
        while queue:
            work = queue[0]
            n = work.rows
            if work.cancelled or work.deadline < now:
                queue.popleft()
                removed += n
                dropped += 1
                if not work.cancelled:
                    self._expire(work)
                continue
            if not joins(policy, rows, n):
                break
            queue.popleft()
            batch.append(work)
            rows += n
            if rows >= most:
                break
        group.rows -= removed + rows
        self._waiting_rows -= removed + rows
        self.waiting -= len(batch) + dropped
        if not queue:
            del self._groups[key]
        return batch, rows

    def _expire(self, work: Work) -> None:
        self.ledger.refused[Refusal.EXPIRED] += 1
        if work.timeout_s is not None and work.timeout_s <= self._policy.max_wait_s:
            work.fail(Expired("Request timeout expired", why="it waited longer than its own timeout"))
        else:
            again = max(drain_s(self._batching, self.cost, self._waiting_rows), 1e-3)
            work.fail(_refused(self.interface.name, Refusal.EXPIRED, again))

    def sweep(self, now: float) -> None:
        """Drop expired requests that no batch formation has met, e.g. behind a slow execution."""
        for key, group in list(self._groups.items()):
            kept: deque[Work] = deque()
            for work in group.queue:
                if work.cancelled or work.deadline < now:
                    group.rows -= work.rows
                    self._waiting_rows -= work.rows
                    self.waiting -= 1
                    if not work.cancelled:
                        self._expire(work)
                else:
                    kept.append(work)
            group.queue = kept
            if not kept:
                del self._groups[key]

    def stuck(self, now: float) -> bool:
        """Whether the running execution takes far longer than any before."""
        limit = max(_STUCK_AFTER_S, _STUCK_FACTOR * self.cost.predict(self._running_rows))
        return self._busy and now - self._running_since > limit

    # --- execution

    def _work(self) -> None:
        """The worker thread: runs batches until told to end."""
        while (job := self._jobs.get()) is not None:
            outcomes = self._run(*job)
            self._loop.call_soon_threadsafe(self._worked, outcomes)

    def _worked(self, outcomes: list[Outcome]) -> None:
        """The slot is free: start the next batch before encoding the answers of this one."""
        self._busy = False
        previous_free = self._free_at
        self._free_at = perf_counter()
        if self._groups and self._armed is None:
            self._armed = self._loop.call_soon(self._tick)
        for outcome in outcomes:
            self._complete(outcome, previous_free)

    def _run(self, batch: list[Work], rows: int) -> list[Outcome]:
        """Execute a batch. If it raises, each of its requests runs alone: a poison request hurts only itself."""
        start = perf_counter()
        try:
            outputs = self._predict(batch, rows)
            end = perf_counter()
            self.cost.observe(rows, end - start)
            if self._model.post is None:
                return [Outcome(batch, rows, start, end, outputs)]
        except (Exception, SystemExit) as problem:  # noqa: BLE001 - whatever a model throws ends here
            end = perf_counter()
            if len(batch) > 1:
                return [outcome for work in batch for outcome in self._run([work], work.rows)]
            _log.warning("model %s failed: %r", self.interface.name, problem, exc_info=True)
            return [Outcome(batch, rows, start, end, error=self._failure(problem))]
        return self._postprocess(batch, rows, start, end, outputs)

    def _failure(self, problem: BaseException) -> ModelyardError:
        if isinstance(problem, ModelyardError):
            return problem
        return BackendFailed(f"model '{self.interface.name}' failed", why=f"{type(problem).__name__}: {problem}")

    def _predict(self, batch: list[Work], rows: int) -> list[Tensor]:
        if len(batch) == 1:
            tensors = [_owned(t) for t in batch[0].tensors]
        elif len(self._inputs) == 1:
            tensors = [np.concatenate([work.tensors[0] for work in batch])]
        else:
            tensors = [np.concatenate([work.tensors[i] for work in batch]) for i in range(len(self._inputs))]
        results = self._model.predict(dict(zip(self._inputs, tensors, strict=True)))
        outputs: list[Tensor] = []
        for name, dtype in self._outputs:
            output = results.get(name)
            if output is None:
                raise BackendFailed(f"model '{self.interface.name}' returned no output '{name}'")
            if (
                type(output) is not np.ndarray
                or output.dtype != dtype
                or not output.flags.c_contiguous
                or dtype.kind == "O"
            ):
                output = wire.normalised(output)
                if output.dtype != dtype:
                    raise BackendFailed(
                        f"model '{self.interface.name}' returned output '{name}' as {output.dtype}", why=f"not {dtype}"
                    )
            if self._batched and (not output.ndim or output.shape[0] != rows):
                raise BackendFailed(
                    f"model '{self.interface.name}' returned output '{name}' of shape {list(output.shape)}",
                    why=f"for {rows} rows",
                )
            outputs.append(output)
        return outputs

    def _postprocess(
        self, batch: list[Work], rows: int, start: float, end: float, outputs: list[Tensor]
    ) -> list[Outcome]:
        """Split and post-process each request on its own; its rows become an outcome of its own."""
        assert self._model.post is not None  # noqa: S101 - for the type checker; only then is this called
        outcomes: list[Outcome] = []
        row = 0
        names = [name for name, _ in self._outputs]
        for work in batch:
            stop = row + work.rows
            part = [o[row:stop] for o in outputs] if self._batched else outputs
            row = stop
            began = perf_counter()
            outcome = Outcome([work], rows, start, end, counts=not outcomes)
            try:
                outer = self._model.post.apply(dict(zip(names, part, strict=True)))
                outcome.outputs = [wire.normalised(outer[s.name]) for s in self.interface.signature.outputs]
            except ModelyardError as problem:
                outcome.error = problem
            except Exception as problem:  # noqa: BLE001 - steps may be the user's code
                _log.exception("post-processing failed")
                outcome.error = BackendFailed(
                    f"post-processing for model '{self.interface.name}' failed", why=str(problem)
                )
            work.post_s = perf_counter() - began
            outcomes.append(outcome)
        return outcomes

    # --- answers

    def _complete(self, outcome: Outcome, free_at: float | None = None) -> None:
        batch, outputs = outcome.batch, outcome.outputs
        self.running -= len(batch)
        if outputs is None:
            for work in batch:
                self._fail(work, outcome.error or BackendFailed(f"model '{self.interface.name}' failed"))
            return
        if free_at is None:
            free_at = self._free_at
        start = outcome.start
        began = perf_counter()
        queued = waited = received = pre = post = 0.0
        row = 0
        sliced = self._model.post is None
        for work in batch:
            stop = row + work.rows
            try:
                if sliced:
                    work.reply(outputs, row, stop)
                else:
                    work.reply(outputs, 0, outputs[0].shape[0] if outputs and outputs[0].ndim else 1)
            except ModelyardError as error:
                self._fail(work, error)
            except Exception:  # noqa: BLE001 - one answer must not hurt its batch mates
                _log.exception("answering a request failed")
                self._fail(work, BackendFailed("the answer could not be written"))
            row = stop
            enqueued = work.enqueued
            if enqueued < free_at:
                queued += free_at - enqueued
                waited += start - free_at
            else:
                waited += start - enqueued
            received += enqueued - work.received - work.pre_s
            pre += work.pre_s
            post += work.post_s
        done = perf_counter()
        ledger, n = self.ledger, len(batch)
        ledger.last_unix_s = time()
        seen = ledger.of_rows(outcome.rows)
        seen.requests += n
        seen.receive_s += received
        seen.queue_s += queued
        seen.batch_wait_s += waited
        seen.pre_s += pre
        seen.post_s += post
        seen.infer_s += (outcome.end - start) * n
        seen.encode_s += done - began
        if outcome.counts:
            seen.batches += 1
            seen.busy_s += outcome.end - start
        for work in batch:
            ledger.count_duration(done - work.received)
        if self.recorder is not None:
            self.recorder.record(self.interface, batch, outcome.rows, free_at, start, outcome.end, done)

    def _fail(self, work: Work, error: ModelyardError) -> None:
        self.ledger.failed += 1
        try:
            work.fail(error)
        except Exception:  # noqa: BLE001 - one answer must not hurt its batch mates
            _log.exception("answering a request with an error failed")

    # --- life

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs."""
        return self.waiting == 0 and self.running == 0

    def close(self) -> None:
        """End the worker thread after its present batch and free the model."""
        self._jobs.put(None)
        self._thread.join(timeout=1.0)
        if not self._thread.is_alive():
            self._model.close()


def _owned(tensor: Tensor) -> Tensor:
    """The tensor itself where runtimes may write to it and read it aligned, else a copy."""
    flags = tensor.flags
    return tensor if flags.writeable and flags.aligned else tensor.copy()


def _refused(model: str, refusal: Refusal, retry_after_s: float) -> Unavailable:
    text = {
        Refusal.QUEUE_FULL: "Exceeds maximum queue size",
        Refusal.WAIT_TOO_LONG: "the predicted wait exceeds the limit",
        Refusal.EXPIRED: "the request waited too long",
        Refusal.DRAINING: "the replica is shutting down",
    }[refusal]
    return Unavailable(
        f"model '{model}' is overloaded: {text}",
        hint="send fewer requests, retry later, or add replicas",
        retry_after_s=retry_after_s,
    )
