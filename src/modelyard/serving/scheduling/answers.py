"""Answers of executed batches: rendered and sent request by request, counted, and noted in the ring of stages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from modelyard.domain.errors import BackendFailed, ModelyardError
from modelyard.serving.observe.statistics import Ledger
from modelyard.serving.oip.plan import Interface
from modelyard.serving.scheduling.work import Outcome, Work, member

if TYPE_CHECKING:
    from modelyard.serving.observe.stages import Recorder

_log = logging.getLogger(__name__)


class Answering:
    """The half of an executor that answers. Use from the event loop's thread only."""

    def __init__(self, interface: Interface, *, sliced: bool) -> None:
        self.interface = interface
        self.ledger = Ledger()
        self.recorder: Recorder | None = None
        """Where the stages of executed requests go (`observe.stages`)."""
        self.sliced = sliced
        """Whether a batch's outputs are shared by its requests; else each outcome is one request's own."""

    def answer(self, outcome: Outcome, free_at: float) -> None:
        """Answer the requests of an executed batch, whose slot was free at `free_at`."""
        batch, outputs = outcome.batch, outcome.outputs
        if outputs is None:
            self._failed(outcome, free_at)
            return
        began = done = perf_counter()
        stop = 0
        sliced = self.sliced
        answered: list[Any] = []
        late: list[Any] = []
        left: list[Any] = []
        for work in batch:
            row, stop = stop, stop + work.rows
            if work.cancelled:  # the client left, or was told at its deadline
                left.append(member(work, done, done))
                continue
            try:
                if sliced:
                    rendered = work.reply(outputs, row, stop)
                else:
                    rendered = work.reply(outputs, 0, outputs[0].shape[0] if outputs and outputs[0].ndim else 1)
            except ModelyardError as error:
                self._unanswered(work, outcome, free_at, error)
                continue
            except Exception:  # noqa: BLE001 - one answer must not hurt its batch mates
                _log.exception("answering a request failed")
                self._unanswered(work, outcome, free_at, BackendFailed("the answer could not be written"))
                continue
            done = perf_counter()
            if rendered is None:
                late.append(member(work, 0.0, 0.0))
                work.later(self._late(work, outcome, free_at, done))
            else:  # as `member` does, without the call
                answered.append(
                    (
                        work.received, work.whole, work.enqueued, work.pre_s, work.post_s, rendered, done,
                        work.plan.id, work.trace,
                    )
                )  # fmt: skip
        encoding = done - began
        ledger = self.ledger
        seen = ledger.of_rows(outcome.rows)
        if outcome.counts:
            seen.batches += 1
            seen.busy_s += outcome.end - outcome.start
        ledger.count(seen, answered, free_at, outcome.start, outcome.end, encoding)
        if answered:
            self._record(answered, outcome, free_at)
        if late:
            ledger.count(seen, late, free_at, outcome.start, outcome.end)
        if left:
            self._record(left, outcome, free_at, "the client left, or was told of its deadline, before the answer")

    def _failed(self, outcome: Outcome, free_at: float) -> None:
        problem = outcome.error or BackendFailed(f"model '{self.interface.name}' failed")
        for work in outcome.batch:
            if not work.cancelled:
                self.fail(work, problem)
        now = perf_counter()
        self._record([member(work, now, now) for work in outcome.batch], outcome, free_at, str(problem))

    def _record(self, members: list[Any], outcome: Outcome, free_at: float, error: str = "") -> None:
        if self.recorder is not None:
            self.recorder.record(self.interface, members, outcome.rows, free_at, outcome.start, outcome.end, error)

    def note(self, told: tuple[Any, ...], rows: int, began: float, rendered: float) -> None:
        """Note a request that was answered without an execution of its own: from the cache, or by another's.

        `told`: it as `work.member` has it; `began`: when the answer was there, until then it was queued.
        """
        if self.recorder is not None:
            sent = perf_counter()
            rendered = min(max(rendered, began), sent)
            members = [(*told[:5], rendered, sent, *told[7:])]
            self.recorder.record(self.interface, members, rows, began, began, began)

    def _unanswered(self, work: Work, outcome: Outcome, free_at: float, error: ModelyardError) -> None:
        began = perf_counter()
        self.fail(work, error)
        self._record([member(work, began, perf_counter())], outcome, free_at, str(error))

    def _late(self, work: Work, outcome: Outcome, free_at: float, replied: float) -> Callable[[float], None]:
        """What is to be called when an answer that is sent later has been. It holds no tensors."""
        times = Outcome([], outcome.rows, outcome.start, outcome.end)
        return partial(self._sent_late, member(work, 0.0, 0.0), times, free_at, replied)

    def _sent_late(self, told: Any, outcome: Outcome, free_at: float, replied: float, rendered: float) -> None:
        sent = perf_counter()
        rendered = min(max(rendered, replied), sent)  # another thread may have been faster
        seen = self.ledger.of_rows(outcome.rows)
        seen.encode_s += rendered - replied
        seen.send_s += sent - rendered
        self.ledger.count_durations([sent - told[0]])
        self._record([(*told[:5], rendered, sent, *told[7:])], outcome, free_at)

    def fail(self, work: Work, error: ModelyardError) -> None:
        """Answer an accepted request with an error that is no refusal."""
        self.ledger.failed += 1
        self.ledger.failed_s += perf_counter() - work.received
        self.refuse(work, error)

    def refuse(self, work: Work, error: ModelyardError) -> None:
        """Answer a request with an error that is counted elsewhere."""
        try:
            work.fail(error)
        except Exception:  # noqa: BLE001 - one answer must not hurt its batch mates
            _log.exception("answering a request with an error failed")
