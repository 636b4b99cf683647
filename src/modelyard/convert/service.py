"""Conversions as the rest of Modelyard sees them: check a source, convert it to targets, proven or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from modelyard.convert import cases as cases_module
from modelyard.convert import metrics, source_check
from modelyard.convert.attempts import Attempt, AttemptCache, ConversionResult
from modelyard.convert.cases import Evidence
from modelyard.convert.proof import Prover
from modelyard.convert.registry import Converters
from modelyard.convert.sandbox import ChildRunner, Limits
from modelyard.convert.source_check import SourceCheck
from modelyard.convert.walk import Walk
from modelyard.domain.artifacts import LocalArtifact, Target
from modelyard.domain.errors import InvalidInput, Rejected
from modelyard.runtimes import Runtimes

_PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".dill"})

Progress = Callable[[Attempt], None]
"""Called after every attempt, from the thread that ran it."""


class ConversionService:
    """Converts and proves, each step in a child process of its own. Thread-safe; use as a context manager.

    `work_dir` keeps finished conversions (see `AttemptCache`) and working files, which `close` removes. `workers`
    children run at once, sharing the CPU's cores.
    """

    def __init__(
        self,
        runtimes: Runtimes,
        converters: Converters,
        work_dir: Path,
        limits: Limits | None = None,
        *,
        workers: int | None = None,
    ) -> None:
        cores = len(os.sched_getaffinity(0))
        self._workers = workers or max(1, min(4, cores))
        self._runtimes = runtimes
        self._converters = converters
        work_dir.mkdir(parents=True, exist_ok=True)
        self._cache = AttemptCache(work_dir.resolve() / "conversions")
        self._runner = ChildRunner(limits or Limits(), threads=max(1, cores // self._workers))
        self._walks: dict[tuple[str, str], Walk] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill what still runs and remove working files; finished conversions and their artifacts stay."""
        self.cancel()
        with self._lock:
            walks, self._walks = list(self._walks.values()), {}
        for walk in walks:
            walk.prover.close()

    def cancel(self) -> None:
        """Kill all running children; the calls that wait for them raise Unavailable. The service is then of no use."""
        self._runner.cancel()

    def verify_source(
        self, source: LocalArtifact, evidence: Evidence, claimed: Mapping[str, float] | None = None
    ) -> SourceCheck:
        """Run the source in a child and check it against its declared signature; measure the `claimed` metrics.

        An unmet claim is a value (`SourceCheck.unmet`). Raises InvalidInput (the model contradicts the signature, data
        that does not fit it, an unknown metric), Rejected (a pickle without trust), Unsupported (no runtime for it),
        BackendFailed (its process crashed).
        """
        claimed = claimed or {}
        for name in claimed:
            metrics.get(name)
        walk = self._walk(source, evidence)
        return source_check.check(source.signature, evidence, walk.prover.cases, walk.prover.source_run(), claimed)

    def convert(
        self, source: LocalArtifact, target: Target, evidence: Evidence, progress: Progress | None = None
    ) -> ConversionResult:
        """Convert to one target; see `convert_all`."""
        return self.convert_all(source, [target], evidence, progress)[0]

    def convert_all(
        self,
        source: LocalArtifact,
        targets: Sequence[Target],
        evidence: Evidence,
        progress: Progress | None = None,
    ) -> list[ConversionResult]:
        """Convert `source` to every target and prove each equal; one result per target, in the order given.

        What cannot be converted or is not equal is a value in the result. Intermediates are made once. Raises as
        `verify_source` does where the source itself cannot be run. Ctrl-C kills the children before it goes on.
        """
        walk = self._walk(source, evidence)
        if progress:
            walk.progress = progress
        walk.want(targets)
        order = sorted(dict.fromkeys(targets), key=walk.depth)
        with ThreadPoolExecutor(self._workers, thread_name_prefix="convert") as pool:
            try:
                running = {target: pool.submit(walk.reach, target) for target in order}
                nodes = {target: future.result() for target, future in running.items()}
            except BaseException:
                self.cancel()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return [ConversionResult(target, nodes[target].attempts) for target in targets]

    def _walk(self, source: LocalArtifact, evidence: Evidence) -> Walk:
        _check_source(source)
        for name in evidence.metrics:
            metrics.get(name)
        key = (repr(source), repr(evidence))
        with self._lock:
            walk = self._walks.get(key)
            if walk is None:
                prover = Prover(
                    source,
                    evidence,
                    cases_module.build(source.signature, evidence),
                    runner=self._runner,
                    runtimes=self._runtimes,
                    directory=self._cache.workspace(),
                )
                walk = self._walks[key] = Walk(
                    source, evidence, prover, runner=self._runner, converters=self._converters, cache=self._cache
                )
            return walk


def _check_source(source: LocalArtifact) -> None:
    entry = Path(source.directory) / source.entry
    if not entry.is_file():
        raise InvalidInput(f"model file '{source.entry}' does not exist", hint="check source.path in the manifest")
    if entry.suffix in _PICKLES and not source.trusted:
        raise Rejected(
            f"'{source.entry}' is a pickle, which runs code when it is opened",
            hint="store it with skops (scikit-learn), safetensors (PyTorch) or .ubj (XGBoost), or allow it with "
            "`--trust` or `trust: true` in the manifest if you know who made it",
        )
