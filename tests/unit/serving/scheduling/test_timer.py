"""The timer of microseconds."""

from __future__ import annotations

import asyncio
from time import perf_counter

import pytest
import uvloop

from modelyard.serving.scheduling.timer import FineTimer


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield lambda scenario: runner.run(asyncio.wait_for(scenario(), 10))


def test_it_calls_back_once_per_start_and_not_before_its_time(run):
    async def scenario():
        loop, fired = asyncio.get_running_loop(), asyncio.Event()
        timer = FineTimer(loop, fired.set)
        for delay in (0.0002, 0.002):
            fired.clear()
            started = perf_counter()
            timer.start(delay)
            await fired.wait()
            assert perf_counter() - started >= delay
        timer.close()

    run(scenario)


def test_a_cancelled_or_restarted_timer_does_not_fire_for_the_old_time(run):
    async def scenario():
        calls = []
        loop = asyncio.get_running_loop()
        timer = FineTimer(loop, lambda: calls.append(perf_counter()))
        timer.start(0.001)
        timer.cancel()
        restarted = perf_counter()
        timer.start(0.0005)
        timer.start(0.02)
        while not calls:
            await asyncio.sleep(0.001)
        assert calls[0] - restarted >= 0.02
        assert len(calls) == 1
        timer.close()
        timer.close()

    run(scenario)
