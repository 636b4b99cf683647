"""What a child is asked to do and what it answers: values that travel as JSON files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelyard.domain.artifacts import FailureClass, LocalArtifact, Target
from modelyard.domain.tensors import Signature


@dataclass(frozen=True, slots=True)
class ConvertTask:
    """Walk one edge: load `converter` (a `module:attribute`) and write the artifact into `directory`."""

    converter: str
    source: LocalArtifact
    route: str
    target: Target
    signature: Signature
    directory: str
    example: str
    calibration: str
    options: Mapping[str, str]
    threads: int


@dataclass(frozen=True, slots=True)
class RunTask:
    """Load `artifact` on `runtime` and run every case of the tensor file `inputs`; write outputs to `outputs`.

    Cases from index `optional_from` on (dataset rows) are run until `budget_s` is spent, and at least one of them. The
    first case is run twice, to tell a model that is not deterministic.
    """

    artifact: LocalArtifact
    runtime: str
    inputs: str
    outputs: str
    threads: int
    device: str = "cpu"
    optional_from: int | None = None
    budget_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Task:
    """The file a child reads: exactly one of `convert` and `run`; the runner fills in the rest.

    `answer`: the file to answer in; `writable`: directories it may write; `parent`: process id of the runner.
    """

    answer: str = ""
    writable: tuple[str, ...] = ()
    parent: int = 0
    convert: ConvertTask | None = None
    run: RunTask | None = None


@dataclass(frozen=True, slots=True)
class Converted:
    """Answer to a ConvertTask: see `ports.Product`."""

    entry: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ran:
    """Answer to a RunTask: for each case that was run, None or what went wrong."""

    errors: tuple[str | None, ...]
    repeatable: bool
    load_s: float


@dataclass(frozen=True, slots=True)
class Problem:
    """An exception in a child. `leaf` is the domain error's class name, if it was one of ours."""

    kind: str
    what: str
    why: str = ""
    hint: str = ""
    leaf: str = ""
    failure: FailureClass | None = None
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The file a child writes. `isolation` names the layers that held."""

    isolation: tuple[str, ...]
    converted: Converted | None = None
    ran: Ran | None = None
    problem: Problem | None = None
