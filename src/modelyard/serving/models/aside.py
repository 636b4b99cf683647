"""The pool for work that would hold the event loop, which can tell what was handed to it until now."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class AsidePool(ThreadPoolExecutor):
    """A thread pool that knows its unfinished jobs.

    A request whose body is being decoded aside has chosen its version already: a version that leaves is kept until
    the jobs that were under way when it left are done.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(max_workers=workers, thread_name_prefix="aside")
        self._pending: set[Future[object]] = set()

    @property
    def pending(self) -> tuple[Future[object], ...]:
        """The jobs that are not finished."""
        return tuple(self._pending)

    def submit(self, job: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """See `concurrent.futures.Executor.submit`."""
        future = super().submit(job, *args, **kwargs)
        self._pending.add(future)  # type: ignore[arg-type] # kept to be waited for, whatever it gives
        future.add_done_callback(self._pending.discard)
        return future
