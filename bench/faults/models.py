"""Models that hang and models that take all memory, with a neighbour in the same replica: rows T11 and T12."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from bench.faults.load import HANGS, LONGEST_S, Load, Seen, Stuck, looping, median, ready, service, until
from bench.faults.result import Options, Result
from bench.isolation_cost import artifact
from modelyard.client import NO_RETRIES, Client
from modelyard.dispatch.engines.process import ProcessEngine
from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import ModelyardError
from modelyard.domain.services import Isolation, ServedModel
from modelyard.domain.tensors import Datatype, Signature, TensorSpec

HUNG = (("endless loop", Isolation.THREAD), ("endless loop", Isolation.PROCESS), ("SIGSTOP", Isolation.PROCESS))
ROUNDS = 4
"""Of each: every one costs a process one of its 5 restarts."""
DEADLINE_S = 2.0
NEAR_PER_S = 400.0


@dataclass
class Neighbour:
    """Times of one kind of hang, and p99 of the neighbour in its stretches, relative to the quiet one before."""

    answered: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    hung: list[float] = field(default_factory=list)
    """Until the hung request is answered."""
    replaced: list[float] = field(default_factory=list)
    """Until the model works again, or a little longer: a process starts anew meanwhile."""
    both: list[float] = field(default_factory=list)
    quiet: list[float] = field(default_factory=list)
    """The second half of the quiet stretch by the first: how much of all this is chance."""

    @property
    def passed(self) -> bool:
        """The criteria of the row."""
        times = max(self.answered) <= 1.1 * DEADLINE_S and max(self.again) <= 30
        return times and median(self.both) <= 1.1

    def __str__(self) -> str:
        return (
            f"answered after {max(self.answered):.2f} s of {DEADLINE_S:g}, works again after {max(self.again):.1f} s, "
            f"neighbour's p99 x {median(self.both):.2f} (hung {median(self.hung):.2f}, "
            f"replaced {median(self.replaced):.2f}, by chance {median(self.quiet):.2f})"
        )


def t11(folder: Path, options: Options) -> Result:
    """A hung model: answered at its deadline + 10 %, replaced <= 30 s, neighbours' p99 + 10 %."""
    figures: list[str] = []
    good = True
    for how, where in HUNG:
        models = looping(folder, "hung", isolation=where), looping(folder, "near")
        with service(folder / f"{how}-{where}", 1, *models) as (engine, endpoint):
            near, found = Load(endpoint, "near", 20.0), Neighbour()
            client = Client(endpoint.url, timeout_s=LONGEST_S, retries=NO_RETRIES)
            with near.at(options.rate or NEAR_PER_S) as seen, client:
                for _ in range(min(options.times, ROUNDS)):
                    hang(engine, client, seen, found, options.seconds, stop=how == "SIGSTOP")
        errors = f"its errors {len(seen.errors)} of {seen.requests:,}"
        figures.append(f"{how}, {where}: {found}, {errors}")
        print(f"  {figures[-1]}", flush=True)
        good &= found.passed and not seen.errors
    return Result("; ".join(figures), good)


def hang(engine: ProcessEngine, client: Client, seen: Seen, found: Neighbour, seconds: float, *, stop: bool) -> None:
    """One round: a quiet stretch, a request that hangs, the time until the model works again."""
    quiet = time.perf_counter()
    time.sleep(seconds)  # what the neighbour is compared with
    begun = time.perf_counter()
    if stop:
        child_of(engine).send_signal(signal.SIGSTOP)
    try:
        client.infer("hung", {"x": np.full((1, 4), HANGS, np.float32)}, timeout_s=DEADLINE_S)
    except ModelyardError:
        told = time.perf_counter()
    else:
        raise Stuck("the model that hangs has answered")
    works_again(client, "hung")
    found.answered.append(told - begun)
    found.again.append(time.perf_counter() - begun)
    time.sleep(max(seconds - found.again[-1], 0))  # stretches of equal length
    end, usual, middle = time.perf_counter(), seen.p99(quiet, begun), (quiet + begun) / 2
    found.quiet.append(seen.p99(middle, begun) / seen.p99(quiet, middle))
    found.hung.append(seen.p99(begun, told) / usual)
    found.replaced.append(seen.p99(told, end) / usual)
    found.both.append(seen.p99(begun, end) / usual)


def works_again(client: Client, model: str) -> None:
    """Until the model answers."""

    def answers() -> bool:
        try:
            client.infer(model, {"x": np.full((1, 4), 2, np.float32)}, timeout_s=LONGEST_S)
        except ModelyardError:
            return False
        return True

    until(answers, LONGEST_S)


def child_of(engine: ProcessEngine) -> psutil.Process:
    """The process of the one isolated model of the one replica."""
    [replica] = ready(engine, 1)
    found: list[psutil.Process] = []

    def there() -> bool:
        found[:] = [c for c in psutil.Process(replica.pid).children() if "modelyard.serving.instances" in c.cmdline()]
        return len(found) == 1

    until(there, LONGEST_S)
    return found[0]


def t12(folder: Path, options: Options) -> Result:
    """A model that takes all memory: only it fails; at most 5 restarts in 10 minutes."""
    times = options.times
    limit = 512 << 20
    greedy = ServedModel("greedy", 1, hungry(folder), "onnxruntime", memory_limit_bytes=limit)
    with service(folder, 1, greedy, looping(folder, "near")) as (engine, endpoint):
        near = Load(endpoint, "near", 20.0)
        pids: set[int] = set()
        failed = 0
        with (
            near.at(options.rate or 200.0) as seen,
            Client(endpoint.url, timeout_s=LONGEST_S, retries=NO_RETRIES) as client,
        ):
            before = [r.pid for r in ready(engine, 1)]
            for _ in range(times):
                try:
                    client.infer("greedy", {"x": np.full((1, 4), 5e8, np.float32)})
                except ModelyardError:
                    failed += 1
                pids |= {c.pid for c in psutil.Process(before[0]).children()}
            time.sleep(options.seconds)  # the neighbour goes on: what became of it is counted
            same = before == [r.pid for r in ready(engine, 1)]
        figure = (
            f"{failed} of {times} greedy requests failed, {len(pids)} processes of it; replica unharmed: {same}; "
            f"neighbour's errors {len(seen.errors)} of {seen.requests}"
        )
        return Result(figure, same and failed == times and not seen.errors and len(pids) <= 6)


def hungry(folder: Path) -> LocalArtifact:
    """y = x + the mean of as many zeros as x's largest value says: 4 bytes each."""
    import onnx
    from onnx import TensorProto as Type
    from onnx import helper

    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["n"], to=Type.INT64),
            helper.make_node("Reshape", ["n", "one"], ["shape"]),
            helper.make_node("Expand", ["zero", "shape"], ["many"]),
            helper.make_node("ReduceMean", ["many"], ["mean"], keepdims=0),
            helper.make_node("Add", ["x", "mean"], ["y"]),
        ],
        "hungry",
        [info("x", Type.FLOAT, ["batch", 4])],
        [info("y", Type.FLOAT, ["batch", 4])],
        [helper.make_tensor("one", Type.INT64, [1], [1]), helper.make_tensor("zero", Type.FLOAT, [1], [0.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "hungry.onnx")
    tensor = (Datatype.FP32, ("batch", 4))
    return artifact(folder, "hungry.onnx", "onnx", Signature((TensorSpec("x", *tensor),), (TensorSpec("y", *tensor),)))
