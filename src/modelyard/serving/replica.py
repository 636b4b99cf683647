"""A replica's life: bind, load, warm up, announce, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import msgspec

from modelyard.domain.errors import Conflict, InvalidInput, ModelyardError
from modelyard.domain.services import ReplicaSpec
from modelyard.runtimes.registry import Runtimes
from modelyard.serving import heap
from modelyard.serving.faults import text_of
from modelyard.serving.grpc.fronts import Front
from modelyard.serving.http.front import HttpFront
from modelyard.serving.http.limits import SHARED_S, Limits, raise_descriptor_limit
from modelyard.serving.http.listeners import Listeners
from modelyard.serving.instances.service import Instances
from modelyard.serving.instances.steps import MOST_ABANDONED, StepThreads
from modelyard.serving.models import loading, strict
from modelyard.serving.models.aside import AsidePool
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.models.repository import Repository
from modelyard.serving.observe.routes import ObserveRoutes
from modelyard.serving.observe.stages import Recorder
from modelyard.serving.observe.tracing import Tracer
from modelyard.serving.oip.regions import refusal_of
from modelyard.serving.oip.routes import OipRoutes
from modelyard.serving.scheduling.executor import Allotment, Executor
from modelyard.serving.scheduling.turns import Turns
from modelyard.serving.tfs.routes import TfsRoutes

_log = logging.getLogger(__name__)

_ASIDE_WORKERS: Final = 2
_SWEEP_S: Final = 1.0
_DRAIN_SWEEP_S: Final = 0.05
_ACCEPT_PENDING_S: Final = 0.1
"""Between readiness turning false and the listener closing: connections the kernel has accepted are taken over."""

_HOSTS: Final = "use 127.0.0.1 (this machine only), 0.0.0.0 (every interface), or one of `ip -brief address`"


class Replica:
    """One serving process. `run` returns after a drain; raises ModelyardError where it cannot start."""

    def __init__(self, spec: ReplicaSpec, runtimes: Runtimes, version: str) -> None:
        self.spec = spec
        self._pool = AsidePool(_ASIDE_WORKERS)
        self._turns = Turns(spec.max_running, spec.cpu_limit)
        self._steps = StepThreads()
        instances = Instances(runtimes, spec.memory_limit_bytes)
        self.repository = Repository(
            spec.models,
            spec.policies,
            spec.repository,
            lambda served: loading.load(served, instances),
            self._executor,
            self._pool,
            spec.drain_timeout_s,
            exit_on_error=spec.exit_on_error,
        )
        self.plane = DataPlane(spec.service, version, self.repository)
        self.plane.tracer = Tracer(spec.tracing)
        self.plane.recorder = Recorder(self.plane.tracer)
        self.plane.triton_metrics = spec.triton_metrics
        self.plane.regions.refusal = refusal_of(spec.host, spec.shared_memory)
        self.plane.regions.most_bytes = spec.max_body_bytes
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._grpc: Front | None = None
        self._http: Listeners | None = None
        routes = (OipRoutes(self.plane), TfsRoutes(self.plane), ObserveRoutes(self.plane))
        raise_descriptor_limit()
        limits = Limits(max_body_bytes=spec.max_body_bytes, shared_s=SHARED_S if spec.reuse_port else inf)
        self._front = HttpFront(self.plane, routes, self._pool, limits)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reread)
        spec = self.spec
        listener = bind(spec.host, spec.http_port, reuse_port=spec.reuse_port)
        if spec.grpc_port:  # known now, not after minutes of loading, and without grpc's own lines on stderr
            bind(spec.host, spec.grpc_port, reuse_port=spec.reuse_port).close()
        self._http = http = Listeners(self._front, spec.tls, spec.unix_socket, take_over=spec.reuse_port)
        sweeper = loop.create_task(self._sweep())
        try:
            if not self.spec.reuse_port:  # alone on its port: liveness is answered while models load
                await http.start(listener)
            if await self._load():
                if self.spec.reuse_port:
                    await http.start(listener)
                await self._start_grpc()
                heap.settle()
                self.plane.ready = True
                self._announce(listener.getsockname()[1])
                await self._stop.wait()
                await self._drain()
        finally:
            sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sweeper
            await self._shut_down(listener)

    async def _start_grpc(self) -> None:
        if self.spec.grpc_port is None:
            return
        from modelyard.serving.grpc import fronts, health
        from modelyard.serving.oip.service import methods  # protobuf: only where gRPC is wanted
        from modelyard.serving.tfs.service import methods as tfs_methods

        spec, port = self.spec, self.spec.grpc_port
        table = {**methods(self.plane), **tfs_methods(self.plane)}
        table |= health.methods(self.plane, table)
        self._grpc = await fronts.start(
            spec, self.plane, table, self._pool, lambda: bind(spec.host, port, reuse_port=spec.reuse_port)
        )

    async def _load(self) -> bool:
        """Load all models; False where a signal came first."""
        loop = asyncio.get_running_loop()
        stopped = loop.create_task(self._stop.wait())
        loaded = loop.create_task(self.repository.start())
        try:
            await asyncio.wait((loaded, stopped), return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                loaded.cancel()
                await asyncio.wait((loaded,))
                return False
            await loaded
        finally:
            stopped.cancel()
        return True

    def _executor(self, loaded: loading.Loaded) -> Executor:
        """A loaded model's queue and slots."""
        served = loaded.served
        allotment = Allotment.of(served, pin=not self.spec.reuse_port)
        executor = Executor(
            loaded.interface, loaded.model, served.batching, served.queue, self._steps, allotment, self._turns
        )
        executor.cost = loaded.cost
        executor.recorder = self.plane.recorder
        executor.watch.restarts = loaded.restarts
        return executor

    def _reread(self) -> None:
        """SIGHUP: follow what the repository directory says now."""
        if self._http is not None:
            self._http.reload()
        if self._grpc is not None:
            self._grpc.reload()
        if not self._stop.is_set():
            _log.info("re-reading the model repository")
            self._tasks.add(task := asyncio.get_running_loop().create_task(self._reread_logged()))
            task.add_done_callback(self._tasks.discard)

    async def _reread_logged(self) -> None:
        try:
            await self.repository.reread()
        except ModelyardError as error:
            _log.error("the model repository is not followed in full: %s", text_of(error))
        else:
            _log.info("the model repository is followed")

    def _announce(self, http_port: int) -> None:
        """Write the ready file: whole or not at all."""
        grpc_port = self._grpc.port if self._grpc is not None else None
        _log.info("ready: http port %d, grpc port %s", http_port, grpc_port)
        if self.spec.ready_file is None:
            return
        path = Path(self.spec.ready_file)
        ready = {"pid": os.getpid(), "http_port": http_port, "grpc_port": grpc_port}
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_bytes(msgspec.json.encode(ready))
        temporary.replace(path)

    async def _sweep(self) -> None:
        """Deadlines and the heartbeat, for as long as the process lives."""
        heartbeat = Path(self.spec.heartbeat_file) if self.spec.heartbeat_file else None
        beat = 0.0
        while True:
            now = perf_counter()
            self._front.sweep(now)
            if self._grpc is not None:
                self._grpc.sweep(now)
            executors = self.plane.all_executors
            for executor in executors:
                executor.sweep(now)
            stuck = self._steps.abandoned > MOST_ABANDONED or any(e.stuck(now) for e in executors)
            if heartbeat is not None and now - beat >= _SWEEP_S * 0.9 and not stuck:
                beat = now
                try:
                    heartbeat.touch()
                except OSError as error:
                    _log.warning("the heartbeat cannot be written: %s", error)
            await asyncio.sleep(_DRAIN_SWEEP_S if self.plane.draining else _SWEEP_S)

    # --- end

    async def _drain(self) -> None:
        """Readiness false, take what the kernel has accepted, answer everything, close."""
        _log.info("draining")
        deadline = perf_counter() + self.spec.drain_timeout_s
        self.plane.ready = False
        self.plane.draining = True
        self.repository.refuse_changes()
        await asyncio.sleep(min(_ACCEPT_PENDING_S, self.spec.drain_timeout_s))
        if self._http is not None:
            self._http.close()
        ending: asyncio.Task[Any] | None = None
        if self._grpc is not None:
            ending = asyncio.get_running_loop().create_task(self._grpc.stop(max(deadline - perf_counter(), 0.0)))
        while perf_counter() < deadline and (
            self._front.connections
            or any(not e.idle for e in self.plane.all_executors)
            or (ending is not None and not ending.done())
        ):
            await asyncio.sleep(_DRAIN_SWEEP_S / 5)
        if ending is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(ending, 1.0)
        left = len(self._front.connections)
        if left:
            _log.warning("the drain timed out with %d connections open", left)
        _log.info("drained")

    async def _shut_down(self, listener: socket.socket) -> None:
        if self._http is not None:
            self._http.close()
        listener.close()
        for connection in list(self._front.connections):
            if connection.transport is not None:
                connection.transport.abort()
        if self._grpc is not None:
            await self._grpc.stop(0)
        await self.repository.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._steps.shutdown()
        self.plane.tracer.close()
        for executor in self.plane.all_executors:
            executor.close()
        if self.spec.ready_file is not None:
            Path(self.spec.ready_file).unlink(missing_ok=True)


def bind(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    """A bound TCP socket. Raises InvalidInput for a host that is not this machine's, Conflict for a port in use."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidInput(f"cannot listen on host '{host}'", why=str(error), hint=_HOSTS) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            why = "no network interface of this machine has that address"
            raise InvalidInput(f"cannot listen on host '{host}'", why=why, hint=_HOSTS) from error
        if error.errno == errno.EACCES:
            why = "ports below 1024 need privileges"
            raise Conflict(f"cannot listen on {host}:{port}", why=why, hint="choose a higher port") from error
        raise Conflict(
            f"cannot listen on {host}:{port}",
            why=os.strerror(error.errno or 0).lower(),
            hint=f"free the port (ss -ltnp 'sport = :{port}' shows who has it) or choose another",
        ) from error
    listener.setblocking(False)
    return listener


def load_spec(path: Path) -> ReplicaSpec:
    """Read a replica's spec. Raises InvalidInput naming the field."""
    try:
        return strict.decode(path.read_bytes(), ReplicaSpec)
    except (OSError, msgspec.DecodeError, ModelyardError) as error:
        raise InvalidInput(f"cannot read the replica spec {path}", why=str(error)) from error
