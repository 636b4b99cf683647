"""What state a model version is in: TF Serving's life cycle, and Triton's words for it.

Rules: tensorflow_serving/apis/get_model_status.proto; Triton's model repository extension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from modelyard.domain.errors import ModelyardError
from modelyard.domain.services import ServedModel
from modelyard.serving.faults import for_clients, without_paths
from modelyard.serving.scheduling.executor import Executor


class Stage(StrEnum):
    """TF Serving's life cycle of a version."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


class Readiness(StrEnum):
    """Triton's states."""

    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"


_READINESS = {
    Stage.START: Readiness.LOADING,
    Stage.LOADING: Readiness.LOADING,
    Stage.AVAILABLE: Readiness.READY,
    Stage.UNLOADING: Readiness.UNLOADING,
    Stage.END: Readiness.UNAVAILABLE,
}
UNLOADED = "unloaded"
"""Triton's reason of a version that was unloaded on purpose."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """One version at one moment. `reason` says why it is not ready, or why its last reload failed; `error` too.

    Both are for clients: the server's paths are only in its log.
    """

    name: str
    version: int
    state: Readiness
    reason: str
    stage: Stage
    error: ModelyardError | None = None


class Version:
    """One version of a model while a replica runs. Event-loop thread only.

    `source` is what the spec or the repository says, `served` what was loaded (with a caller's overrides);
    `fingerprint` tells the artifact's files from later ones in the same place.
    """

    __slots__ = (
        "error", "executor", "fingerprint", "load_s", "model", "number", "reason", "served", "source", "stage",
        "unavailable",
    )  # fmt: skip

    def __init__(self, model: str, number: int) -> None:
        self.model = model
        self.number = number
        self.source: ServedModel | None = None
        self.served: ServedModel | None = None
        self.fingerprint: tuple[object, ...] = ()
        self.executor: Executor | None = None
        self.load_s = 0.0
        self.stage = Stage.START
        self.reason = ""
        self.error: ModelyardError | None = None
        self.unavailable: Callable[[], str] = str
        """Why a version that serves answers nothing now (its process ended too often); empty where it does."""

    @property
    def state(self) -> ModelState:
        """A snapshot."""
        if self.stage is Stage.AVAILABLE and (reason := self.unavailable()):
            return ModelState(self.model, self.number, Readiness.UNAVAILABLE, without_paths(reason), self.stage)
        return ModelState(self.model, self.number, _READINESS[self.stage], self.reason, self.stage, self.error)

    def failed(self, error: ModelyardError) -> None:
        """Loading failed: a version that serves goes on with what it has."""
        self.error = for_clients(error)
        self.reason = str(self.error)
        if self.executor is None:
            self.stage = Stage.END
