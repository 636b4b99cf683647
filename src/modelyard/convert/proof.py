"""Runs the source once and any number of artifacts on the same cases, each in a child, and has them judged."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from modelyard.convert import equivalence, failures, tensorfile
from modelyard.convert.cases import Cases, Evidence
from modelyard.convert.equivalence import CaseRun, Subject
from modelyard.convert.failures import Failure
from modelyard.convert.sandbox import ChildRunner, End, Report
from modelyard.convert.tasks import Ran, RunTask, Task
from modelyard.convert.tolerances import default_tolerance
from modelyard.domain.artifacts import Equivalence, FailureClass, LocalArtifact
from modelyard.domain.errors import BackendFailed, ModelyardError, Unavailable, Unsupported
from modelyard.runtimes import Runtimes

_DATASET_S = 20.0
"""Seconds a child spends on dataset rows at most; what it has run by then is compared."""


_LOG_LINES = 12
"""Lines of a failing source's log in the error: at registration there is no conversion whose log one could read."""
_NOT_THE_MODEL = frozenset(
    {
        FailureClass.TIMED_OUT,
        FailureClass.OUT_OF_MEMORY,
        FailureClass.MISSING_DEPENDENCY,
        FailureClass.UNTRUSTED,
    }
)
"""Failures of a source whose own hint says what to do; the others' hints speak of conversions."""


@dataclass(frozen=True, slots=True)
class SourceRun:
    """The source's answers to the cases."""

    runs: tuple[CaseRun, ...]
    repeatable: bool
    load_s: float
    runtime: str


class Prover:
    """Proves artifacts of one source under one evidence. Thread-safe; the source runs once, whoever asks first."""

    def __init__(
        self,
        source: LocalArtifact,
        evidence: Evidence,
        cases: Cases,
        *,
        runner: ChildRunner,
        runtimes: Runtimes,
        directory: Path,
    ) -> None:
        """`directory`: an existing one for working files, the prover's own."""
        self._source = source
        self._evidence = evidence
        self.cases = cases
        self._runner = runner
        self._runtimes = runtimes
        self._directory = directory
        self._inputs = directory / "cases.npz"
        tensorfile.save(self._inputs, tensorfile.flatten([case.inputs for case in cases.cases]))
        self._lock = threading.Lock()
        self._source_run: Future[SourceRun] | None = None

    def close(self) -> None:
        """Remove the working files."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def source_run(self) -> SourceRun:
        """Run the source on the cases, once. Raises what its load raised, or BackendFailed."""
        with self._lock:
            future = self._source_run
            mine = future is None
            if future is None:
                future = self._source_run = Future()
        if mine:
            try:
                future.set_result(self._run_source())
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()

    def prove(self, made: LocalArtifact, workspace: Path) -> tuple[Equivalence | Failure, Report]:
        """Run an artifact on the cases and judge it. A failure is one of loading or running it at all."""
        source = self.source_run()
        runtime = self._runtime_for(made.target.format)
        outputs = workspace / "outputs.npz"
        report = self._run(made, runtime, outputs, workspace / "prove")
        raise_if_cancelled(report)
        failure = failures.of_report(report)
        if failure or not (report.answer and report.answer.ran):
            detail = f"the artifact does not run: {failure.detail if failure else 'no answer'}"
            return replace(failure, detail=detail) if failure else failures.of(FailureClass.CRASHED, detail), report
        subject = Subject(
            signature=self._source.signature,
            task=self._evidence.task,
            metrics=self._evidence.metrics,
            precision=made.precision,
            tolerance=self._evidence.tolerance or default_tolerance(self._source.target, made.precision),
            runtime=runtime,
        )
        runs = _case_runs(report.answer.ran, outputs)
        return equivalence.compare(subject, self.cases, source.runs, runs), report

    def _run_source(self) -> SourceRun:
        runtime = self._runtime_for(self._source.target.format)
        outputs = self._directory / "source.npz"
        report = self._run(self._source, runtime, outputs, self._directory / "source")
        raise_if_cancelled(report)
        if report.problem and report.problem.leaf:
            raise _as_error(report.problem.leaf, report.problem.what, report.problem.why, report.problem.hint)
        failure = failures.of_report(report)
        if failure or not (report.answer and report.answer.ran):
            detail = failure.detail if failure else "its process gave no answer"
            last = "\n".join(report.log.rstrip().splitlines()[-_LOG_LINES:])
            raise BackendFailed(
                "the source model cannot be run",
                why=f"{detail}\nthe last lines of its log:\n{last}" if last else detail,
                hint=failure.hint
                if failure and failure.failure in _NOT_THE_MODEL
                else "load and call it by itself "
                "in Python; if that works, check inputs and outputs in the manifest against it",
            )
        ran = report.answer.ran
        return SourceRun(tuple(_case_runs(ran, outputs)), ran.repeatable, ran.load_s, runtime)

    def _run(self, artifact: LocalArtifact, runtime: str, outputs: Path, directory: Path) -> Report:
        run_s = self._runner.limits.run_s
        task = RunTask(
            artifact=artifact,
            runtime=runtime,
            inputs=str(self._inputs),
            outputs=str(outputs),
            threads=self._runner.threads,
            optional_from=self.cases.first_dataset,
            budget_s=min(_DATASET_S, run_s / 4),
        )
        child = Task(writable=(str(outputs.parent),), run=task)
        return self._runner.run(child, directory, run_s)

    def _runtime_for(self, format: str) -> str:  # noqa: A002 - the vocabulary's word
        candidates = self._runtimes.for_format(format)
        for runtime in candidates:
            if runtime.availability().available:
                return runtime.name
        hint = candidates[0].availability().hint if candidates else "see `yard doctor` for what is installed"
        raise Unsupported(f"no installed runtime executes {format}", hint=hint)


def raise_if_cancelled(report: Report) -> None:
    """Raise Unavailable where the work was cancelled: that is no outcome of a conversion."""
    if report.end is End.CANCELLED:
        raise Unavailable("the conversion was cancelled", hint="run it again: what was finished is reused")


def _case_runs(ran: Ran, outputs: Path) -> list[CaseRun]:
    tensors = tensorfile.load(outputs)
    by_case: dict[int, dict[str, NDArray[Any]]] = {}
    for name, tensor in tensors.items():
        index, _, output = name.partition("/")
        by_case.setdefault(int(index), {})[output] = tensor
    return [CaseRun(by_case.get(index, {}), error) for index, error in enumerate(ran.errors)]


def _as_error(leaf: str, what: str, why: str, hint: str) -> ModelyardError:
    kinds = {kind.__name__: kind for kind in ModelyardError.__subclasses__()}
    return kinds.get(leaf, BackendFailed)(what, why=why, hint=hint)
