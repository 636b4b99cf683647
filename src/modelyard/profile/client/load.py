"""Drives one block: an open loop follows its schedule whatever the service does, a closed loop keeps n in flight."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from time import monotonic_ns, process_time_ns

from modelyard.domain.workload import Workload
from modelyard.profile.client.block import Block, Transport
from modelyard.profile.client.timer import PreciseTimer
from modelyard.profile.samples import Samples
from modelyard.profile.schedule import BlockSchedule

_LEAD_NS = 2_000_000
_LEAD_NS_PER_REQUEST = 150
"""The first request is due this long after the block begins, so that it is not late from the start: the instants of
140,000 requests take 10 ms to write down."""
_BURST = 32
"""Overdue requests sent per turn of the loop before responses are read again."""
_SWEEP_S = 0.02


@dataclass(frozen=True, slots=True)
class BlockRun:
    """Samples of a block, and the seconds and CPU seconds the client drove load (setting up not counted)."""

    samples: Samples
    wall_s: float
    cpu_s: float


async def run_block(transport: Transport, workload: Workload, schedule: BlockSchedule, number: int) -> BlockRun:
    """Run one block to its end (every request completed, failed or timed out)."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.001)  # connections that the service closed while idle are noticed now, not as failures
    await transport.open()
    block = Block(schedule.requests, workload.timeout_s, loop)
    sweeper = loop.create_task(_sweep(transport, block))
    try:
        with _no_garbage_collection(), _first():
            wall_ns, cpu_ns = monotonic_ns(), process_time_ns()
            if schedule.times_s is None:
                start_ns = await _closed(transport, workload, block, schedule)
            else:
                start_ns = await _open(transport, block, schedule, loop)
            wall_ns, cpu_ns = monotonic_ns() - wall_ns, process_time_ns() - cpu_ns
    finally:
        sweeper.cancel()
    return BlockRun(block.samples(number, start_ns), wall_ns / 1e9, cpu_ns / 1e9)


async def _open(transport: Transport, block: Block, schedule: BlockSchedule, loop: asyncio.AbstractEventLoop) -> int:
    assert schedule.times_s is not None  # noqa: S101  the caller's branch, restated for the type checker
    payloads = schedule.payloads.tolist()
    offsets = (schedule.times_s * 1e9).astype("int64")
    start_ns = monotonic_ns() + _LEAD_NS + _LEAD_NS_PER_REQUEST * len(offsets)
    block.scheduled[:] = due = (offsets + start_ns).tolist()
    count, position = len(due), 0
    dispatched, send = block.dispatched, transport.send

    def tick() -> None:
        nonlocal position
        stop = min(count, position + _BURST)
        while position < stop and due[position] <= (now := monotonic_ns()):
            dispatched[position] = now
            send(block, position, payloads[position])
            position += 1
        if position < count:
            timer.arm(due[position])
        else:
            timer.disarm()

    timer = PreciseTimer(loop, tick)
    try:
        timer.arm(start_ns)
        await block.done
    finally:
        timer.close()
    return start_ns


async def _closed(transport: Transport, workload: Workload, block: Block, schedule: BlockSchedule) -> int:
    payloads = schedule.payloads.tolist()
    count, position = len(payloads), 0
    start_ns = monotonic_ns()
    end_ns = start_ns + int(workload.duration_s * 1e9)

    def next_request() -> None:
        nonlocal position
        now = monotonic_ns()
        if position >= count:
            return
        if now >= end_ns and position > 0:
            position = count
            block.drop_unsent()
            return
        index = position
        position += 1
        block.scheduled[index] = block.dispatched[index] = now
        transport.send(block, index, payloads[index])

    block.on_complete = next_request
    for _ in range(min(workload.concurrency, count)):
        next_request()
    await block.done
    return start_ns


async def _sweep(transport: Transport, block: Block) -> None:
    while True:
        await asyncio.sleep(_SWEEP_S)
        transport.expire(block, monotonic_ns())


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A full collection takes milliseconds, which would be the service's p99."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def may_run_first() -> bool:
    """Whether the system lets this process run before ordinary ones (CAP_SYS_NICE)."""
    try:
        with _scheduled(os.SCHED_RR, 1):
            return True
    except PermissionError:
        return False


@contextmanager
def _first() -> Iterator[None]:
    """Run before ordinary processes as soon as there is something to do, where the system lets us.

    A client that waits for a core sends late and blames its own wait on the service. Measured on two cores under a load
    of 7: a timer of 2 ms wakes 2.2 ms late at p99 as it is (niceness -10: 2.0 ms), 0.09 ms under SCHED_RR. While it
    drives load the client only reacts to timers and responses, so it cannot starve the service; what it computes before
    and after would hold up another client on the same core. Where this is not allowed nothing is lost: the send lag is
    measured and judged either way, and how the client was scheduled is recorded.
    """
    with _scheduled(os.SCHED_RR, 1) if may_run_first() else nullcontext():
        yield


@contextmanager
def _scheduled(policy: int, priority: int) -> Iterator[None]:
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, policy, os.sched_param(priority))
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, parameters)
