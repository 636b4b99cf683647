"""The batch-latency curve l(batch, threads) of one artifact, measured in-process in a child of its own.

It is what publish prunes with and what the tuner's simulator draws from: seconds of work instead of a deployed service
per candidate. It never decides; every number a user is shown comes from a real service under load.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import msgspec
import numpy as np

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import BackendFailed
from modelyard.domain.latency import ContentionPoint, Curve, CurvePoint
from modelyard.domain.tensors import Datatype, Tensors
from modelyard.runtimes.ports import SLEEPING_THREADS, Containment, containment

if TYPE_CHECKING:
    from modelyard.runtimes import Predictor

__all__ = ["ContentionPoint", "Curve", "CurvePoint", "measure_contention", "measure_curve"]

LONGEST_RUN_S = 0.4
QUANTILES: Final = 129
"""Walls kept of a point; more runs than that are told by evenly spaced quantiles."""
_REST_S: Final = 0.003
_RESTED_RUNS: Final = 15
_LONGEST_REST_S: Final = 0.2
"""Of a point's budget, what runs after pauses take besides."""
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR", "TZ")
"""Model code runs in the child: it gets none of the user's secrets."""


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
    rested: bool = False


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
    rested: bool = False,
) -> Curve:
    """Measure every (batch, threads) point; a point runs for about `point_budget_s`, or once if a run takes longer.

    Batches beyond one that took `LONGEST_RUN_S` are left out. `payload` are the inputs of some rows; they are repeated
    to make up a batch; of a model without a batch dimension they are those of one run. `rested`: also runs after
    pauses. A failure is a Curve with `error`.
    """
    with _task(artifact, runtime, payload, device, threads, batches, point_budget_s, rested) as file:
        try:
            done = subprocess.run(
                _command(file), capture_output=True, timeout=timeout_s, check=False, env=_environment()
            )
        except subprocess.TimeoutExpired:
            return Curve(runtime, error=f"no answer within {timeout_s:g} s")
        if done.returncode != 0:
            tail = done.stderr.decode(errors="replace").strip().splitlines()
            return Curve(runtime, error=tail[-1] if tail else f"exit status {done.returncode}")
        return msgspec.json.decode(Path(f"{file}.out").read_bytes(), type=Curve)


def measure_contention(
    artifact: LocalArtifact,
    runtime: str,
    payload: Tensors,
    *,
    device: str = "cpu",
    threads: int = 1,
    copies: int = 2,
    batches: Sequence[int] = (1, 8),
    point_budget_s: float = 0.25,
) -> tuple[ContentionPoint, ...]:
    """Run the model in `copies` processes at the same time, each with `threads` threads: memory, caches and cores are
    shared then. One point per batch size, the median over all copies. Raises BackendFailed where a copy ends early.
    """
    with ExitStack() as stack:
        file = stack.enter_context(_task(artifact, runtime, payload, device, (threads,), batches, point_budget_s))
        children = [stack.enter_context(_child(file)) for _ in range(copies)]
        _each(children, "loaded")
        points = []
        for batch in batches:
            for pipe, _ in children:
                pipe.write(f"{batch}\n".encode())
                pipe.flush()
            walls = [float(line) for line in _each(children, f"batches of {batch}")]
            points.append(ContentionPoint(copies, threads, batch, float(np.median(walls))))
        return tuple(points)


def _each(children: Iterable[tuple[IO[bytes], IO[bytes]]], what: str) -> list[bytes]:
    lines = [answers.readline() for _, answers in children]
    if not all(lines):
        raise BackendFailed("a copy of the model ended while copies were measured together", why=f"at: {what}")
    return lines


@contextmanager
def _child(task: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    process = subprocess.Popen(
        [*_command(task), "together"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
    )
    try:
        if process.stdin is None or process.stdout is None:
            raise BackendFailed("a child has no pipes")
        yield process.stdin, process.stdout
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _task(
    artifact: LocalArtifact,
    runtime: str,
    payload: Tensors,
    device: str,
    threads: Sequence[int],
    batches: Sequence[int],
    point_budget_s: float,
    rested: bool = False,
) -> Iterator[str]:
    names = tuple(n for n, t in payload.items() if Datatype.of(t.dtype) is Datatype.BYTES)
    with tempfile.TemporaryDirectory(prefix="yard-curve-") as folder:
        arrays = {n: t.astype("S") if n in names else t for n, t in payload.items()}
        np.savez(Path(folder, "payload.npz"), **arrays)  # type: ignore[arg-type]
        task = _Task(
            artifact=artifact,
            runtime=runtime,
            device=device,
            threads=tuple(threads),
            batches=tuple(batches),
            payload=str(Path(folder, "payload.npz")),
            point_budget_s=point_budget_s,
            bytes_inputs=names,
            rested=rested,
        )
        Path(folder, "task.json").write_bytes(msgspec.json.encode(task))
        yield str(Path(folder, "task.json"))


def _command(task: str) -> list[str]:
    return [sys.executable, "-m", "modelyard.profile.curve", task]


def _environment() -> dict[str, str]:
    """As in a replica."""
    return {**SLEEPING_THREADS, **{name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}}


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
            if argv[1:] == ["together"]:
                return _together(predictor, payload, task)
            points += _points(predictor, payload, threads, task)
        finally:
            predictor.close()
    inside = containment(runtime, task.artifact) is not Containment.UNCONTAINED
    Path(argv[0] + ".out").write_bytes(msgspec.json.encode(Curve(task.runtime, tuple(points), inside=inside)))
    return 0


def _points(predictor: Predictor, payload: Tensors, threads: int, task: _Task) -> Iterator[CurvePoint]:
    for batch in task.batches:
        tensors = _rows(payload, batch, task.artifact)
        point = _measure(predictor, tensors, batch, threads, task.point_budget_s)
        if task.rested:
            point = replace(point, rested_s=_rested(predictor, tensors))
        yield point
        if point.wall_s > LONGEST_RUN_S:
            return


def _together(predictor: Predictor, payload: Tensors, task: _Task) -> int:
    """Answer each line with a batch size by the median wall of its runs, while other processes do the same."""
    sys.stdout.write("loaded\n")
    sys.stdout.flush()
    for line in sys.stdin:
        tensors = _rows(payload, int(line), task.artifact)
        point = _measure(predictor, tensors, int(line), 1, task.point_budget_s)
        sys.stdout.write(f"{point.wall_s!r}\n")
        sys.stdout.flush()
    return 0


def _rows(payload: Tensors, batch: int, artifact: LocalArtifact) -> dict[str, np.ndarray]:
    if not artifact.signature.batched:
        return dict(payload)  # its first dimension is no batch
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
    kept = np.sort(walls) if len(walls) <= QUANTILES else np.quantile(walls, (np.arange(QUANTILES) + 0.5) / QUANTILES)
    return CurvePoint(batch, threads, float(np.median(walls)), cpu / len(walls), len(walls), tuple(kept.tolist()))


def _rested(predictor: Predictor, tensors: Tensors) -> float:
    """Median wall of runs after pauses."""
    walls: list[float] = []
    until = time.perf_counter() + _LONGEST_REST_S
    while len(walls) < 3 or (len(walls) < _RESTED_RUNS and time.perf_counter() < until):
        time.sleep(_REST_S)
        before = time.perf_counter()
        predictor.predict(tensors)
        walls.append(time.perf_counter() - before)
    return float(np.median(walls))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
