"""The batch-latency curve l(batch, threads) of one artifact, measured in-process in a child of its own.

It is what publish prunes with: seconds of work instead of a deployed service per candidate. It never decides; every
number a user is shown comes from a real service under load.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import BackendFailed
from modelyard.domain.tensors import Datatype, Tensors
from modelyard.runtimes.ports import SLEEPING_THREADS

if TYPE_CHECKING:
    from modelyard.runtimes import Predictor


LONGEST_RUN_S = 0.4
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR", "TZ")
"""Model code runs in the child: it gets none of the user's secrets."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Median wall and mean CPU seconds of one run of `batch` rows with `threads` intra-op threads."""

    batch: int
    threads: int
    wall_s: float
    cpu_s: float
    runs: int


@dataclass(frozen=True, slots=True)
class Curve:
    """The points of one artifact on one runtime; `error` says why there are none."""

    runtime: str
    points: tuple[CurvePoint, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Task:
    artifact: LocalArtifact
    runtime: str
    device: str
    threads: tuple[int, ...]
    batches: tuple[int, ...]
    payload: str
    point_budget_s: float
    bytes_inputs: tuple[str, ...] = field(default_factory=tuple)


def measure_curve(
    artifact: LocalArtifact,
    runtime: str,
    payload: Tensors,
    *,
    device: str = "cpu",
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1, 8),
    point_budget_s: float = 0.25,
    timeout_s: float = 120.0,
) -> Curve:
    """Measure every (batch, threads) point; a point runs for about `point_budget_s`, or once if a run takes longer.

    Batches beyond one that took `LONGEST_RUN_S` are left out. `payload` are the inputs of some rows; they are repeated
    to make up a batch. A failure is a Curve with `error`.
    """
    names = tuple(n for n, t in payload.items() if Datatype.of(t.dtype) is Datatype.BYTES)
    with tempfile.TemporaryDirectory(prefix="yard-curve-") as folder:
        arrays = {n: t.astype("S") if n in names else t for n, t in payload.items()}
        np.savez(Path(folder, "payload.npz"), **arrays)  # type: ignore[arg-type]
        task = _Task(
            artifact,
            runtime,
            device,
            tuple(threads),
            tuple(batches),
            str(Path(folder, "payload.npz")),
            point_budget_s,
            names,
        )
        Path(folder, "task.json").write_bytes(msgspec.json.encode(task))
        command = [sys.executable, "-m", "modelyard.profile.curve", str(Path(folder, "task.json"))]
        try:
            kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
            environment = {**SLEEPING_THREADS, **kept}  # as in a replica
            done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False, env=environment)
        except subprocess.TimeoutExpired:
            return Curve(runtime, error=f"no answer within {timeout_s:g} s")
        if done.returncode != 0:
            tail = done.stderr.decode(errors="replace").strip().splitlines()
            return Curve(runtime, error=tail[-1] if tail else f"exit status {done.returncode}")
        return msgspec.json.decode(Path(folder, "task.json.out").read_bytes(), type=Curve)


def main(argv: Sequence[str]) -> int:
    """Entry of the child: measure the task's points and write the curve beside it."""
    from modelyard.runtimes import RuntimeOptions, Runtimes

    task = msgspec.json.decode(Path(argv[0]).read_bytes(), type=_Task)
    with np.load(task.payload, allow_pickle=False) as file:
        payload = {n: file[n].astype(object) if n in task.bytes_inputs else file[n] for n in file.files}
    runtime = Runtimes.discover().get(task.runtime)
    points: list[CurvePoint] = []
    for threads in task.threads:
        predictor = runtime.load(task.artifact, RuntimeOptions(device=task.device, threads=threads))
        try:
            points += [
                _measure(predictor, _rows(payload, batch), batch, threads, task.point_budget_s)
                for batch in task.batches
            ]
        finally:
            predictor.close()
    Path(argv[0] + ".out").write_bytes(msgspec.json.encode(Curve(task.runtime, tuple(points))))
    return 0


def _rows(payload: Tensors, batch: int) -> dict[str, np.ndarray]:
    rows = {n: len(t) if t.ndim else 0 for n, t in payload.items()}
    if min(rows.values()) < 1:
        raise BackendFailed("the payload of the batch-latency curve has no rows")
    return {n: np.ascontiguousarray(t[np.arange(batch) % rows[n]]) for n, t in payload.items()}


def _measure(predictor: Predictor, tensors: Tensors, batch: int, threads: int, budget_s: float) -> CurvePoint:
    started = time.perf_counter()
    predictor.predict(tensors)
    first = time.perf_counter() - started
    if first < budget_s:  # the first run compiles and allocates
        predictor.predict(tensors)
    walls: list[float] = []
    cpu = time.process_time()
    until = time.perf_counter() + budget_s
    least = 3 if first < budget_s else 1
    while len(walls) < least or (time.perf_counter() < until and len(walls) < 2000):
        before = time.perf_counter()
        predictor.predict(tensors)
        walls.append(time.perf_counter() - before)
    cpu = time.process_time() - cpu
    return CurvePoint(batch, threads, float(np.median(walls)), cpu / len(walls), len(walls))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
