"""Connections among threads, tasks and processes; and what importing the client costs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from modelyard.client import NO_RETRIES, AsyncClient, Client, TransportOptions
from modelyard.domain.errors import Conflict, Unavailable
from tests.serving_harness import until
from tests.unit.client.scripted import GOOD, SILENCE, Asked, Server, X, echo


class Gate:
    """Answers only when it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def __call__(self, asked: Asked) -> bytes:
        assert self.opened.wait(30)
        return echo(asked)


def tensor(number: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return {"x": np.full((1, 4), number, np.float32)}


def test_threads_share_bounded_connections_and_get_their_own_answers(server: Server) -> None:
    gate = Gate()
    server.script = [gate]
    with Client(server.url, transport=TransportOptions(max_connections=3)) as client, ThreadPoolExecutor(12) as pool:
        calls = [pool.submit(client.infer, "m", tensor(n)) for n in range(60)]
        until(lambda: server.connections == 3, "three connections")
        gate.opened.set()
        for number, call in enumerate(calls):
            assert call.result(30)["x"].tolist() == [[number] * 4]
    assert server.connections == 3


def test_tasks_share_bounded_connections_and_get_their_own_answers(server: Server) -> None:
    server.script = [echo]

    async def main() -> None:
        async with AsyncClient(server.url, transport=TransportOptions(max_connections=3)) as client:
            results = await asyncio.gather(*[client.infer("m", tensor(n)) for n in range(60)])
        for number, result in enumerate(results):
            assert result["x"].tolist() == [[number] * 4]

    asyncio.run(main())
    assert server.connections == 3


def test_a_call_waits_for_a_connection_no_longer_than_its_deadline(server: Server) -> None:
    server.script = [SILENCE]
    with (
        Client(server.url, transport=TransportOptions(max_connections=1), retries=NO_RETRIES) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client.infer, "m", X)
        until(lambda: server.asked, "the first call is under way")
        with pytest.raises(Unavailable, match="none of 1 connections"):
            client.infer("m", X, timeout_s=0.05)
        server.over.set()
        with pytest.raises(Unavailable, match="gave no answer"):
            first.result(30)


def test_a_task_waits_for_a_connection_no_longer_than_its_deadline(server: Server) -> None:
    server.script = [SILENCE]

    async def main() -> None:
        options = TransportOptions(max_connections=1)
        async with AsyncClient(server.url, transport=options, retries=NO_RETRIES) as client:
            first = asyncio.create_task(client.infer("m", X))
            await asyncio.to_thread(until, lambda: server.asked, "the first call is under way")
            with pytest.raises(Unavailable, match="none of 1 connections"):
                await client.infer("m", X, timeout_s=0.05)
            server.over.set()
            with pytest.raises(Unavailable, match="gave no answer"):
                await first

    asyncio.run(main())


def test_closing_wakes_those_who_wait(server: Server) -> None:
    server.script = [SILENCE]
    client = Client(server.url, transport=TransportOptions(max_connections=1), retries=NO_RETRIES)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.infer, "m", X)
        until(lambda: server.asked, "the first call is under way")
        second = pool.submit(client.infer, "m", X)
        client.close()
        with pytest.raises(Conflict, match="closed"):
            second.result(30)
        server.over.set()
        with pytest.raises(Unavailable):
            first.result(30)


def test_a_cancelled_call_gives_its_place_back_and_its_answer_reaches_nobody(server: Server) -> None:
    gate = Gate()
    server.script = [gate, echo]

    async def main() -> None:
        async with AsyncClient(server.url, transport=TransportOptions(max_connections=1)) as client:
            first = asyncio.create_task(client.infer("m", tensor(1)))
            await asyncio.to_thread(until, lambda: server.asked, "the first call is under way")
            waiting = asyncio.create_task(client.infer("m", tensor(2)))
            await asyncio.sleep(0)
            first.cancel()
            waiting.cancel()
            for task in (first, waiting):
                with pytest.raises(asyncio.CancelledError):
                    await task
            gate.opened.set()
            assert (await client.infer("m", tensor(3)))["x"].tolist() == [[3.0] * 4]

    asyncio.run(main())
    assert server.connections == 2


def test_a_client_belongs_to_one_event_loop(server: Server) -> None:
    client = AsyncClient(server.url)

    async def use() -> None:
        await client.live()
        await client.close()

    asyncio.run(use())
    with pytest.raises(Conflict, match="another event loop"):
        asyncio.run(use())


def test_a_forked_process_talks_on_connections_of_its_own(server: Server) -> None:
    server.script = [GOOD]
    with Client(server.url) as client:
        client.infer("m", X)
        child = os.fork()
        if child == 0:  # nothing of pytest's may run here
            try:
                client.infer("m", X)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert len(server.asked) == 2
        client.infer("m", X)
    assert server.connections == 2


def test_the_import_loads_no_framework() -> None:
    code = "import modelyard.client, sys; print('\\n'.join({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names)
    plain = subprocess.run(
        [sys.executable, "-c", code.replace("modelyard.client, ", "")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    # msgspec takes typing_extensions where it is installed
    assert foreign - set(plain.stdout.split()) <= {"modelyard", "numpy", "msgspec", "typing_extensions"}
