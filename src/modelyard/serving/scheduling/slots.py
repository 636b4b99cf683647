"""Execution slots: an instance of a model and the thread that runs it."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import perf_counter
from typing import Final
from zlib import crc32

from modelyard.domain.errors import ModelyardError
from modelyard.domain.scheduling import Batch
from modelyard.domain.tensors import Tensor, Tensors
from modelyard.serving.scheduling.batches import Execution
from modelyard.serving.scheduling.ports import Instance
from modelyard.serving.scheduling.work import Outcome, Work

_log = logging.getLogger(__name__)

JOIN_S: Final = 1.0

Worked = Callable[["Slot", Batch[Work], list[Outcome]], None]
"""Called in the slot's thread once a batch is done."""


class InProcess:
    """`Instance` of a predictor in this very process: nothing can end a run but itself."""

    inline = True

    def __init__(self, predict: Callable[[Tensors], dict[str, Tensor]], close: Callable[[], None]) -> None:
        self.run = predict
        self._close = close

    def interrupt(self) -> bool:
        """Impossible."""
        return False

    def close(self) -> None:
        """Close the predictor."""
        self._close()


class Slot:
    """One instance, its thread, and the batch that it runs. All but the thread's own loop is the event loop's."""

    __slots__ = ("_done", "_execution", "_jobs", "_thread", "batch", "free_at", "given_up", "instance", "lent", "since")

    def __init__(
        self, instance: Instance, execution: Execution, done: Worked, name: str, cores: frozenset[int] | None = None
    ) -> None:
        self.instance = instance
        self.batch: Batch[Work] | None = None
        """What runs on the thread now."""
        self.given_up = False
        """Whether the running batch has been answered already: its result is not wanted."""
        self.since = 0.0
        """When it was given up."""
        self.lent = False
        """Whether it occupies a seat among the replica's models."""
        self.free_at = perf_counter()
        self._execution = execution
        self._done = done
        self._jobs: SimpleQueue[Batch[Work] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(cores,), name=name, daemon=True)
        self._thread.start()

    def start(self, batch: Batch[Work]) -> None:
        """Run a batch on the thread."""
        self.batch = batch
        self._jobs.put(batch)

    def run(self, batch: Batch[Work]) -> list[Outcome]:
        """Run a batch here and now."""
        return self._execution.run(self, batch.items, batch.rows, batch.units)

    def end(self) -> None:
        """The thread ends once it is idle."""
        self._jobs.put(None)

    def close(self) -> None:
        """End the thread after its present batch, which is awaited for a moment, and free the instance."""
        self.end()
        self._thread.join(timeout=JOIN_S)
        self.instance.close()

    def _work(self, cores: frozenset[int] | None) -> None:
        if cores is not None:
            pin(cores)
        while (batch := self._jobs.get()) is not None:
            self._done(self, batch, self.run(batch))
            del batch  # while idle, no request's tensors and shared memory are held


def pin(cores: frozenset[int]) -> None:
    """Keep the calling thread, and threads that it makes from now on, on these cores."""
    with contextlib.suppress(OSError):  # a container may forbid it: the thread then runs anywhere
        os.sched_setaffinity(0, cores)


def cores_of(name: str, index: int, instances: int, threads: int) -> frozenset[int] | None:
    """The cores of the `index`-th of a model's instances; None where it is not pinned.

    Instances are pinned where there are several and all fit the cores of this process; one alone may go where the
    scheduler of the system wants it. Models start at different cores, by their names.
    """
    usable = sorted(os.sched_getaffinity(0))
    if instances < 2 or instances * threads > len(usable):
        return None
    first = crc32(name.encode()) + index * threads
    return frozenset(usable[(first + i) % len(usable)] for i in range(threads))


class Renewal:
    """Makes a new instance in a thread of its own, and again after a growing pause where that fails."""

    FIRST_PAUSE_S: Final = 1.0
    LAST_PAUSE_S: Final = 30.0

    def __init__(
        self, make: Callable[[], Instance], done: Callable[[Renewal, Instance], None], failed: Callable[[str], None]
    ):
        self._make = make
        self._done = done
        self._failed = failed
        self._stop = threading.Event()
        threading.Thread(target=self._work, name="renewal", daemon=True).start()

    def stop(self) -> None:
        """Make no further attempt."""
        self._stop.set()

    def _work(self) -> None:
        pause = self.FIRST_PAUSE_S
        while not self._stop.is_set():
            try:
                instance = self._make()
            except BaseException as error:  # noqa: BLE001 - boundary of a thread; loading may raise anything
                _log.warning("a new instance could not be made", exc_info=not isinstance(error, ModelyardError))
                self._failed(str(error))
                self._stop.wait(pause)
                pause = min(2 * pause, self.LAST_PAUSE_S)
            else:
                self._done(self, instance)
                return
