"""An instance in the replica's own process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from threading import get_ident
from typing import Final

from modelyard.domain.errors import BackendFailed
from modelyard.domain.tensors import Tensor, Tensors
from modelyard.runtimes.ports import Containment, Interruptible, Predictor
from modelyard.serving.instances.watchdog import Watchdog

_log = logging.getLogger(__name__)

HELD_TICKS: Final = 5
"""An inline run seen at this many ticks of the watchdog in a row (0.25 s) holds the event loop; it was predicted to
take less than 1 ms. Ticks, not a clock: a machine that was suspended makes the clock jump, and one tick."""


class LocalInstance:
    """Runs a predictor in the calling thread. `run` by one thread at a time; `interrupt`, `check` by any.

    `loop_thread` is the ident of the event loop's thread. Uncontained predictors never run inline, because nobody could
    end them; interruptible ones are watched, which costs two stores per run; bounded ones are called directly.
    """

    def __init__(
        self, name: str, predictor: Predictor, containment: Containment, watchdog: Watchdog, loop_thread: int
    ) -> None:
        self.inline = containment is not Containment.UNCONTAINED
        self.signature = predictor.signature
        self.run: Callable[[Tensors], dict[str, Tensor]] = predictor.predict
        """See `scheduling.ports.Instance`."""
        self._name = name
        self._predictor = predictor
        self._predict = predictor.predict
        self._loop_thread = loop_thread
        self._running: Tensors | None = None
        """What the model runs on now; also tells one run from the next."""
        self._seen: Tensors | None = None
        self._ticks = 0
        self._watchdog = watchdog
        if containment is Containment.INTERRUPTIBLE:
            self.run = self._watched
            watchdog.watch(self.check)

    def _watched(self, tensors: Tensors) -> dict[str, Tensor]:
        self._running = tensors
        try:
            return self._predict(tensors)
        finally:
            self._running = None

    def _barred(self, tensors: Tensors) -> dict[str, Tensor]:
        """`run` of a model that has held the event loop: in any other thread, please."""
        if get_ident() == self._loop_thread:  # its batch mates, tried again alone before the loop turns
            raise BackendFailed(f"model '{self._name}' was interrupted", why="an earlier run held the event loop")
        return self._watched(tensors)

    def interrupt(self) -> bool:
        """End the run under way, where the framework can."""
        return isinstance(self._predictor, Interruptible) and self._predictor.interrupt()

    def check(self) -> None:
        """At every tick of the watchdog: end a run that holds the event loop. The model then never runs there again."""
        running = self._running
        if running is None or running is not self._seen:
            self._seen, self._ticks = running, 1
            return
        self._ticks += 1
        if self._ticks != HELD_TICKS or not self._holds_the_loop():
            return
        self.run = self._barred
        self.inline = False
        ended = self.interrupt()
        _log.error(
            "model %s held the event loop: %s; it runs on its own thread from now on",
            self._name,
            "interrupted" if ended else "its runtime cannot interrupt it",
        )

    def _holds_the_loop(self) -> bool:
        """Whether the loop's thread is inside `run`. Looked up only for runs that last: a `run` need not note it."""
        frame = sys._current_frames().get(self._loop_thread)
        while frame is not None:
            if frame.f_code is LocalInstance._watched.__code__ and frame.f_locals["self"] is self:
                return True
            frame = frame.f_back
        return False

    def close(self) -> None:
        """Let go of the model; a run that still hangs keeps it until it ends."""
        self._watchdog.forget(self.check)
        self._predictor.close()
