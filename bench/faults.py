"""Faults of replicas and models under load, with what callers see: rows T10, T11, T12 and T21 of the fault table.

    python bench/faults.py [T10 T11 T12 T21] [--times 50] [--seconds 3]

Services run on the process engine, as a user's do; the load is open (Poisson, fixed seed) at 70 % of what a closed loop
of the same client reached, by `modelyard.client.AsyncClient`: 3 attempts, a retry budget of 10 %, and a burst that
covers what one replica holds when it dies (RETRIES). Everything shares this machine's cores, the client included.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil

from modelyard.client import NO_RETRIES, AsyncClient, Client, RetryPolicy
from modelyard.dispatch.engines.process import ProcessEngine
from modelyard.dispatch.engines.state import RestartPolicy
from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import ModelyardError
from modelyard.domain.services import Endpoint, Isolation, Replica, ReplicaSpec, ReplicaState, ServedModel
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.profile import fingerprint

sys.path.insert(0, str(Path(__file__).parents[1]))  # where this runs as a script
from bench.isolation_cost import artifact, endless

FEW, HANGS = 2000.0, 9e15
"""Values that make the looping model run for about a millisecond, and for ever."""
LONGEST_S = 30.0
RETRIES = RetryPolicy(burst=64.0)
"""The default burst of 5 is less than what a busy replica holds: with it 4 requests per kill were lost."""
CALM = 8
"""The next fault comes once no more than this many requests are in flight: the queue of the last one has gone."""


@dataclass
class Seen:
    """What the callers of a load saw: seconds per answered request with its time, and errors."""

    latencies: list[tuple[float, float]] = field(default_factory=list)
    errors: list[ModelyardError] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """All requests."""
        return len(self.latencies) + len(self.errors)

    def p99(self, since: float, until: float) -> float:
        """p99 of the requests answered in a window, seconds."""
        window = [latency for at, latency in self.latencies if since <= at < until]
        return float(np.percentile(window, 99)) if window else float("nan")


class Load:
    """Requests of one model in a thread with an event loop of its own."""

    def __init__(self, endpoint: Endpoint, model: str, value: float, retries: RetryPolicy | None = None) -> None:
        self.seen = Seen()
        self._url, self._model, self._retries = endpoint.url, model, retries
        self._inputs = {"x": np.full((1, 4), value, np.float32)}
        self._over = threading.Event()
        self.in_flight = 0
        self._rate: float | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def capacity(self, seconds: float, connections: int = 8) -> float:
        """Requests per second of a closed loop."""

        async def measure() -> int:
            end, done = time.perf_counter() + seconds, 0
            async with AsyncClient(self._url, retries=self._retries) as client:

                async def caller() -> None:
                    nonlocal done
                    while time.perf_counter() < end:
                        await client.infer(self._model, self._inputs)
                        done += 1

                await asyncio.gather(*(caller() for _ in range(connections)))
            return done

        return asyncio.run(measure()) / seconds

    @contextmanager
    def at(self, rate: float) -> Iterator[Seen]:
        """Run at `rate` requests per second meanwhile; ends when the last one is answered."""
        self._rate = rate
        self._thread.start()
        try:
            yield self.seen
        finally:
            self._over.set()
            self._thread.join()

    async def _run(self) -> None:
        gaps, tasks = random.Random(0), set()
        due = time.perf_counter()
        async with AsyncClient(self._url, retries=self._retries) as client:
            while not self._over.is_set():
                due += gaps.expovariate(self._rate or 1.0)
                await asyncio.sleep(max(due - time.perf_counter(), 0))
                task = asyncio.create_task(self._one(client, due))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)

    async def _one(self, client: AsyncClient, due: float) -> None:
        self.in_flight += 1
        try:
            await client.infer(self._model, self._inputs, timeout_s=LONGEST_S)
        except ModelyardError as error:
            self.seen.errors.append(error)
        else:
            now = time.perf_counter()
            self.seen.latencies.append((now, now - due))
        finally:
            self.in_flight -= 1


@contextmanager
def service(folder: Path, replicas: int, *models: ServedModel) -> Iterator[tuple[ProcessEngine, Endpoint]]:
    """A service of the process engine, ready; stopped at the end."""
    engine = ProcessEngine(folder / "services", policy=RestartPolicy(stable_s=0.1))
    endpoint = engine.start("faults", ReplicaSpec("faults", models, drain_timeout_s=20.0), replicas)
    try:
        yield engine, endpoint
    finally:
        engine.stop("faults")


def looping(folder: Path, name: str = "loop", **more: object) -> ServedModel:
    """The model that computes as long as its input says."""
    return replace(ServedModel(name, 1, endless(folder), "onnxruntime"), **more)  # type: ignore[arg-type]


def signalled(
    folder: Path, number: signal.Signals, times: int, seconds: float, rate: float | None = None
) -> tuple[Seen, list[float], list[float]]:
    """Send a signal to a replica of two again and again; what callers saw, exit and replacement times.

    `rate`: requests per second; None for 70 % of the capacity, measured for `seconds`.
    """
    choice = random.Random(1)
    gone: list[float] = []
    replaced: list[float] = []
    with service(folder, 2, looping(folder)) as (engine, endpoint):
        load = Load(endpoint, "loop", FEW, RETRIES)
        rate = rate or 0.7 * load.capacity(seconds)
        with load.at(rate) as seen:
            for _ in range(times):
                victim = choice.choice(ready(engine, 2))
                begun = time.perf_counter()
                os.kill(victim.pid or 0, number)
                until(lambda victim=victim: not running(victim.pid or 0), LONGEST_S)  # type: ignore[misc]
                gone.append(time.perf_counter() - begun)
                ready(engine, 2)
                replaced.append(time.perf_counter() - begun)
                calm_by = time.perf_counter() + LONGEST_S / 3
                print(f"  {len(replaced)}/{times}", end="\r", file=sys.stderr)
                until(lambda by=calm_by: load.in_flight <= CALM or time.perf_counter() > by, LONGEST_S)  # type: ignore[misc]
    print(f"  {rate:,.0f} requests/s offered, {seen.requests:,} in all, {len(seen.errors)} failed")
    for error in seen.errors[:3]:
        print(f"    {error}")
    return seen, gone, replaced


def ready(engine: ProcessEngine, count: int) -> list[Replica]:
    """The replicas, once all are ready."""
    found: list[Replica] = []

    def all_ready() -> bool:
        found[:] = engine.replicas("faults")
        alive = [r for r in found if r.state is ReplicaState.READY and r.pid and running(r.pid)]
        return len(alive) == count

    until(all_ready, LONGEST_S)
    return found


def running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], bool], seconds: float) -> None:
    """Poll; ends the program with an error after `seconds`."""
    end = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > end:
            raise SystemExit(f"did not happen within {seconds:g} s")
        time.sleep(0.01)


def t10(folder: Path, times: int, seconds: float, rate: float | None = None) -> bool:
    """Replicas killed by SIGKILL: client errors <= 0.1 %, replaced <= 15 s."""
    seen, _, replaced = signalled(folder, signal.SIGKILL, times, seconds, rate)
    share = len(seen.errors) / seen.requests
    print(f"  client errors {share:.3%}; replaced after {median(replaced):.2f} s, at most {max(replaced):.2f} s")
    return share <= 1e-3 and max(replaced) <= 15


def t21(folder: Path, times: int, seconds: float, rate: float | None = None) -> bool:
    """Replicas ended by SIGTERM: no failure, exit <= 30 s."""
    seen, gone, _ = signalled(folder, signal.SIGTERM, times, seconds, rate)
    print(f"  exit after {median(gone):.2f} s, at most {max(gone):.2f} s")
    return not seen.errors and max(gone) <= 30


def t11(folder: Path, times: int, seconds: float, rate: float | None = None) -> bool:
    """A hung model: answered at its deadline + 10 %, replaced <= 30 s, neighbours' p99 + 10 %."""
    good = True
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
                near.at(rate or 200.0) as seen,
                Client(endpoint.url, timeout_s=LONGEST_S, retries=NO_RETRIES) as client,
            ):
                for _ in range(min(times, 5)):  # each costs a process one of its restarts
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
            print(
                f"  {how}, {where}: answered after at most {max(answered):.2f} s of a 2 s deadline; works again after "
                f"{median(replaced):.2f} s, at most {max(replaced):.2f} s; neighbour's p99 x {median(ratios):.2f} "
                f"(each {', '.join(f'{r:.2f}' for r in ratios)}), its errors {len(seen.errors)} of {seen.requests}"
            )
            good &= max(answered) <= 2.2 and max(replaced) <= 30 and median(ratios) <= 1.1 and not seen.errors
    return good


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


def t12(folder: Path, times: int, seconds: float, rate: float | None = None) -> bool:
    """A model that takes all memory: only it fails; at most 5 restarts in 10 minutes."""
    limit = 512 << 20
    greedy = ServedModel("greedy", 1, hungry(folder), "onnxruntime", memory_limit_bytes=limit)
    with service(folder, 1, greedy, looping(folder, "near")) as (engine, endpoint):
        near = Load(endpoint, "near", 20.0)
        pids: set[int] = set()
        failed = 0
        with near.at(rate or 200.0) as seen, Client(endpoint.url, timeout_s=LONGEST_S, retries=NO_RETRIES) as client:
            before = [r.pid for r in ready(engine, 1)]
            for _ in range(times):
                try:
                    client.infer("greedy", {"x": np.full((1, 4), 5e8, np.float32)})
                except ModelyardError:
                    failed += 1
                pids |= {c.pid for c in psutil.Process(before[0]).children()}
            time.sleep(seconds)  # the neighbour goes on: what became of it is counted
            same = before == [r.pid for r in ready(engine, 1)]
        print(
            f"  {failed} of {times} greedy requests failed, {len(pids)} processes of it; replica unharmed: {same}; "
            f"neighbour's errors {len(seen.errors)} of {seen.requests}"
        )
        return same and failed == times and not seen.errors and len(pids) <= 6


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


def median(values: list[float]) -> float:
    """The median."""
    return float(np.median(values))


ROWS = {"T10": t10, "T11": t11, "T12": t12, "T21": t21}


def main(arguments: list[str] | None = None) -> int:
    """Run the rows; 0 where all pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(ROWS)}; by default all")
    parser.add_argument("--times", type=int, default=50, help="how often the fault is injected")
    parser.add_argument("--seconds", type=float, default=3.0, help="of the capacity measurement and quiet windows")
    parser.add_argument("--rate", type=float, help="requests/s instead of 70 %% of the capacity, or 200 for neighbours")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that services are stopped on the way out
    node = fingerprint()
    print(f"{node.cpu_model}, {node.cores} cores; {node.python}; node {node.id}")
    passed = True
    for name in options.rows or ROWS:
        print(f"{name}: {ROWS[name].__doc__}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            good = ROWS[name](Path(folder), options.times, options.seconds, options.rate)
        print(f"  {'passed' if good else 'MISSED'}", flush=True)
        passed &= good
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
