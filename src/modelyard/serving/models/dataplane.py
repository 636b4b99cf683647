"""The data plane's behaviour, independent of protocol: which models are served, their metadata, state, statistics.

REST and gRPC only translate. Event-loop thread only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from time import perf_counter
from typing import Any, Final

from modelyard.domain.errors import NotFound, Unavailable
from modelyard.domain.services import ServedModel, Tracing, VersionPolicy
from modelyard.serving.models.comparison import ShadowStatistics
from modelyard.serving.models.repository import Repository
from modelyard.serving.models.states import ModelState, Readiness
from modelyard.serving.models.target import Target
from modelyard.serving.observe.stages import Recorder
from modelyard.serving.observe.statistics import ModelStatistics, ReplicaStatistics
from modelyard.serving.observe.tracing import Tracer
from modelyard.serving.oip.logs import Logs
from modelyard.serving.oip.regions import Regions
from modelyard.serving.scheduling.executor import Executor

STATISTICS_SCHEMA: Final = 2


class DataPlane:
    """The served model versions of a replica."""

    def __init__(self, service: str, version: str, repository: Repository) -> None:
        self.service = service
        self.version = version
        self.ready = False
        """Whether traffic is wanted: every model is loaded and warm, and the replica does not drain."""
        self.draining = False
        self.connections = 0
        self.bad_requests = 0
        """Requests refused before they reached a model: malformed, unknown model, wrong tensors."""
        self.refused_requests = 0
        """Requests refused before they reached a model because large bodies took too much memory."""
        self.repository = repository
        self._plain: dict[str, Target] = {}
        self._started = perf_counter()
        self.triton_metrics = False
        """Whether `/metrics` shows Triton's names too."""
        self.tracer = Tracer(Tracing())
        self.recorder = Recorder(self.tracer)
        """The stages of the requests just served."""
        self.regions = Regions()
        """Shared memory that clients registered."""
        self.logs = Logs()
        """The log settings that clients see and change."""

    @property
    def executors(self) -> list[Executor]:
        """The executor of every version that takes requests."""
        return self.repository.executors

    @property
    def all_executors(self) -> list[Executor]:
        """Those, and those that only finish what they hold."""
        return [*self.repository.executors, *self.repository.retiring]

    def load_s(self, executor: Executor) -> float:
        """How long loading and warming this version took."""
        face = executor.interface
        return self.repository.models[face.name].versions[face.version].load_s

    def find(self, name: str, version: str = "") -> Executor:
        """The executor of a version; without one the default. Raises NotFound, Unavailable, InvalidInput."""
        return self.repository.model(name).routing.find(version)

    def target(self, name: str, version: str = "", label: str = "") -> Target:
        """Where requests to a model, its version or its label go: always the same object for the same name.

        Raises NotFound, Unavailable, InvalidInput.
        """
        if not version and not label and (known := self._plain.get(name)) is not None:
            return known
        target = self.repository.model(name).routing.target(version, label)
        if not version and not label:
            self._plain[name] = target
        return target

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether a model version answers inferences. Raises NotFound for one that is not served at all."""
        try:
            face = self.find(name, version).interface
        except Unavailable:
            return False
        return self.ready and not self.repository.models[name].versions[face.version].unavailable()

    # --- versions

    def index(self, ready_only: bool = False) -> list[ModelState]:
        """The state of every known version of every model, by name and version."""
        names = sorted(self.repository.models)
        states = [state for name in names for state in self.repository.states(name)]
        return [s for s in states if s.state is Readiness.READY] if ready_only else states

    def states(self, name: str) -> list[ModelState]:
        """The states of a model's versions, oldest first. Raises NotFound."""
        return self.repository.states(name)

    def served(self, name: str, version: str = "") -> ServedModel:
        """What a version was loaded from, a caller's overrides included. Raises NotFound, Unavailable, InvalidInput."""
        face = self.find(name, version).interface
        served = self.repository.models[name].versions[face.version].served
        if served is None:
            raise NotFound(f"Request for unknown model: '{name}' version {face.version} is not found")
        return served

    def labels(self, name: str) -> dict[str, int]:
        """A model's labels. Raises NotFound."""
        return dict(self.repository.model(name).routing.policy.labels)

    async def load(
        self, name: str, versions: tuple[int, ...] | None = None, override: dict[str, Any] | None = None
    ) -> None:
        """See `Repository.load`."""
        await self.repository.load(name, versions, override)

    async def unload(self, name: str) -> None:
        """See `Repository.unload`."""
        await self.repository.unload(name)

    async def apply_policies(self, policies: Mapping[str, VersionPolicy], *, exclusive: bool = False) -> None:
        """See `Repository.apply_policies`."""
        await self.repository.apply_policies(policies, exclusive=exclusive)

    def set_labels(self, name: str, labels: Mapping[str, int]) -> None:
        """See `Repository.set_labels`."""
        self.repository.set_labels(name, labels)

    def shadows(self) -> list[ShadowStatistics]:
        """What became of the copies of every shadow version."""
        return [m.routing.shadow.statistics for m in self.repository.models.values() if m.routing.shadow is not None]

    # --- what it tells

    def statistics(self) -> ReplicaStatistics:
        """A snapshot of every counter (`GET /stats`)."""
        return ReplicaStatistics(
            schema=STATISTICS_SCHEMA,
            service=self.service,
            pid=os.getpid(),
            uptime_s=perf_counter() - self._started,
            ready=self.ready,
            models=[_model_statistics(e) for e in self.executors],
            shadows=self.shadows(),
        )


def _model_statistics(executor: Executor) -> ModelStatistics:
    ledger = executor.ledger
    return ModelStatistics(
        model=executor.interface.name,
        version=executor.interface.version,
        held=executor.waiting + executor.running,
        failed=ledger.failed,
        refused={str(k): n for k, n in ledger.refused.items()},
        last_inference_unix_s=ledger.last_unix_s,
        batches=[ledger.by_rows[rows] for rows in sorted(ledger.by_rows)],
        cached=executor.responses.hits if executor.responses is not None else 0,
    )
