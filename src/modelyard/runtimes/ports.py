"""What a runtime is: a framework that executes a format, and the loaded artifact it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol, runtime_checkable

from numpy.typing import NDArray

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Signature, Tensors

SLEEPING_THREADS: Final[Mapping[str, str]] = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Environment of processes that execute models, read when a framework is loaded: idle OpenMP threads sleep, not spin.

Seen once, a small CNN in torch with 2 threads, called every 5 ms: 0.5 ms of CPU per call at a p50 of 454 us, against
4.1 ms at 438 us.
"""


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """Where and how wide a loaded artifact computes: `cpu` or `gpu:0`, and intra-operator threads.

    Precision is no option: it belongs to the artifact (`LocalArtifact.precision`) and is always set explicitly.
    """

    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise InvalidInput(f"{self.threads} threads cannot run a model", hint="use threads >= 1")


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a runtime's framework is installed: its version, or the reason and the command that helps."""

    available: bool
    version: str = ""
    reason: str = ""
    hint: str = ""


class Containment(StrEnum):
    """What can be done about a `predict` that does not return.

    `interruptible`: the predictor has `interrupt`, which ends it. `bounded`: it cannot be ended, but computes a fixed
    graph without loops in native code and without the GIL, so that it always returns. `uncontained`: it may run on
    for ever (loops, Python code) or holds the GIL meanwhile; only killing its process ends it.
    """

    INTERRUPTIBLE = "interruptible"
    BOUNDED = "bounded"
    UNCONTAINED = "uncontained"


class Predictor(Protocol):
    """A loaded artifact.

    `settings` are the device, threads, precision and other knobs as read back from the framework, for the record of
    every number. Predictors of this package may be called from several threads at once; whether those calls run in
    parallel (`settings["concurrency"]` = `parallel`) or one after the other (`serial`) depends on the framework. All
    of them release the GIL while the framework computes, as far as the framework does.
    """

    @property
    def signature(self) -> Signature: ...

    @property
    def settings(self) -> Mapping[str, str]: ...

    def predict(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Run the model: arrays by input name in, C-contiguous arrays by output name out, as the signature has them.

        `BYTES` tensors are object arrays of `bytes`. The inputs are not modified; the outputs belong to the caller.
        Raises InvalidInput (inputs do not fit the signature), BackendFailed (the framework failed, or gave outputs that
        do not fit the signature), Unavailable (closed).
        """
        ...

    def close(self) -> None:
        """Let go of the model's memory; may be called twice. Calls in flight end normally, later ones are refused."""
        ...


class Runtime(Protocol):
    """A framework that loads artifacts of some formats. Stateless; may be shared between threads."""

    @property
    def name(self) -> str: ...

    @property
    def formats(self) -> frozenset[str]: ...

    def availability(self) -> Availability:
        """Whether the framework is installed, found out without importing it."""
        ...

    def load(self, artifact: LocalArtifact, options: RuntimeOptions) -> Predictor:
        """Load an artifact for prediction.

        Raises InvalidInput (the file is not a model of this format, or does not fit the signature), Unsupported
        (framework missing, no such device, a datatype or precision it cannot do), Rejected (loading would run code and
        the artifact is not trusted), BackendFailed (the framework failed for another reason).
        """
        ...


@runtime_checkable
class Contained(Protocol):
    """A runtime that knows how far its runs are contained. One without it counts as uncontained."""

    def containment(self, artifact: LocalArtifact) -> Containment:
        """What holds for predictors of this artifact, found out without loading it or importing the framework."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """A predictor whose runs can be ended from another thread."""

    def interrupt(self) -> bool:
        """Make every running `predict` raise BackendFailed soon; later calls are not affected. False: impossible.

        Checked by the framework between operators and loop iterations: one long operator runs to its end.
        """
        ...


def containment(runtime: Runtime, artifact: LocalArtifact) -> Containment:
    """What can be done about a run of `artifact` by `runtime` that does not return."""
    return runtime.containment(artifact) if isinstance(runtime, Contained) else Containment.UNCONTAINED
