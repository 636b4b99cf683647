"""Open and closed loads of one model, and services to put them on."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil

from bench.isolation_cost import endless
from modelyard.client import AsyncClient, RetryPolicy
from modelyard.dispatch.engines.process import ProcessEngine
from modelyard.dispatch.engines.state import RestartPolicy
from modelyard.domain.errors import ModelyardError
from modelyard.domain.services import Endpoint, Replica, ReplicaSpec, ReplicaState, ServedModel

FEW, HANGS = 2000.0, 9e15
"""Values that make the looping model run for about a millisecond, and for ever."""
LONGEST_S = 30.0


class Stuck(Exception):
    """What a row waits for did not happen."""


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
        """p99 of the requests that were due in a window and are answered, seconds."""
        window = [latency for at, latency in self.latencies if since <= at - latency < until]
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
        with suppress(PermissionError):  # as the profiler's client does: a late client measures itself
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))  # this thread alone
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
    """Poll. Raises Stuck after `seconds`."""
    end = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > end:
            raise Stuck(f"the service did not get ready, calm or free of a replica within {seconds:g} s")
        time.sleep(0.01)  # what is awaited is in other processes, which tell nobody


def median(values: list[float]) -> float:
    """The median."""
    return float(np.median(values))
