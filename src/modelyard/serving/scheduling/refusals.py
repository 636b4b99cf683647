"""Refusals are cheap: one error object per reason and second, whose text is made once."""

from __future__ import annotations

from math import ceil
from typing import Final

from modelyard.domain.batching import Refusal
from modelyard.domain.errors import Unavailable

_TEXTS: Final = {
    Refusal.QUEUE_FULL: "Exceeds maximum queue size",
    Refusal.WAIT_TOO_LONG: "the predicted wait exceeds the limit",
    Refusal.EXPIRED: "the request waited too long",
    Refusal.EVICTED: "a request of higher priority took its place in the queue",
}
_HINT: Final = "send fewer requests, retry later, or add replicas"


class Refusals:
    """The errors of one model's refusals. The time to come back is told in whole seconds, as HTTP's Retry-After is."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._known: dict[tuple[Refusal, int], Unavailable] = {}

    def slow_steps(self, took_s: float, limit_s: float) -> Unavailable:
        """The error of a request whose pre-processing alone outlasted its time: no replica and no retry heals that."""
        return Unavailable(
            f"model '{self._model}' cannot keep its time: pre-processing alone took {took_s * 1e3:.3g} ms",
            why=f"a request has {limit_s * 1e3:.3g} ms (slo_ms or max_wait_s)",
            hint="make the steps faster, or allow more time; more replicas do not help",
        )

    def of(self, refusal: Refusal, retry_after_s: float) -> Unavailable:
        """The error to raise or to answer with; without the traceback of its last use."""
        seconds = min(max(1, ceil(retry_after_s)), 3600)
        error = self._known.get((refusal, seconds))
        if error is None:
            error = self._known[refusal, seconds] = Unavailable(
                f"model '{self._model}' is overloaded: {_TEXTS[refusal]}", hint=_HINT, retry_after_s=float(seconds)
            )
        error.__traceback__ = None
        error.__context__ = None
        return error
