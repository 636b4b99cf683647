"""The instances of a replica's models: chooses where each model executes, loads copies of it, and ends them."""

from __future__ import annotations

import logging
import os
import sys
from threading import get_ident
from typing import TypeAlias

from modelyard.domain.errors import Unsupported
from modelyard.domain.services import Isolation, ServedModel
from modelyard.runtimes.ports import Containment, Runtime, RuntimeOptions, containment
from modelyard.runtimes.registry import Runtimes
from modelyard.serving.instances.frames import ChildSpec
from modelyard.serving.instances.local import LocalInstance
from modelyard.serving.instances.memory import MemoryWatch
from modelyard.serving.instances.process import ProcessInstance, SharedBudget, WarmUp
from modelyard.serving.instances.restarts import RestartBudget
from modelyard.serving.instances.watchdog import Watchdog

_log = logging.getLogger(__name__)

Loadable: TypeAlias = LocalInstance | ProcessInstance
"""An instance that knows its model's `signature`."""


class Instances:
    """Makes the instances of one replica. Make it on the event loop's thread; its methods may be called by any."""

    def __init__(self, runtimes: Runtimes, memory_limit_bytes: int | None = None) -> None:
        self._runtimes = runtimes
        self._watchdog = Watchdog()
        self._memory = MemoryWatch(self._watchdog, memory_limit_bytes)
        self._loop_thread = get_ident()

    def model(self, served: ServedModel) -> ModelInstances:
        """What makes the instances of one model version. Raises Unsupported for an unknown runtime."""
        runtime = self._runtimes.get(served.runtime)
        isolation = choose(served, runtime)
        return ModelInstances(served, runtime, isolation, self._watchdog, self._loop_thread, self._memory)


class ModelInstances:
    """The instances of one model version. `make` blocks; call it off the event loop."""

    def __init__(
        self,
        served: ServedModel,
        runtime: Runtime,
        isolation: Isolation,
        watchdog: Watchdog,
        loop_thread: int,
        memory: MemoryWatch,
    ) -> None:
        self.isolation = isolation
        self._served = served
        self._runtime = runtime
        self._watchdog = watchdog
        self._loop_thread = loop_thread
        self._memory = memory
        self._budget = SharedBudget(RestartBudget())

    @property
    def unavailable(self) -> str:
        """Why no request can be answered now: its processes ended too often. Empty where they can."""
        return self._budget.reason

    @property
    def restarts(self) -> int:
        """How often one of its processes was started again."""
        return self._budget.restarts

    def make(self) -> Loadable:
        """Load one more copy of the model. Raises ModelyardError as `Runtime.load` does."""
        return self._child() if self.isolation is Isolation.PROCESS else self._inside()

    def warmed(self, instance: Loadable, warm_up: WarmUp) -> None:
        """Say how to warm up this instance's process whenever it is started again."""
        if isinstance(instance, ProcessInstance):
            instance.warm_up = warm_up

    def _inside(self) -> LocalInstance:
        served = self._served
        predictor = self._runtime.load(served.artifact, RuntimeOptions(device=served.device, threads=served.threads))
        how = containment(self._runtime, served.artifact)
        return LocalInstance(served.name, predictor, how, self._watchdog, self._loop_thread)

    def _child(self) -> ProcessInstance:
        served = self._served
        made_by = importable(self._runtime)
        if made_by is None:
            raise Unsupported(
                f"runtime '{served.runtime}' cannot be made in a process of its own",
                why="its class cannot be imported by name",
                hint="set isolation: thread, or move the class to the top of a module",
            )
        spec = ChildSpec(
            served.name,
            served.version,
            made_by,
            served.artifact,
            served.device,
            served.threads,
            os.getpid(),
        )
        return ProcessInstance(spec, self._budget, self._memory, served.memory_limit_bytes)


def choose(served: ServedModel, runtime: Runtime) -> Isolation:
    """Where a model executes (docs/isolation.md has the figures): inside where a run can be interrupted or always
    returns, else in a process of its own. A memory limit of the model's own needs a process."""
    if served.isolation is not Isolation.AUTO:
        return served.isolation
    if served.memory_limit_bytes is None and containment(runtime, served.artifact) is not Containment.UNCONTAINED:
        return Isolation.THREAD
    if importable(runtime) is None:
        _log.warning("runtime '%s' is no importable class: model %s runs inside", runtime.name, served.name)
        return Isolation.THREAD
    return Isolation.PROCESS


def importable(runtime: Runtime) -> str | None:
    """`module:class` by which another process can make this runtime (the entry points' contract: no arguments)."""
    kind = type(runtime)
    module = kind.__module__
    if module == "__main__":
        found = sys.modules["__main__"].__spec__
        if found is None:
            return None
        module = found.name
    return None if "<" in kind.__qualname__ or "." in kind.__qualname__ else f"{module}:{kind.__qualname__}"
