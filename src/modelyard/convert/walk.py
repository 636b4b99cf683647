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

from modelyard.convert import failures, tensorfile
from modelyard.convert.attempts import Attempt, AttemptCache, check_files, digest_directory, digest_file
from modelyard.convert.cases import Evidence, Kind
from modelyard.convert.failures import Failure
from modelyard.convert.planning import cpu_flags
from modelyard.convert.proof import Prover, raise_if_cancelled
from modelyard.convert.registry import Converters, KnownEdge
from modelyard.convert.sandbox import ChildRunner, Report
from modelyard.convert.tasks import ConvertTask, Task
from modelyard.domain.artifacts import Equivalence, FailureClass, LocalArtifact, Outcome, Target
from modelyard.domain.errors import BackendFailed
from modelyard.domain.tensors import Tensors

_CALIBRATION_ROWS = 128
_CALIBRATION_BATCH = 16
_CODE_VERSION = "1"
"""Part of every cache key: raise it when converters or the proof change what they would answer."""


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
        prover: Prover,
        *,
        runner: ChildRunner,
        converters: Converters,
        cache: AttemptCache,
    ) -> None:
        self._source = source
        self.prover = prover
        self._cases = prover.cases
        self._runner = runner
        self._converters = converters
        self._cache = cache
        self.progress: Callable[[Attempt], None] | None = None
        self._source_digest = digest_directory(Path(source.directory))
        self._evidence_digest = _digest_evidence(evidence)
        self._lock = threading.Lock()
        self._nodes: dict[Target, Future[Node]] = {}
        self._waits: dict[Target, Target] = {}  # what each node under way needs next
        self._wanted: frozenset[Target] = frozenset()

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

    def reach(self, target: Target, stack: tuple[Target, ...] = ()) -> Node:
        """Make and prove `target` by the first route that allows it. Waits if another thread is at it.

        `stack`: what is being made from it, outermost first. Where waiting would close a circle (plug-ins may convert
        back and forth), the node counts as not to be had on this way.
        """
        if target == self.start:
            return Node(self._source, ())
        with self._lock:
            future = self._nodes.get(target)
            mine = future is None
            if future is None:
                future = self._nodes[target] = Future()
            elif not future.done() and self._leads_to(target, stack):
                return Node(None, ())
            if stack:
                self._waits[stack[-1]] = target
        if not mine:
            return future.result()
        try:
            future.set_result(self._make(target, (*stack, target)))
        except BaseException as error:
            future.set_exception(error)
            with self._lock:
                del self._nodes[target]
            raise
        return future.result()

    def _leads_to(self, target: Target, stack: tuple[Target, ...]) -> bool:
        """Whether what makes `target` needs, directly or through others, something in `stack`."""
        waited: Target | None = target
        while waited is not None:
            if waited in stack:
                return True
            waited = self._waits.get(waited)
        return False

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
        raise_if_cancelled(report)
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
            hint = "" if proof.outcome is Outcome.PROVEN else failures.hint_of_rejection(proof.reason)
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
        proof, proof_report = self.prover.prove(made, workspace)
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
        groups: list[Tensors] = [group.tensors for group in self._cases.data] or ([sample] if sample else [])
        if not groups or not self._cases.example.rows:
            return [dict(sample)] if sample else []
        sizes = [len(next(iter(group.values()))) for group in groups]
        total = sum(sizes)
        rows = np.unique(np.linspace(0, total - 1, num=min(total, _CALIBRATION_ROWS)).astype(int))
        batches = []
        for group, size, end in zip(groups, sizes, np.cumsum(sizes), strict=True):
            picked = rows[(rows >= end - size) & (rows < end)] - (end - size)
            for start in range(0, len(picked), _CALIBRATION_BATCH):
                batch = picked[start : start + _CALIBRATION_BATCH]
                batches.append({name: tensor[batch] for name, tensor in group.items()})
        return batches


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
