"""What the server and the load client cost per request on this node, whatever the model: measured once.

A replica serves models that answer with a constant (`modelyard.serving.constant`); the load client of every measurement
asks it, alone and many at a time, with small and large requests. From the CPU clocks of both processes, their sleeps
(voluntary context switches) and the server's own statistics follows what a request, a byte, a batch and a wake-up cost;
what is left of the latency is what waking up takes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import log
from pathlib import Path as File
from typing import Final

import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray

from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.configuration import Batching
from modelyard.domain.errors import BackendFailed
from modelyard.domain.latency import Overhead, Path, ProtocolCost
from modelyard.domain.placement import apart
from modelyard.domain.services import Endpoint, Isolation, ReplicaSpec, ServedModel
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.domain.workload import Arrival, Protocol, Workload
from modelyard.profile.client.load import may_run_first
from modelyard.profile.plan import WarmUpRule
from modelyard.profile.process import ClientProcess, write_plan
from modelyard.profile.requests import encode
from modelyard.profile.resources import cpu_seconds
from modelyard.profile.samples import Samples
from modelyard.profile.stages import snapshot, stage_times

_SMALL, _LARGE = 16, 16_384
"""Numbers (FP32) of a small and of a large tensor."""
_MANY: Final = 32
_FEW: Final = 4
_SLOW_S: Final = 2e-3
"""A model that sleeps so long runs on a slot's thread."""
_RARE_RPS: Final = 200.0
_OFTEN_RPS: Final = 1000.0
_JITTER: Final = 129
_LEAST_TOLD: Final = 0.1
"""Sleeps per request, at least, from which their cost can be told."""
_START_S: Final = 30.0
_WARM_UP = WarmUpRule(max_blocks=3, max_s=0.6, block_s=0.15)


@dataclass(frozen=True, slots=True)
class _Seen:
    """One cell: seconds per request where not said otherwise. `sleeps` of the server's loop and of the client's."""

    p50_s: float
    server_s: float
    client_s: float
    server_sleeps: float
    client_sleeps: float
    batch_rows: float
    infer_s: float
    request_bytes: float
    jitter_s: tuple[float, ...]


def measure_overhead(protocols: Sequence[Protocol], *, block_s: float = 0.2, blocks: int = 5) -> Overhead:
    """Calibrate on this node, some eight seconds per protocol. Raises BackendFailed, Unavailable.

    Each number is the median of `blocks` blocks of `block_s` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="yard-overhead-") as folder, _replica(File(folder)) as (endpoint, pid):
        bench = _Bench(File(folder), endpoint, pid, block_s, blocks)
        child, slot = bench.closed("child", protocols[0], 1), bench.closed("slow", protocols[0], 1)
        cores = sorted(os.sched_getaffinity(0))
        own, _ = apart(cores, 1)
        for thread in psutil.Process(pid).threads():  # those that ran models beside the loop are done
            os.sched_setaffinity(thread.id, own or cores)
        paths, alone = {}, {}
        for protocol in protocols:
            paths[protocol], alone[protocol] = _path(bench, protocol)
        path, inline = paths[protocols[0]], alone[protocols[0]]
        rest_s = inline.p50_s - inline.infer_s
        handover_s = max(0.0, child.p50_s - child.infer_s - rest_s) / 2
        # both loops slept through a slow run: what waking up costs them then is known
        woken_s = path.before * path.depth(slot.infer_s) * (path.server.cold_s + path.client.cold_s)
        return Overhead(
            paths,
            handover_s=handover_s,
            long_handover_s=max(handover_s, slot.p50_s - slot.infer_s - rest_s - woken_s - handover_s),
            child_s=max(0.0, child.infer_s - inline.infer_s),
            client_first=may_run_first(),
        )


def _path(bench: _Bench, protocol: Protocol) -> tuple[Path, _Seen]:
    alone, many = bench.closed("small", protocol, 1), bench.closed("small", protocol, _MANY)
    single, few = bench.closed("single", protocol, _MANY), bench.closed("single", protocol, _FEW)
    rare, often = bench.open("small", protocol, _RARE_RPS), bench.open("small", protocol, _OFTEN_RPS)
    much, given = bench.closed("large-in", protocol, _FEW), bench.closed("large-out", protocol, _FEW)
    busy = (alone, many, single, few)
    server = _fit([(s.server_s, 1.0, 1.0 / s.batch_rows, s.server_sleeps) for s in busy])
    client = _fit([(s.client_s, 1.0, s.client_sleeps) for s in busy])
    answer_bytes = _answer_bytes(protocol, _LARGE) - _answer_bytes(protocol, _SMALL)
    request_bytes = much.request_bytes - few.request_bytes
    hop_s = max(0.0, alone.p50_s - alone.server_s - alone.client_s) / 2  # the server's wake-up and the client's
    rare_s = rare.server_s + rare.client_s
    idle_s = (max(alone.p50_s / 2, 1e-6), 1 / _RARE_RPS)
    # what a rare request wakes: the client when it is due, and again, from a short sleep, when it is answered
    waked = 1.0 + min(1.0, max(0.0, log(rare.p50_s / idle_s[0]) / log(idle_s[1] / idle_s[0])))
    path = Path(
        server=ProtocolCost(
            request_s=server[0],
            in_s=max(0.0, much.server_s - few.server_s) / request_bytes,
            out_s=max(0.0, given.server_s - few.server_s) / answer_bytes,
            wake_s=server[2],
            cold_s=max(0.0, rare.server_s - sum(server)),
            batch_s=server[1],
        ),
        client=ProtocolCost(
            request_s=client[0],
            in_s=max(0.0, much.client_s - few.client_s) / request_bytes,
            out_s=max(0.0, given.client_s - few.client_s) / answer_bytes,
            wake_s=client[1],
            cold_s=max(0.0, rare.client_s - client[0] - rare.client_sleeps * client[1]) / waked,
        ),
        hop_s=hop_s,
        # a rare request wakes the client when it is due, then the server; the answer meets a client that just slept
        long_hop_s=max(hop_s, (rare.p50_s - rare_s - hop_s) / 2),
        before=min(1.0, rare.p50_s / rare_s),
        short_idle_s=idle_s[0],
        long_idle_s=idle_s[1],
        jitter_s=often.jitter_s,
    )
    return path, alone


def _fit(rows: Sequence[tuple[float, ...]]) -> list[float]:
    """Coefficients, none negative, of the columns after the first, which is what they add up to.

    Relative errors count, so that a cell of large costs does not decide alone. A column of next to nothing (a loop that
    never sleeps) says nothing: its coefficient is 0.
    """
    from scipy.optimize import nnls

    table = np.array(rows)
    table /= table[:, :1]
    told = np.max(np.array(rows)[:, 1:], axis=0) >= _LEAST_TOLD
    found = np.zeros(table.shape[1] - 1)
    found[told] = nnls(table[:, 1:][:, told], table[:, 0])[0]
    return [float(value) for value in found]


def _quantiles(latencies_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the deviations from the median."""
    shares = (np.arange(_JITTER) + 0.5) / _JITTER
    return np.asarray(np.quantile(latencies_s, shares) - np.median(latencies_s), np.float64)


def _answer_bytes(protocol: Protocol, numbers: int) -> float:
    """Of a row of so many random FP32 numbers."""
    return numbers * (11.5 if protocol is Protocol.HTTP_JSON else 4.0)


@dataclass(frozen=True)
class _Bench:
    directory: File
    endpoint: Endpoint
    pid: int
    block_s: float
    blocks: int

    def closed(self, model: str, protocol: Protocol, concurrency: int) -> _Seen:
        """A closed loop on one of the models."""
        load = Workload(
            Arrival.CLOSED, concurrency=concurrency, requests=10**6, duration_s=self.block_s, protocol=protocol
        )
        return self._seen(model, load)

    def open(self, model: str, protocol: Protocol, rate: float) -> _Seen:
        """Evenly spaced requests, so that nobody waits."""
        load = Workload(Arrival.CONSTANT, rate_rps=rate, requests=10**6, duration_s=2 * self.block_s, protocol=protocol)
        return self._seen(model, load)

    def _seen(self, model: str, load: Workload) -> _Seen:
        numbers = _LARGE if model == "large-in" else _SMALL
        x = np.random.default_rng(0).standard_normal((1, numbers), np.float32)
        host = f"{self.endpoint.host}:{self.endpoint.http_port}"
        payload = encode({"x": x}, load.protocol, model=model, version=1, host=host)
        place = self.directory / f"{model}-{load.label}".replace(" ", "-")
        _, clients = apart(sorted(os.sched_getaffinity(0)), 1)
        plan = write_plan(
            place, self.endpoint, load, [payload], warm_up=_WARM_UP, cpus=clients, connections=load.concurrency
        )
        with ClientProcess(plan) as client:
            client.warm_up()
            taken = [self._block(client, model, number) for number in range(self.blocks)]
        middle: list[float] = np.median([seen for seen, _ in taken], axis=0).tolist()
        p50, server, load_client, slept, client_slept, rows, infer = middle
        # quantiles of each block, then the median of the blocks: one that was disturbed does not decide
        jitter = tuple(np.median([_quantiles(latencies) for _, latencies in taken], axis=0).tolist())
        return _Seen(p50, server, load_client, slept, client_slept, rows, infer, float(len(payload)), jitter)

    def _block(self, client: ClientProcess, model: str, number: int) -> tuple[list[float], NDArray[np.float64]]:
        stats, cpu, sleeps = snapshot(self.endpoint, [self.pid]), self._cpu_s(), self._sleeps(client)
        done = client.run_block(number)
        cpu, slept = self._cpu_s() - cpu, self._sleeps(client)
        times = stage_times([(stats, snapshot(self.endpoint, [self.pid]))], model, 1)
        samples = Samples.load(File(done.samples))
        if times is None or not samples.ok.all():
            raise BackendFailed("the server failed requests while its overhead was measured")
        count, latencies = len(samples), samples.completed_s - samples.scheduled_s
        seen = [
            float(np.median(latencies)),
            cpu / count,
            done.client_cpu_s / count,
            (slept[0] - sleeps[0]) / count,
            (slept[1] - sleeps[1]) / count,
            times.mean_batch_rows,
            times.infer_ms / 1e3,
        ]
        return seen, latencies

    def _cpu_s(self) -> float:
        return sum(cpu_seconds([self.pid]).values())

    def _sleeps(self, client: ClientProcess) -> tuple[int, int]:
        """Of the two event loops, which are their processes' main threads."""
        server, load = (psutil.Process(pid).num_ctx_switches().voluntary for pid in (self.pid, client.pid))
        return server, load


@contextmanager
def _replica(folder: File) -> Iterator[tuple[Endpoint, int]]:
    ready, file = folder / "ready.json", folder / "replica.json"
    spec = ReplicaSpec("overhead", tuple(_models()), ready_file=str(ready))
    file.write_bytes(msgspec.json.encode(spec))
    command = [sys.executable, "-m", "modelyard.serving.constant", "--log-level", "error", "--spec", str(file)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        ends = time.monotonic() + _START_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > ends:
                tail = (folder / "log").read_text(errors="replace")[-2000:].strip()
                raise BackendFailed("the server whose overhead is to be measured did not start", why=tail)
            time.sleep(0.02)
        ports = msgspec.json.decode(ready.read_bytes(), type=dict[str, int])
        yield Endpoint("127.0.0.1", ports["http_port"], ports["grpc_port"]), process.pid
    finally:
        process.terminate()
        try:
            process.wait(_START_S)
        finally:
            process.kill()
            process.wait()


def _models() -> Iterator[ServedModel]:
    yield _model("small", batch=_MANY)
    yield _model("single")
    yield _model("large-in", given=_LARGE)
    yield _model("large-out", answered=_LARGE)
    yield _model("slow", seconds=_SLOW_S)
    yield _model("child", isolation=Isolation.PROCESS)


def _model(
    name: str,
    *,
    given: int = _SMALL,
    answered: int = _SMALL,
    batch: int = 1,
    seconds: float = 0.0,
    isolation: Isolation = Isolation.AUTO,
) -> ServedModel:
    signature = Signature(
        (TensorSpec("x", Datatype.FP32, ("batch", given)),), (TensorSpec("y", Datatype.FP32, ("batch", answered)),)
    )
    artifact = LocalArtifact("/", "none", Target("constant"), Precision.FP32, signature, {"seconds": f"{seconds:g}"})
    return ServedModel(name, 1, artifact, "constant", batching=Batching(batch), isolation=isolation)
