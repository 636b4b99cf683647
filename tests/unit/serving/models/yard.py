"""A repository whose executors only record what happens to them, and whose loader does as it is told."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import msgspec

from modelyard.domain.batching import LatencyModel
from modelyard.domain.errors import InvalidInput
from modelyard.serving.models.aside import AsidePool
from modelyard.serving.models.loading import Loaded
from modelyard.serving.models.repository import Repository
from modelyard.serving.models.states import Stage
from modelyard.serving.observe.statistics import Ledger
from modelyard.serving.oip.plan import Interface
from modelyard.serving.scheduling.work import Runnable


class Recorded:
    """What the repository needs of an executor."""

    def __init__(self, loaded):
        self.interface = loaded.interface
        self.served = loaded.served
        self.ledger = Ledger()
        self.idle = True
        self.leaving = False
        self.closed = False

    def leave(self):
        assert threading.current_thread() is threading.main_thread()
        self.leaving = True

    def free(self):
        assert threading.current_thread() is not threading.main_thread()
        self.closed = True


class Yard:
    """A repository with a loader that can be told to wait (`gates`) or to fail (behaviour `refuse`)."""

    def __init__(self, *models, directory=None, policies=None, drain_timeout_s=5.0, exit_on_error=True):
        self.made: list[Recorded] = []
        self.freed: list[tuple[str, int]] = []
        self.loads: list[tuple[str, int]] = []
        self.gates: dict[int, threading.Event] = {}
        self.lost = None
        self.pool = AsidePool(1)
        self.repository = Repository(
            models,
            policies or {},
            directory and str(directory),
            self._load,
            self._make,
            self.pool,
            drain_timeout_s,
            exit_on_error=exit_on_error,
        )

    def _load(self, served):
        self.loads.append((served.name, served.version))
        if gate := self.gates.get(served.version):
            assert gate.wait(10)
        if served.artifact.options["behaviour"] == "refuse":
            raise InvalidInput("the file is no model")
        if served.artifact.options["behaviour"] == "lost":
            raise InvalidInput(f"there is no file {self.lost}", hint=f"look in {self.lost.parent}")
        if served.artifact.options["behaviour"] == "crash":
            raise ZeroDivisionError("oh")
        if served.artifact.options["behaviour"] == "exit":
            raise SystemExit(3)
        signature = served.artifact.signature
        close = lambda: self.freed.append((served.name, served.version))  # noqa: E731
        model = Runnable(signature, dict, close)
        return Loaded(served, Interface(served.name, served.version, signature), model, LatencyModel(), 0.5)

    def _make(self, loaded):
        executor = Recorded(loaded)
        self.made.append(executor)
        return executor

    def picks(self, n=20, name="m"):
        target = self.repository.model(name).routing.target()
        return dict(Counter(target.pick().interface.version for _ in range(n)))

    def serving(self, name="m"):
        return sorted(self.repository.model(name).routing.serving)

    def stages(self, name="m"):
        return {s.version: s.stage for s in self.repository.states(name)}

    async def settled(self):
        """Wait until all versions on their way out are gone."""
        async with asyncio.timeout(10):
            while self.repository.retiring or Stage.UNLOADING in self.stages().values():
                await asyncio.sleep(0.005)

    async def close(self):
        await self.repository.close()
        self.pool.shutdown()


def write(root, *models):
    for served in models:
        folder = root / served.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{served.version}.json").write_bytes(msgspec.json.encode(served))
