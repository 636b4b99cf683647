"""One source's way through the format graph: each node is reached once, proven, and built upon only then.

An intermediate is proven before anything is made from it: so the blame for an error falls on the edge that made it, and
its proof is shared by everything made from it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.convert import equivalence, failures, tensorfile
from modelyard.convert.attempts import Attempt, AttemptCache, check_files, digest_directory, digest_file
from modelyard.convert.cases import Cases, Evidence, Kind
from modelyard.convert.equivalence import CaseRun, Subject
from modelyard.convert.failures import Failure
from modelyard.convert.planning import cpu_flags
from modelyard.convert.registry import Converters, KnownEdge
from modelyard.convert.sandbox import ChildRunner, End, Report
from modelyard.convert.tasks import ConvertTask, Ran, RunTask, Task
from modelyard.convert.tolerances import default_tolerance
from modelyard.domain.artifacts import Equivalence, FailureClass, LocalArtifact, Outcome, Target
from modelyard.domain.errors import BackendFailed, ModelyardError, Unavailable, Unsupported
from modelyard.domain.tensors import Tensors
from modelyard.runtimes import Runtimes

_CALIBRATION_ROWS = 128
_CALIBRATION_BATCH = 16
_CODE_VERSION = "1"
"""Part of every cache key: raise it when converters or the proof change what they would answer."""


@dataclass(frozen=True, slots=True)
class SourceRun:
    """The source's answers to the cases."""

    runs: tuple[CaseRun, ...]
    repeatable: bool
    load_s: float
    runtime: str


@dataclass(frozen=True, slots=True)
class Node:
    """A target after all that could be done for it: the proven artifact or None, and the attempts that were made."""

    artifact: LocalArtifact | None
    attempts: tuple[Attempt, ...]


class Walk:
    """Reaches targets from one source under one evidence. Thread-safe: a node that is being made is waited for."""

    def __init__(
        self,
        source: LocalArtifact,
        evidence: Evidence,
        cases: Cases,
        *,
        runner: ChildRunner,
        runtimes: Runtimes,
        converters: Converters,
        cache: AttemptCache,
        progress: Callable[[Attempt], None] | None = None,
    ) -> None:
        self._source = source
        self._evidence = evidence
        self._cases = self.cases = cases
        self._runner = runner
        self._runtimes = runtimes
        self._converters = converters
        self._cache = cache
        self.progress = progress
        self._source_digest = digest_directory(Path(source.directory))
        self._evidence_digest = _digest_evidence(evidence)
        self._directory = cache.workspace()
        self._inputs = self._directory / "cases.npz"
        tensorfile.save(self._inputs, tensorfile.flatten([case.inputs for case in cases.cases]))
        self._lock = threading.Lock()
        self._nodes: dict[Target, Future[Node]] = {}
        self._wanted: frozenset[Target] = frozenset()
        self._source_run: Future[SourceRun] | None = None

    def close(self) -> None:
        """Remove the working files. Artifacts stay."""
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def start(self) -> Target:
        return self._source.target

    def want(self, targets: Iterable[Target]) -> None:
        """Say what will be asked for: what is made anyway is preferred to build upon."""
        with self._lock:
            self._wanted |= frozenset(targets)

    def depth(self, target: Target, seen: frozenset[Target] = frozenset()) -> int:
        """Edges on the preferred way to `target`: the order in which targets are best started."""
        edges = [known for known in self._ordered_edges(target) if known.edge.source not in seen]
        if target == self.start or not edges:
            return 0
        return 1 + self.depth(edges[0].edge.source, seen | {target})

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

    def reach(self, target: Target, stack: tuple[Target, ...] = ()) -> Node:
        """Make and prove `target` by the first route that allows it. Waits if another thread is at it."""
        if target == self.start:
            return Node(self._source, ())
        with self._lock:
            future = self._nodes.get(target)
            mine = future is None
            if future is None:
                future = self._nodes[target] = Future()
        if mine:
            try:
                future.set_result(self._make(target, (*stack, target)))
            except BaseException as error:
                future.set_exception(error)
                with self._lock:
                    del self._nodes[target]
                raise
        return future.result()

    def _make(self, target: Target, stack: tuple[Target, ...]) -> Node:
        attempts: list[Attempt] = []
        for known in self._ordered_edges(target):
            if known.edge.source in stack:
                continue
            parent = self.reach(known.edge.source, stack)
            attempts += [a for a in parent.attempts if a.key not in {done.key for done in attempts}]
            if parent.artifact is None:
                continue
            attempt = self._attempt(known, parent.artifact)
            attempts.append(attempt)
            if self.progress:
                self.progress(attempt)
            if attempt.outcome is Outcome.PROVEN:
                return Node(attempt.artifact, tuple(attempts))
        if not any(a.target == target for a in attempts):
            attempts.append(self._no_route(target, attempts))
        return Node(None, tuple(attempts))

    def _ordered_edges(self, target: Target) -> list[KnownEdge]:
        """Edges into `target` that can be reached, those with the fewest conversions still to run first."""
        steps = self._steps_to_run()
        edges = [known for known in self._converters.into(target) if known.edge.source in steps]
        return sorted(edges, key=lambda known: steps[known.edge.source])

    def _steps_to_run(self) -> dict[Target, int]:
        """For each reachable node, how many conversions must still run to have it; wanted and begun ones cost none."""
        with self._lock:
            free = self._wanted | frozenset(self._nodes)
        steps = {self.start: 0}
        changed = True
        while changed:
            changed = False
            for known in self._converters.edges:
                if known.edge.source not in steps:
                    continue
                cost = steps[known.edge.source] + (0 if known.edge.target in free else 1)
                if cost < steps.get(known.edge.target, sys.maxsize):
                    steps[known.edge.target] = cost
                    changed = True
        return steps

    def _no_route(self, target: Target, attempts: Sequence[Attempt]) -> Attempt:
        reachable = ", ".join(map(str, self._converters.reachable(self.start.format))) or "nothing"
        why = f"no route leads from {self.start} to {target}"
        if attempts:
            why = f"{target} is made from {attempts[-1].target}, which was not proven: {attempts[-1].detail}"
        failure = failures.of(FailureClass.NO_ROUTE, why, f"reachable from {self.start}: {reachable}")
        return self._failed("", self.start, target, "", failure)

    def _failed(self, key: str, parent: Target, target: Target, route: str, failure: Failure) -> Attempt:
        return Attempt(
            key=key or _digest([self._source_digest, str(target), "no-route"]),
            parent=parent,
            target=target,
            route=route,
            outcome=Outcome.FAILED,
            detail=failure.detail,
            duration_s=0.0,
            peak_memory_bytes=0,
            tool_versions={},
            failure=failure.failure,
            hint=failure.hint,
        )

    def _attempt(self, known: KnownEdge, parent: LocalArtifact) -> Attempt:
        edge = known.edge
        versions, missing = _versions(edge.requires)
        parent_digest = self._source_digest if parent is self._source else digest_directory(Path(parent.directory))
        key = _digest(
            [
                *(_CODE_VERSION, self._source_digest, parent_digest, known.converter, edge.route, str(edge.target)),
                *(f"{name}={value}" for name, value in sorted({**edge.options, **versions}.items())),
                *(self._evidence_digest, msgspec.json.encode(self._source.signature).decode()),
            ]
        )
        obstacle = self._obstacle(known, missing)
        if obstacle:
            return self._failed(key, edge.source, edge.target, edge.route, obstacle)
        kept = self._cache.find(key)
        if kept:
            return kept
        workspace = self._cache.workspace()
        try:
            attempt = self._convert_and_prove(key, known, parent, workspace)
            return self._cache.keep(replace(attempt, tool_versions=versions), workspace)
        except BaseException:
            shutil.rmtree(workspace, ignore_errors=True)
            raise

    def _obstacle(self, known: KnownEdge, missing: Sequence[str]) -> Failure | None:
        edge = known.edge
        if missing:
            hint = f"pip install 'modelyard[{edge.extra}]'" if edge.extra else f"pip install {' '.join(missing)}"
            return failures.of(FailureClass.MISSING_DEPENDENCY, f"{missing[0]} is not installed", hint)
        if edge.cpu_flags and not cpu_flags().intersection(edge.cpu_flags):
            detail = f"this CPU has none of {', '.join(edge.cpu_flags)}: {edge.target.precision} would be emulated"
            return failures.of(FailureClass.UNSUPPORTED_DEVICE, detail)
        if edge.calibrates and not self._calibration():
            return failures.of(
                FailureClass.NO_CALIBRATION_DATA, f"{edge.target} is calibrated on data and there is none"
            )
        return None

    def _convert_and_prove(self, key: str, known: KnownEdge, parent: LocalArtifact, workspace: Path) -> Attempt:
        started = time.monotonic()
        edge = known.edge
        files = workspace / "files"
        files.mkdir()
        report = self._convert(known, parent, workspace, files)
        self._raise_if_cancelled(report)
        base = replace(
            self._failed(key, edge.source, edge.target, edge.route, failures.of(FailureClass.CONVERTER_ERROR, "")),
            options=edge.options,
            log=report.log,
            isolation=report.answer.isolation if report.answer else (),
        )

        def finish(
            peak: int, failure: Failure | None = None, proof: Equivalence | None = None, log: str = ""
        ) -> Attempt:
            done = replace(base, duration_s=time.monotonic() - started, peak_memory_bytes=peak, log=base.log + log)
            if failure:
                return replace(done, failure=failure.failure, detail=failure.detail, hint=failure.hint)
            assert proof is not None  # noqa: S101 - one of the two is given
            hint = "" if proof.outcome is Outcome.PROVEN else rejection_hint(proof)
            return replace(
                done,
                outcome=proof.outcome,
                failure=None,
                hint=hint,
                detail=proof.detail,
                equivalence=proof,
                artifact=made,
            )

        failure = failures.of_report(report)
        converted = report.answer.converted if report.answer else None
        if failure or converted is None:
            return finish(report.peak_memory_bytes, failure or failures.of(FailureClass.CRASHED, "it gave no answer"))
        try:
            check_files(files, converted.entry)
        except BackendFailed as error:
            return finish(report.peak_memory_bytes, failures.of(FailureClass.CONVERTER_ERROR, str(error), error.hint))
        made = LocalArtifact(
            directory=str(files),
            entry=converted.entry,
            target=edge.target,
            precision=edge.target.precision,
            signature=self._source.signature,
            options=converted.options,
            trusted=self._source.trusted,
        )
        proof, proof_report = self._prove(made, workspace)
        self._raise_if_cancelled(proof_report)
        peak = max(report.peak_memory_bytes, proof_report.peak_memory_bytes)
        if isinstance(proof, Failure):
            return finish(peak, proof, log=proof_report.log)
        return finish(peak, proof=proof, log=proof_report.log)

    def _convert(self, known: KnownEdge, parent: LocalArtifact, workspace: Path, files: Path) -> Report:
        example, calibration = workspace / "example.npz", workspace / "calibration.npz"
        tensorfile.save(example, self._cases.example.inputs)
        if known.edge.calibrates:
            tensorfile.save(calibration, tensorfile.flatten(self._calibration()))
        task = ConvertTask(
            converter=known.converter,
            source=parent,
            route=known.edge.route,
            target=known.edge.target,
            signature=self._source.signature,
            directory=str(files),
            example=str(example),
            calibration=str(calibration) if known.edge.calibrates else "",
            options=dict(known.edge.options),
            threads=self._runner.threads,
        )
        child = Task(writable=(str(files),), convert=task)
        return self._runner.run(child, workspace / "convert", self._runner.limits.convert_s)

    def _calibration(self) -> list[dict[str, NDArray[Any]]]:
        """Batches of real rows, spread over the dataset (or the samples); empty where there are none."""
        sample = next((case.inputs for case in self._cases.cases if case.kind is Kind.SAMPLE), {})
        data: Tensors = self._cases.data or sample
        if not data or not self._cases.example.rows:
            return [dict(sample)] if sample else []
        total = len(next(iter(data.values())))
        rows = np.unique(np.linspace(0, total - 1, num=min(total, _CALIBRATION_ROWS)).astype(int))
        starts = range(0, len(rows), _CALIBRATION_BATCH)
        return [{name: tensor[rows[s : s + _CALIBRATION_BATCH]] for name, tensor in data.items()} for s in starts]

    def _prove(self, made: LocalArtifact, workspace: Path) -> tuple[Equivalence | Failure, Report]:
        source = self.source_run()
        runtime = self._runtime_for(made.target.format)
        outputs = workspace / "outputs.npz"
        report = self._run(made, runtime, outputs, workspace / "prove")
        failure = failures.of_report(report)
        if failure or not (report.answer and report.answer.ran):
            detail = f"the artifact does not run: {failure.detail if failure else 'no answer'}"
            return replace(failure, detail=detail) if failure else failures.of(FailureClass.CRASHED, detail), report
        task = self._evidence.task
        subject = Subject(
            signature=self._source.signature,
            task=task,
            metrics=self._evidence.metrics,
            precision=made.precision,
            tolerance=self._evidence.tolerance or default_tolerance(self.start, made.precision),
            runtime=runtime,
        )
        runs = _case_runs(report.answer.ran, outputs)
        return equivalence.compare(subject, self._cases, source.runs, runs), report

    def _run_source(self) -> SourceRun:
        runtime = self._runtime_for(self.start.format)
        outputs = self._directory / "source.npz"
        report = self._run(self._source, runtime, outputs, self._directory / "source")
        self._raise_if_cancelled(report)
        if report.problem and report.problem.leaf:
            raise _as_error(report.problem.leaf, report.problem.what, report.problem.why, report.problem.hint)
        failure = failures.of_report(report)
        if failure or not (report.answer and report.answer.ran):
            raise BackendFailed(
                "the source model cannot be run",
                why=failure.detail if failure else "its process gave no answer",
                hint=failure.hint if failure else "see the log",
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
            optional_from=self._cases.first_dataset,
            budget_s=run_s / 4,
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

    @staticmethod
    def _raise_if_cancelled(report: Report) -> None:
        if report.end is End.CANCELLED:
            raise Unavailable("the conversion was cancelled", hint="run it again: what was finished is reused")


def rejection_hint(proof: Equivalence) -> str:
    """What to do about a rejected artifact."""
    reason = str(proof.reason)
    return {
        "batch-baked-in": "take the batch size from the input (x.shape[0], -1 in reshape) instead of a number",
        "decision-disagreement": "calibrate on more representative data, or choose a higher precision",
        "metric-loss": "calibrate on more representative data, or choose a higher precision",
        "numerical-error": "look for branches, random numbers or state in the model that a trace freezes; another "
        "target may keep them",
        "non-finite": "the precision's range is too small for this model: choose bf16 or fp32",
    }.get(reason, "see the conversion's log; another target may work")


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


def _versions(distributions: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    found, missing = {"python": ".".join(map(str, sys.version_info[:3]))}, []
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return found, missing


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _digest_evidence(evidence: Evidence) -> str:
    files = [digest_file(path) if path else "" for path in (evidence.samples, evidence.dataset)]
    rest = replace(evidence, samples=None, dataset=None)
    return _digest([*files, msgspec.json.encode(rest).decode()])
