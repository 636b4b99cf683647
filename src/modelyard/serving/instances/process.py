"""An instance in a child process of its own, kept alive: started again when it dies, within a budget."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import Final, TypeAlias

from modelyard.domain.errors import BackendFailed, ModelyardError, Unavailable
from modelyard.domain.tensors import Tensor, Tensors
from modelyard.serving.faults import without_paths
from modelyard.serving.instances.frames import ChildSpec, Description
from modelyard.serving.instances.life import Life
from modelyard.serving.instances.memory import MemoryWatch
from modelyard.serving.instances.restarts import RestartBudget

_log = logging.getLogger(__name__)

START_LIMIT_S: Final = 600.0
"""Until a model's process must be ready; large models from slow disks take minutes."""

Run: TypeAlias = Callable[[Tensors], dict[str, Tensor]]
WarmUp: TypeAlias = Callable[[Run], None]
"""Runs a model that was started again, before requests reach it."""


class SharedBudget:
    """The restart budget of a model version, used by the keepers of all its instances. Thread-safe."""

    def __init__(self, budget: RestartBudget) -> None:
        self._budget = budget
        self._lock = threading.Lock()
        self.reason = ""
        """Why the model is not available, while the budget is spent."""
        self.restarts = 0
        """Processes that run again."""

    def restarted(self) -> None:
        """A process runs again."""
        with self._lock:
            self.restarts += 1

    def take(self, why: str) -> tuple[bool, float]:
        """Whether a restart is allowed, and seconds to wait for it, or until asking again is of use."""
        with self._lock:
            now = monotonic()
            delay = self._budget.take(now)
            if delay is not None:
                self.reason = ""
                return True, delay
            self.reason = why
            return False, self._budget.renewed_in_s(now)


class ProcessInstance:
    """An `Instance` (scheduling.ports) whose model runs in a child process.

    A thread, the keeper, starts the process, waits for its end and starts the next. `run` waits while it is started
    again, and raises Unavailable at once while the budget of restarts is spent. Never inline: the loop has better to do
    than to wait for another process.
    """

    inline: Final = False

    def __init__(
        self,
        spec: ChildSpec,
        budget: SharedBudget,
        memory: MemoryWatch,
        memory_limit_bytes: int | None = None,
        start_limit_s: float = START_LIMIT_S,
    ) -> None:
        """Start the process and load the model; blocking. Raises ModelyardError where that fails."""
        self._spec = spec
        self._name = f"{spec.name}:{spec.version}"
        self._budget = budget
        self._memory = memory
        self._limit = memory_limit_bytes
        self._start_limit_s = start_limit_s
        self._life: Life | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._interruptions = 0
        self._gone: str | None = None
        self.absent = ""
        """Why no process runs, while it is started again."""
        self.warm_up: WarmUp | None = None
        """Set once the model was warmed up: what to do after a restart."""
        first: Future[Description] = Future()
        threading.Thread(target=self._keep, args=(first,), name=f"keeper-{self._name}", daemon=True).start()
        self.signature = first.result().signature

    # --- Instance

    def run(self, tensors: Tensors) -> dict[str, Tensor]:
        """See `scheduling.ports.Instance`."""
        life = self._life
        return (life if life is not None else self._await_life()).run(tensors)

    def interrupt(self) -> bool:
        """Kill the process, whatever it does; it is started again, and no further run is given to this one."""
        why = "a run took too long"
        with self._changed:
            self._interruptions += 1
            life = self._life
            if life is not None:
                self._life, self.absent = None, why
            self._changed.notify_all()
        if life is not None:
            life.kill(why)
        return True

    def close(self) -> None:
        """End the process for good. Does not wait."""
        with self._changed:
            self._closed = True
            life = self._life
            self._changed.notify_all()
        if life is not None:
            life.kill("the model was unloaded")

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        life = self._life
        return life.pid if life is not None else None

    # --- waiting for a process

    def _await_life(self) -> Life:
        with self._changed:
            before = self._interruptions
            self._changed.wait_for(
                lambda: self._life or self._closed or self._gone is not None or self._interruptions != before
            )
            if self._life is not None:
                return self._life
            if self._closed:
                raise Unavailable(f"model '{self._name}' was unloaded")
            if self._gone is not None:
                raise Unavailable(
                    f"model '{self._name}' is not available",
                    why=without_paths(self._gone),
                    hint="see the replica's log; it is tried again later, or load the version again",
                )
        raise BackendFailed(f"model '{self._name}' was being started again for too long")

    # --- the keeper's thread

    def _keep(self, first: Future[Description]) -> None:
        while not self._closed:
            life = Life(self._spec, self._memory.limit_bytes(self._limit))
            try:
                found = life.start(self._start_limit_s, self._warmer())
            except Exception as error:  # noqa: BLE001 - of the first start to who wants the instance; of later ones to the log
                if not isinstance(error, ModelyardError):
                    _log.exception("model %s could not be started", self._name)
                    life.kill("it failed to start")
                if not first.done():
                    first.set_exception(error)
                    return
                why = f"it failed to start: {error}"
            else:
                why = self._live(life, first, found)
            if self._closed or not self._pause(why):
                return

    def _warmer(self) -> Callable[[Life], None] | None:
        warm_up = self.warm_up
        return None if warm_up is None else lambda life: warm_up(life.run)

    def _live(self, life: Life, first: Future[Description], found: Description) -> str:
        """Publish a started process until it ends; why it did."""
        again = first.done()
        if again:
            self._budget.restarted()  # before anybody can be answered by it
        with self._changed:
            self._life = life
            self.absent = ""
            self._changed.notify_all()
        if not again:
            first.set_result(found)
        else:
            _log.info("model %s runs again, as process %d", self._name, life.pid)
        if self._closed:  # while it started
            life.kill("the model was unloaded")
        self._memory.watch(life)
        why = life.wait()
        self._memory.forget(life)
        with self._changed:
            self._life = None
            self.absent = why
        if not self._closed:
            _log.error("the process of model %s ended: %s", self._name, why)
        return why

    def _pause(self, why: str) -> bool:
        """Wait as the budget says; False where the instance was closed meanwhile."""
        while True:
            allowed, delay_s = self._budget.take(why)
            with self._changed:
                self._gone = None if allowed else f"its process ended too often; the last time {why}"
                if not allowed:
                    _log.error("model %s is not started again for %.0f s: %s", self._name, delay_s, why)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closed, timeout=delay_s)
                if self._closed:
                    return False
            if allowed:
                return True
