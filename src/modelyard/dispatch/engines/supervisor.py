"""The process that keeps one service's replicas running: `python -m modelyard.dispatch.engines.supervisor --dir DIR`.

It is detached from whoever started it. Its standard input is a pipe from the starter: `ok` says that the service was
probed and is to stay; the end of the pipe without it (the starter failed, or was killed) takes everything down again.
SIGTERM drains and ends the service. Its replicas die with it, even by kill -9 (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from modelyard.dispatch.engines import logs
from modelyard.dispatch.engines.control import MAX_LINE_BYTES, Done, Order, Roll, Scale, Trial, Verdict
from modelyard.dispatch.engines.heartbeat import TICK_S
from modelyard.dispatch.engines.identity import ProcessIdentity
from modelyard.dispatch.engines.network import callable_host, reserve
from modelyard.dispatch.engines.placement import cores_of, usable_cores
from modelyard.dispatch.engines.replica import ReplicaProcess
from modelyard.dispatch.engines.restart import RestartBudget
from modelyard.dispatch.engines.slot import Slot
from modelyard.dispatch.engines.state import Plan, Problem, Record, ServiceDirectory, write_json
from modelyard.domain.errors import BackendFailed, Conflict, InvalidInput, ModelyardError
from modelyard.domain.services import Endpoint, ReplicaSpec, ReplicaState, ServiceState

log = logging.getLogger(__name__)
CONFIRMATION = b"ok"
TRIAL = -1


class Supervisor:
    """Runs one service from start to stop."""

    def __init__(
        self, directory: ServiceDirectory, plan: Plan, environment: Mapping[str, str], identity: ProcessIdentity
    ) -> None:
        self._directory = directory
        self._plan = plan
        self._environment = environment
        self._identity = identity
        self._slots: list[Slot] = []
        self._passing: list[Slot] = []  # neither counted nor shown: trials, and what is being replaced
        self._serial = itertools.count()
        self._operation: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._confirmed = asyncio.Event()
        self._state = ServiceState.STARTING
        self._detail = ""
        self._problem: Problem | None = None
        self._unpublished = False
        self._forget = False
        self.endpoint: Endpoint | None = None

    async def run(self) -> None:
        """Start, serve until told to stop, take everything down."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        for ignored in (signal.SIGINT, signal.SIGHUP):  # a handler, not SIG_IGN: replicas would inherit that
            loop.add_signal_handler(ignored, log.info, "signal ignored")
        loop.add_reader(sys.stdin.fileno(), self._hear_starter)
        if self._plan.owner:
            self._follow_owner(self._plan.owner)
        work = asyncio.create_task(self._serve())
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            work.cancel()
            await asyncio.wait((work,))
            await self._take_down()

    def _hear_starter(self) -> None:
        heard = os.read(sys.stdin.fileno(), 64)
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), sys.stdin.fileno())
        if heard.startswith(CONFIRMATION):
            self._confirmed.set()
        else:
            log.error("the starter went away before it confirmed the service: ending it")
            self._stop.set()

    def _follow_owner(self, owner: ProcessIdentity) -> None:
        """End, leaving nothing, when the owner does."""

        def end() -> None:
            log.error("the owner of the service, process %d, is gone: ending it", owner.pid)
            loop.remove_reader(handle)
            self._forget = True
            self._stop.set()

        loop = asyncio.get_running_loop()
        try:
            handle = os.pidfd_open(owner.pid)
        except ProcessLookupError:
            handle = -1
        if handle < 0 or not owner.alive:
            self._forget = True
            self._stop.set()
        else:
            loop.add_reader(handle, end)

    async def _serve(self) -> None:
        plan = self._plan
        self.publish()
        try:
            with contextlib.ExitStack() as held:
                address = plan.spec.host
                http = held.enter_context(reserve(address, plan.spec.http_port)).getsockname()[1]
                grpc = None
                if plan.spec.grpc_port is not None:
                    grpc = held.enter_context(reserve(address, plan.spec.grpc_port)).getsockname()[1]
                self.endpoint = Endpoint(callable_host(address), http, grpc, plan.spec.tls is not None)
                log.info("service %s: %d replicas on %s", plan.name, plan.n, self.endpoint)
                self._slots = [self._slot(index, plan.spec) for index in range(plan.n)]
                await asyncio.gather(*(slot.start() for slot in self._slots))
                self._place()
                await self._confirmed.wait()
                self._state = ServiceState.READY
                await self._obey()
        except ModelyardError as error:
            log.error("the service could not be started: %s", error)
            self._state, self._problem, self._detail = ServiceState.FAILED, Problem.of(error), str(error)
            self.publish()
            await self._stop.wait()  # the starter reads the problem and goes

    async def _obey(self) -> None:
        """Take orders, and keep own books, until cancelled."""
        with self._directory.address() as address:
            server = await asyncio.start_unix_server(self._converse, address, limit=MAX_LINE_BYTES)
        async with server:
            self.publish()
            while True:
                await asyncio.sleep(TICK_S)
                logs.bound(self._directory.log(None), self._plan.policy.log_bytes)
                if self._unpublished:
                    self.publish()
                if not self._directory.plan_file.exists():  # then nobody could find, or stop, the service any more
                    log.error("the service's directory was removed: ending it")
                    self._forget = True
                    self._stop.set()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def probe(endpoint: Endpoint) -> None:
            writer.write(msgspec.json.encode(Trial(endpoint)) + b"\n")
            line = await reader.readline()
            verdict = msgspec.json.decode(line, type=Order) if line else None
            if not (isinstance(verdict, Verdict) and verdict.good):
                raise BackendFailed("the trial replica did not answer a real inference")

        problem = None
        try:
            order = msgspec.json.decode(await reader.readline(), type=Order)
            await self._carry_out(order, probe)
        except ModelyardError as error:
            problem = Problem.of(error)
        except (msgspec.DecodeError, ConnectionError) as error:
            problem = Problem("InvalidInput", "not an order", str(error))
        except Exception as error:  # the task's boundary: an order that fails must not end the service
            log.exception("an order failed")
            problem = Problem("BackendFailed", "the order failed", repr(error), "see the supervisor's log")
        with contextlib.suppress(ConnectionError):
            writer.write(msgspec.json.encode(Done(problem)) + b"\n")
            await writer.drain()
            writer.close()

    async def _carry_out(self, order: Order, probe: Callable[[Endpoint], Awaitable[None]]) -> None:
        if self._operation:
            raise Conflict("another operation on this service is under way", hint="wait for it, then try again")
        self._operation = asyncio.current_task()
        try:
            if isinstance(order, Scale):
                await self._scale(order.n)
            elif isinstance(order, Roll):
                await self._roll(order.spec, probe)
                await self._scale(order.n or self._plan.n)
        finally:
            self._operation = None

    async def _scale(self, n: int) -> None:
        if n < 1:
            raise InvalidInput("a service needs at least one replica", hint="stop it instead")
        if n == self._plan.n:
            return
        log.info("scale from %d to %d", self._plan.n, n)
        fresh = [self._slot(index, self._plan.spec) for index in range(len(self._slots), n)]
        self._slots += fresh
        try:
            await asyncio.gather(*(slot.start() for slot in fresh))
        except BaseException:
            self._slots = self._slots[: len(self._slots) - len(fresh)]
            await self._end(fresh, drain=False)
            raise
        surplus = self._slots[n:]
        self._keep(replace(self._plan, n=n))
        await asyncio.gather(*(slot.end(self._drain_s(slot), others_serve=True) for slot in surplus))
        self._slots = self._slots[:n]
        self._place()
        self.publish()

    async def _roll(self, spec: ReplicaSpec, probe: Callable[[Endpoint], Awaitable[None]]) -> None:
        log.info("roll: a trial replica first")
        await self._try_out(spec, probe)
        before = list(self._slots)
        try:
            for index, old in enumerate(before):
                await self._swap(index, old, spec)
        except BaseException:
            if self._stop.is_set():
                raise
            log.exception("roll failed at replica %d: back to the old spec", index)
            for done in range(index):
                with contextlib.suppress(BackendFailed):  # then the new one stays: better than a gap
                    await self._swap(done, self._slots[done], self._plan.spec)
            raise
        self._keep(replace(self._plan, spec=spec))
        self.publish()
        log.info("roll: done")

    async def _try_out(self, spec: ReplicaSpec, probe: Callable[[Endpoint], Awaitable[None]]) -> None:
        """Start one replica of `spec` on private ports and have it probed, so that a bad one never meets a client."""
        private = replace(
            spec, http_port=0, grpc_port=None if spec.grpc_port is None else 0, reuse_port=False, unix_socket=None
        )
        trial = self._slot(TRIAL, private, final=True)
        self._passing.append(trial)
        try:
            await trial.start()
            if trial.ready is None:
                raise BackendFailed("the trial replica ended at once")
            ready = trial.ready
            await probe(Endpoint(callable_host(spec.host), ready.http_port, ready.grpc_port, tls=spec.tls is not None))
        finally:
            await trial.end(0)
            self._passing.remove(trial)

    async def _swap(self, index: int, old: Slot, spec: ReplicaSpec) -> None:
        """Start a replica of `spec` beside `old`, and once it is ready drain `old`."""
        new = self._slot(index, spec)
        self._passing.append(new)
        try:
            await new.start()
        except BaseException:
            await new.end(0)
            self._passing.remove(new)
            raise
        self._slots[index] = new
        self._passing[self._passing.index(new)] = old
        self._place()
        self.publish()
        await old.end(self._drain_s(old), others_serve=True)
        self._passing.remove(old)

    def _place(self) -> None:
        """Give the replicas cores of their own where they fill the machine; else back all they had."""
        limits, count = self._plan.limits, len(self._slots)
        for slot in self._slots:
            own = cores_of(slot.index, count, slot.spec, limits)
            slot.place(own or (usable_cores(limits) if slot.cores else ()))

    def _slot(self, index: int, spec: ReplicaSpec, *, final: bool = False) -> Slot:
        """A new slot; `final`: its spec is used as it is, else it is bound to the service's endpoint."""
        if not final and self.endpoint:
            spec = replace(
                spec,
                host=self._plan.spec.host,
                http_port=self.endpoint.http_port,
                grpc_port=self.endpoint.grpc_port,
                reuse_port=True,
                unix_socket=unix_socket(spec, index),
            )
        return Slot(
            index,
            spec,
            lambda: ReplicaProcess(self._plan, spec, self._directory, index, next(self._serial)),
            RestartBudget(self._plan.policy, time.monotonic, random.random),
            self._environment,
            self.publish,
        )

    def _drain_s(self, slot: Slot) -> float:
        # The replica itself gives up after drain_timeout_s; one second more lets it say so.
        return slot.spec.drain_timeout_s + 1.0

    async def _end(self, slots: list[Slot], *, drain: bool) -> None:
        await asyncio.gather(*(slot.end(self._drain_s(slot) if drain else 0.0) for slot in slots))

    def _keep(self, plan: Plan) -> None:
        write_json(self._directory.plan_file, plan)
        self._plan = plan

    def publish(self) -> None:
        """Write what is to be seen from outside. A full disk must not end the service: it is tried again."""
        shown = [slot.record for slot in self._slots]
        detail = self._detail
        state = self._state
        if state is ServiceState.READY:
            failed = [r.replica for r in shown if r.replica.state is ReplicaState.FAILED]
            ready = sum(r.replica.state is ReplicaState.READY for r in shown)
            if failed:
                detail = f"replica {failed[0].index}: {failed[0].detail}"
            if len(failed) == len(shown):
                state = ServiceState.FAILED
            elif ready < self._plan.n:
                state = ServiceState.DEGRADED
        record = Record(self._identity, state, self.endpoint, tuple(shown), detail, self._problem)
        try:
            write_json(self._directory.state_file, record)
            self._unpublished = False
        except OSError as error:
            self._unpublished = True
            log.warning("the state could not be written: %s", error)

    async def _take_down(self) -> None:
        confirmed = self._confirmed.is_set() and not self._forget
        log.info("ending the service")
        if self._operation:
            self._operation.cancel()
            await asyncio.wait((self._operation,))
        await self._end([*self._slots, *self._passing], drain=confirmed)
        if confirmed and self._stop.is_set():
            self._state, self._detail = ServiceState.STOPPED, "stopped"
            self.publish()
        elif not confirmed:
            remove_directory(self._directory.path)


def unix_socket(spec: ReplicaSpec, index: int) -> str | None:
    """Each replica has a Unix socket of its own, for the kernel shares ports only: the path, then `path.1`, ..."""
    return f"{spec.unix_socket}.{index}" if spec.unix_socket and index else spec.unix_socket


def remove_directory(path: Path) -> None:
    """Remove a service's directory; its name is free at once, even if another process does the same."""
    gone = path.with_name(f".gone-{os.getpid()}-{path.name}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def main() -> None:
    """Entry point: detach, then supervise the service in `--dir`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="the service's directory, holding plan.json")
    directory = ServiceDirectory(parser.parse_args().dir)
    if os.fork():  # the starter need not wait for a child that outlives it
        os._exit(0)
    logging.Formatter.converter = time.gmtime  # as the replicas write it, so that the logs can be merged
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s",
        datefmt=logs.TIME_FORMAT,
        stream=sys.stderr,
    )
    plan = directory.plan()
    if plan is None:
        parser.error(f"{directory.plan_file} does not exist")
    # The replicas' environment is made from this process's: nothing of it configures the supervisor itself.
    environment = dict(os.environ)
    identity = ProcessIdentity.of(os.getpid())
    if identity is None:
        parser.error("/proc is not mounted")
    asyncio.run(Supervisor(directory, plan, environment, identity).run())


if __name__ == "__main__":
    main()
