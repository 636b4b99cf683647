"""Threads for what may never return: loading, and pre-processing steps, which may be the user's Python."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor as Pool
from concurrent.futures import Future
from queue import SimpleQueue
from time import perf_counter
from typing import Any, Final, Protocol, TypeVar

from modelyard.domain.errors import BackendFailed, ModelyardError
from modelyard.serving.faults import Expired
from modelyard.serving.scheduling.work import Work

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

THREADS: Final = 2
MOST_ABANDONED: Final = 8
"""With more step threads than this hanging, the replica should be replaced: they hold memory, and perhaps cores."""
HANGS_S: Final = 1.0
"""Steps hang that are beyond the request's deadline and have run this long; an SLO of 20 ms does not mean that."""
_LOOK_S: Final = 0.05
_GRACE: Final = 0.1
"""A request is answered at its deadline plus this share of it, as for models that hang (`scheduling.watch`)."""


class StepThreads(Pool):
    """A pool whose threads can be given up while they run; each is then replaced. Thread-safe.

    Its threads are daemons: one that hangs does not keep the process from ending, as those of concurrent.futures do.
    """

    def __init__(self, threads: int = THREADS, name: str = "steps") -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._queued = 0
        self._running: dict[Future[Any], threading.Thread] = {}
        self._lost: set[threading.Thread] = set()
        self._most = threads
        self._name = name

    def submit(self, job: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """See `concurrent.futures.Executor.submit`.

        A thread is started only where none is idle: each keeps memory of its own (an arena of malloc's).
        """
        future: Future[_T] = Future()
        with self._lock:
            if self._queued >= self._threads - len(self._running) and self._threads < self._most:
                self._start()
            self._queued += 1
        self._jobs.put((future, lambda: job(*args, **kwargs)))
        return future

    def abandon(self, future: Future[Any]) -> None:
        """Expect nothing more of a job: taken out of the queue, or its thread is replaced and ends should it return."""
        if future.cancel():
            return
        with self._lock:
            thread = self._running.pop(future, None)
            if thread is None:
                return  # it has just returned
            self._lost.add(thread)
            self._threads -= 1
            self._start()

    @property
    def abandoned(self) -> int:
        """Threads that hang and are not waited for."""
        return len(self._lost)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - Executor's
        """End the threads once they are idle; those that hang end with the process. Never waits."""
        with self._lock:
            threads, self._most = self._threads, 0
        for _ in range(threads):
            self._jobs.put(None)

    def _start(self) -> None:
        threading.Thread(target=self._work, name=self._name, daemon=True).start()
        self._threads += 1

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            lost = self._run(*item)
            del item  # while idle, no request's tensors and no model are held
            if lost:
                return

    def _run(self, future: Future[Any], job: Callable[[], Any]) -> bool:
        """Do a job; whether this thread was given up meanwhile."""
        me = threading.current_thread()
        with self._lock:
            self._queued -= 1
            if not future.set_running_or_notify_cancel():
                return False
            self._running[future] = me
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001 - for whoever asked
            lost = self._returned(future, me)
            future.set_exception(error)
        else:
            lost = self._returned(future, me)
            future.set_result(result)
        return lost

    def _returned(self, future: Future[Any], me: threading.Thread) -> bool:
        """A job is done, though nobody knows yet: whoever submits the next one then finds this thread idle."""
        with self._lock:
            self._running.pop(future, None)
            lost = me in self._lost
            self._lost.discard(me)
        return lost


class Preparing(Protocol):
    """What a watch of pre-processing needs of an executor."""

    def preprocess(self, work: Work) -> None:
        """Run the steps, in a pool's thread; report to the loop."""
        ...

    def unprepared(self, work: Work, error: ModelyardError) -> None:
        """Answer a request whose steps have not come to an end."""
        ...


class StepsWatch:
    """The requests of one executor that are being pre-processed. Event-loop thread only."""

    def __init__(self, executor: Preparing, pool: Pool) -> None:
        self._executor = executor
        self._pool = pool
        self._running: dict[Work, Future[None]] = {}
        self._since: dict[Work, float] = {}
        self._answered: set[Work] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, work: Work) -> None:
        """Pre-process a request, until its deadline at most."""
        self._running[work] = self._pool.submit(self._executor.preprocess, work)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def finished(self, work: Work) -> bool:
        """Whether a request whose steps returned still waits for them."""
        self._since.pop(work, None)
        if work in self._answered:
            self._answered.discard(work)
            del self._running[work]
            return False
        return self._running.pop(work, None) is not None

    def _look(self) -> None:
        now = perf_counter()
        for work, future in list(self._running.items()):
            late = now > work.deadline + _GRACE * (work.deadline - work.received)
            if not future.running():
                if late and future.cancel():
                    del self._running[work]
                    self._executor.unprepared(
                        work, Expired("Request timeout expired", why="it waited for its pre-processing")
                    )
                continue
            since = self._since.setdefault(work, now)
            if late and now - since > HANGS_S:
                self._give_up(work, future)
            elif work.timeout_s is not None and now > work.received + (1 + _GRACE) * work.timeout_s:
                self._expire(work)
        self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look) if self._running else None

    def _expire(self, work: Work) -> None:
        """Its own time is over, while its steps may still return."""
        if work not in self._answered:
            self._answered.add(work)
            why = "its pre-processing has not come to an end"
            self._executor.unprepared(work, Expired("Request timeout expired", why=why))

    def _give_up(self, work: Work, future: Future[None]) -> None:
        if isinstance(self._pool, StepThreads):
            self._pool.abandon(future)
        else:
            future.cancel()
        _log.error("a pre-processing step hangs; its thread is given up")
        answered = work in self._answered
        self.finished(work)
        if not answered:
            why = "it took longer than the request's time"
            self._executor.unprepared(work, BackendFailed("pre-processing does not come to an end", why=why))
