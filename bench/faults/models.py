"""Models that hang and models that take all memory, with a neighbour in the same replica: rows T11 and T12."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import psutil

from bench.faults.load import HANGS, LONGEST_S, Load, looping, median, ready, service, until
from bench.faults.result import Options, Result
from bench.isolation_cost import artifact
from modelyard.client import NO_RETRIES, Client
from modelyard.dispatch.engines.process import ProcessEngine
from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import ModelyardError
from modelyard.domain.services import Isolation, ServedModel
from modelyard.domain.tensors import Datatype, Signature, TensorSpec


def t11(folder: Path, options: Options) -> Result:
    """A hung model: answered at its deadline + 10 %, replaced <= 30 s, neighbours' p99 + 10 %."""
    seconds, good = options.seconds, True
    figures: list[str] = []
    for how, where in (
        ("endless loop", Isolation.THREAD),
        ("endless loop", Isolation.PROCESS),
        ("SIGSTOP", Isolation.PROCESS),
    ):
        with service(
            folder / f"{how}-{where}", 1, looping(folder, "hung", isolation=where), looping(folder, "near")
        ) as (
            engine,
            endpoint,
        ):
            near = Load(endpoint, "near", 20.0)
            answered, replaced, ratios = [], [], []
            with (
                near.at(options.rate or 200.0) as seen,
                Client(endpoint.url, timeout_s=LONGEST_S, retries=NO_RETRIES) as client,
            ):
                for _ in range(min(options.times, 5)):  # each costs a process one of its restarts
                    quiet = time.perf_counter()
                    time.sleep(seconds)  # the quiet stretch that the neighbour is compared with
                    begun = time.perf_counter()
                    if how == "SIGSTOP":
                        child_of(engine).send_signal(signal.SIGSTOP)
                    try:
                        client.infer("hung", {"x": np.full((1, 4), HANGS, np.float32)}, timeout_s=2.0)
                    except ModelyardError:
                        answered.append(time.perf_counter() - begun)
                    works_again(client, "hung")
                    replaced.append(time.perf_counter() - begun)
                    time.sleep(max(seconds - replaced[-1], 0))  # stretches of equal length
                    ratios.append(seen.p99(begun, time.perf_counter()) / seen.p99(quiet, begun))
            figures.append(
                f"{how}, {where}: answered after {max(answered):.2f} s of 2, works again after {max(replaced):.1f} s, "
                f"neighbour's p99 x {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
                f"its errors {len(seen.errors)} of {seen.requests:,}"
            )
            print(f"  {figures[-1]}", flush=True)
            good &= max(answered) <= 2.2 and max(replaced) <= 30 and median(ratios) <= 1.1 and not seen.errors
    return Result("; ".join(figures), good)


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
