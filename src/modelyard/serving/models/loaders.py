"""Threads that load models beside traffic."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Final

from modelyard.domain.errors import BackendFailed
from modelyard.domain.services import ServedModel
from modelyard.serving.instances.steps import StepThreads
from modelyard.serving.models import source
from modelyard.serving.models.change import Ready
from modelyard.serving.models.loading import Loaded

_LOADERS: Final = 4
"""Models loaded at the same time, at most (and at most one per core)."""
_LOADING_INTERVAL_S: Final = 0.0005
"""Half the 99th percentile of the loop's delay while torch is imported beside it, and loads take no longer
(bench/load_stall.py: 10 ms with Python's 5 ms, 5 ms with this)."""


class Loaders:
    """Loads models by `load` (blocking), in `threads`. Event-loop thread only."""

    def __init__(self, load: Callable[[ServedModel], Loaded]) -> None:
        self.threads = StepThreads(max(1, min(_LOADERS, len(os.sched_getaffinity(0)))), "model-loader")
        self._load = load
        self._loading = 0
        self._usual_interval_s = sys.getswitchinterval()

    async def load(self, served: ServedModel, started: Callable[[], None]) -> Ready:
        """The model, and what its files were just before it was read. Raises ModelyardError.

        `started` is called on the loop when a thread begins with it.
        """
        loop = asyncio.get_running_loop()

        def work() -> Ready:
            loop.call_soon_threadsafe(started)
            files = source.fingerprint(served)
            try:
                return Ready(self._load(served), files)
            except (SystemExit, KeyboardInterrupt) as error:  # these would end the event loop, and the replica with it
                why = f"it ended by {type(error).__name__}: {error}"
                raise BackendFailed(
                    f"loading model '{served.name}' version {served.version} failed", why=why
                ) from error

        with self._politely():
            return await loop.run_in_executor(self.threads, work)

    async def fingerprint(self, served: ServedModel) -> tuple[object, ...]:
        """What a model's files are now."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, source.fingerprint, served)

    @contextlib.contextmanager
    def _politely(self) -> Iterator[None]:
        """While something loads, the interpreter lock is asked for more often: the loop waits less for its turn."""
        if not self._loading:
            self._usual_interval_s = sys.getswitchinterval()
            sys.setswitchinterval(min(_LOADING_INTERVAL_S, self._usual_interval_s))
        self._loading += 1
        try:
            yield
        finally:
            self._loading -= 1
            if not self._loading:
                sys.setswitchinterval(self._usual_interval_s)
