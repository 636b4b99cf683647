"""Where a model's name, version or label leads at this moment."""

from __future__ import annotations

from collections.abc import Callable

from modelyard.serving.scheduling.executor import Executor


class Target:
    """A name that requests are sent to; fronts keep it and ask again for every request. Event-loop thread only.

    There is one object per name, version and label, and it lives as long as the replica.
    """

    __slots__ = ("_resolve", "only")

    def __init__(self, resolve: Callable[[], Executor]) -> None:
        self._resolve = resolve
        self.only: Executor | None = None
        """The executor, while there is exactly one choice: spares the call in the common case."""

    def lead(self, only: Executor | None, resolve: Callable[[], Executor]) -> None:
        """Lead elsewhere from now on."""
        self.only = only
        self._resolve = resolve

    def pick(self) -> Executor:
        """The executor for the next request. Raises NotFound, Unavailable once the version is gone or not ready."""
        return self.only or self._resolve()
