"""What a converter is: edges of the format graph and the code that walks one of them, always in a child process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from modelyard.domain.artifacts import FailureClass, LocalArtifact, Target
from modelyard.domain.tensors import Signature, Tensors


@dataclass(frozen=True, slots=True)
class Edge:
    """One way from one format to another. Cheap to read: the parent plans with edges, only children run them.

    `route` names the way and is unique. `requires` are distribution names (`onnxruntime`) whose versions go into the
    cache key; `extra` is what to install when one is missing. `calibrates`: needs real data. `cpu_flags`: the CPU must
    have at least one of these.
    """

    route: str
    source: Target
    target: Target
    requires: tuple[str, ...] = ()
    extra: str = ""
    calibrates: bool = False
    cpu_flags: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConversionJob:
    """What a converter gets in its child. It writes its files into `directory` and nowhere else.

    `signature` is the source's and must be kept: names, datatypes, symbolic dimensions. `example` has two rows when
    the model takes batches (exporters specialise on 0 and 1). `calibration` holds real batches, in model-input form.
    """

    source: LocalArtifact
    route: str
    target: Target
    signature: Signature
    directory: Path
    example: Tensors
    calibration: Sequence[Tensors] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Product:
    """What a converter made: the main file relative to the job's directory, and options its runtime needs."""

    entry: str
    options: Mapping[str, str] = field(default_factory=dict)


class Converter(Protocol):
    """A family of edges. Import frameworks inside `convert` only: the parent imports the module to read `edges`."""

    @property
    def name(self) -> str:
        """Name in the registry."""
        ...

    @property
    def edges(self) -> Sequence[Edge]:
        """The ways this converter knows, best first."""
        ...

    def convert(self, job: ConversionJob) -> Product:
        """Walk `job.route`. Raise ConversionProblem for a named failure; any other exception is classified."""
        ...


class ConversionProblem(Exception):
    """A failure that the converter itself can name. Becomes `failed(failure)` with `hint`, or the class's own hint."""

    def __init__(self, failure: FailureClass, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.failure = failure
        self.hint = hint
