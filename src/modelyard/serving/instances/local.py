"""An instance in the replica's own process."""

from __future__ import annotations

import logging
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
    end them; interruptible ones are watched while they do.
    """

    def __init__(
        self, name: str, predictor: Predictor, containment: Containment, watchdog: Watchdog, loop_thread: int
    ) -> None:
        self.inline = containment is not Containment.UNCONTAINED
        self.signature = predictor.signature
        self._name = name
        self._predictor = predictor
        self._predict = predictor.predict
        self._loop_thread = loop_thread
        self._runs = 0
        self._thread = 0
        """The thread that runs the model now; 0 for none."""
        self._barred = False
        self._seen = 0
        self._ticks = 0
        self._watchdog = watchdog
        if containment is Containment.INTERRUPTIBLE:
            watchdog.watch(self.check)

    def run(self, tensors: Tensors) -> dict[str, Tensor]:
        """See `scheduling.ports.Instance`."""
        thread = get_ident()
        if self._barred and thread == self._loop_thread:  # its batch mates, tried again alone before the loop turns
            raise BackendFailed(f"model '{self._name}' was interrupted", why="an earlier run held the event loop")
        self._runs += 1
        self._thread = thread
        try:
            return self._predict(tensors)
        finally:
            self._thread = 0

    def interrupt(self) -> bool:
        """End the run under way, where the framework can."""
        return isinstance(self._predictor, Interruptible) and self._predictor.interrupt()

    def check(self) -> None:
        """At every tick of the watchdog: end a run that holds the event loop. The model then never runs there again."""
        runs = self._runs
        if self._thread != self._loop_thread or runs != self._seen:
            self._seen, self._ticks = runs, 0
            return
        self._ticks += 1
        if self._ticks == HELD_TICKS:
            self._barred = True
            self.inline = False
            ended = self.interrupt()
            _log.error(
                "model %s held the event loop: %s; it runs on its own thread from now on",
                self._name,
                "interrupted" if ended else "its runtime cannot interrupt it",
            )

    def close(self) -> None:
        """Let go of the model; a run that still hangs keeps it until it ends."""
        self._watchdog.forget(self.check)
        self._predictor.close()
