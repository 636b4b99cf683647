"""What an executor works with: requests on their way, the groups they wait in, executed batches, the loaded model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from modelyard.domain.errors import ModelyardError
from modelyard.domain.tensors import Signature, Tensor, Tensors
from modelyard.serving.observe.context import TraceContext
from modelyard.serving.oip.plan import Plan
from modelyard.serving.scheduling.ports import Instance


class Steps(Protocol):
    """A pre- or post-processing pipeline (`manifest.steps.Pipeline`)."""

    def apply(self, tensors: Tensors) -> Tensors:
        """Transform named tensors."""
        ...


class Work:
    """One request on its way through an executor. Subclasses know the protocol that it came by.

    `tensors` are in the signature's order; `rows` and `shape_key` decide with what it can be joined. `priority` is 0
    where the request names none. `trace` is the trace that the caller is part of, if any. `received` is when its first
    byte was read, `whole` when it was there and its decoding began (perf_counter).
    """

    __slots__ = (
        "cancelled",
        "deadline",
        "enqueued",
        "plan",
        "post_s",
        "pre_s",
        "priority",
        "received",
        "rows",
        "shape_key",
        "tensors",
        "timeout_s",
        "trace",
        "whole",
    )

    def __init__(self, plan: Plan, tensors: tuple[Tensor, ...], received: float) -> None:
        self.plan = plan
        self.tensors = tensors
        self.rows = plan.rows
        self.shape_key = plan.shape_key
        self.received = received
        self.whole = received
        self.enqueued = received
        self.timeout_s = plan.timeout_s
        self.priority = plan.priority
        self.trace: TraceContext | None = None
        self.deadline = 0.0
        self.pre_s = 0.0
        self.post_s = 0.0
        self.cancelled = False

    def reply(self, outputs: list[Tensor], start: int, stop: int) -> float | None:
        """Answer with rows `start:stop` of a batch's outputs (all of them where the model is not batched).

        Returns when the answer was rendered and its sending began; None where it is sent later: see `later`.
        """
        raise NotImplementedError

    def later(self, sent: Callable[[float], None]) -> None:
        """After `reply` returned None: whom to tell, on the event loop, when the answer is with the kernel; `sent` gets
        the moment it was rendered. Never called where the client leaves before."""
        raise NotImplementedError

    def fail(self, error: ModelyardError) -> None:
        """Answer with an error."""
        raise NotImplementedError


def member(work: Work, rendered: float, sent: float) -> tuple[Any, ...]:
    """What the ring of stages keeps of a request (`observe.stages.Member`); a plain tuple costs a third of one with
    names."""
    return (
        work.received, work.whole, work.enqueued, work.pre_s, work.post_s, rendered, sent, work.plan.id, work.trace
    )  # fmt: skip


@dataclass(slots=True)
class Outcome:
    """An executed batch: its outputs or, where they are None, what to tell its requests."""

    batch: list[Work]
    rows: int
    start: float
    end: float
    outputs: list[Tensor] | None = None
    error: ModelyardError | None = None
    counts: bool = True
    """False for the second and later parts of one execution that was split."""
    units: int = 0
    """What the execution's time teaches the latency model about; 0: nothing."""


@dataclass(frozen=True, slots=True)
class Runnable:
    """A loaded model: `predict` on the `inner` signature's tensors, steps around it, `close` to free it.

    `instances` run it at the same time, one per slot; where there are none, `predict` is the only one. `renew` makes
    another when one hangs or is lost (blocking; called in a thread of its own; raises ModelyardError).
    """

    inner: Signature
    predict: Callable[[Tensors], dict[str, Tensor]]
    close: Callable[[], None]
    pre: Steps | None = None
    post: Steps | None = None
    instances: tuple[Instance, ...] = ()
    renew: Callable[[], Instance] | None = None
