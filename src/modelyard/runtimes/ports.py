"""What a runtime is: a framework that executes a format, and the loaded artifact it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Signature, Tensors


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
