"""Versions on their way out: they finish what they hold, then their memory is given back."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
from collections.abc import Callable
from concurrent.futures import Executor as Pool
from concurrent.futures import Future
from time import perf_counter
from typing import Final

from modelyard.serving import heap
from modelyard.serving.models.aside import AsidePool
from modelyard.serving.models.states import UNLOADED, Stage, Version
from modelyard.serving.scheduling.executor import Executor

_log = logging.getLogger(__name__)

_POLL_S: Final = 0.02


class Retirement:
    """Drains and frees executors that get no new requests. Event-loop thread only.

    `aside` decodes requests that chose their version already; `threads` do what would hold the loop.
    """

    def __init__(self, aside: AsidePool, threads: Pool, drain_timeout_s: float) -> None:
        self.retiring: set[Executor] = set()
        self._aside = aside
        self._threads = threads
        self._drain_timeout_s = drain_timeout_s

    async def retire(self, executor: Executor, version: Version | None) -> None:
        """Let an executor finish, within the drain's time, and free its model. `version`: the one that ends by it."""
        face = executor.interface
        deadline = perf_counter() + self._drain_timeout_s
        await self._decoded(self._aside.pending)
        while not executor.idle and perf_counter() < deadline:
            await asyncio.sleep(_POLL_S)
        if not executor.idle:
            _log.warning("%s:%d is unloaded with requests in flight: the drain timed out", face.name, face.version)
        self.retiring.discard(executor)
        executor.leave()
        await free(self._threads, executor.free)
        if version is not None and version.stage is Stage.UNLOADING:
            version.stage = Stage.END
            version.reason = version.reason or UNLOADED
        _log.info("unloaded %s:%d", face.name, face.version)

    async def _decoded(self, under_way: tuple[Future[object], ...]) -> None:
        """Wait for the requests being decoded now: they may be for this executor."""
        if under_way:
            await asyncio.wait([asyncio.wrap_future(job) for job in under_way], timeout=self._drain_timeout_s)


async def free(threads: Pool, close: Callable[[], None]) -> None:
    """Free a model in a thread, and give its memory back to the system: glibc keeps freed memory otherwise."""
    await asyncio.get_running_loop().run_in_executor(threads, _free, close)


def _free(close: Callable[[], None]) -> None:
    close()
    heap.release()
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
