"""Clients that try again, against a service that has too much to do and one of which half is dead: row T20."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.faults.result import Options, Result
from modelyard.client import AsyncClient, RetryPolicy, Timing
from modelyard.domain.configuration import QueuePolicy
from modelyard.domain.errors import ModelyardError
from tests.serving_harness import replica, scripted

OURS = RetryPolicy(max_attempts=4)
"""3 retries within the client's default budget: 10 % of the successes and a burst of 5."""
NAIVE = RetryPolicy(max_attempts=4, ratio=1.0, burst=1e9)
"""3 retries whatever happens."""
CLIENTS = 4
CAPACITY = 100.0
"""Requests/s of the overloaded service: 2 per execution of 20 ms."""
TIMES = 3.0
"""Its load, in capacities."""
MOST = 1.1
ANSWER = b'{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1,4],"data":[0,0,0,0]}]}'


@dataclass
class Storm:
    """What clients did: calls, those answered, and attempts."""

    calls: int = 0
    answered: int = 0
    attempts: int = 0

    def __str__(self) -> str:
        return f"x {self.attempts / self.calls:.2f} ({self.answered / self.calls:.0%} answered)"

    async def call(self, client: AsyncClient) -> None:
        """One call."""
        self.calls += 1
        self.attempts += 1
        try:
            await client.infer("m", {"x": np.zeros((1, 4), np.float32)}, timeout_s=5.0)
        except ModelyardError:
            return
        self.answered += 1

    async def pause(self, seconds: float) -> None:
        """Before each attempt that is no first one."""
        await asyncio.sleep(seconds)
        self.attempts += 1

    async def run(self, url: str, policy: RetryPolicy, rate: float, seconds: float) -> None:
        """Calls at `rate` per second by clients with a budget each, whatever becomes of them."""
        timing = Timing(pause=self.pause)
        clients = [AsyncClient(url, retries=policy, timing=timing) for _ in range(CLIENTS)]
        tasks, chance = [], random.Random(0)
        due = time.perf_counter()
        end = due + seconds
        while due < end:
            due += chance.expovariate(rate)
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            tasks.append(asyncio.create_task(self.call(clients[len(tasks) % CLIENTS])))
        await asyncio.gather(*tasks)
        for client in clients:
            await client.close()


@contextmanager
def half_dead() -> Iterator[str]:
    """A service behind a balancer that gives every other request, by chance, to what has died: no answer, an end."""
    chance, loop, started = random.Random(1), asyncio.new_event_loop(), threading.Event()
    port = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
                await reader.readexactly(int(length.partition(b":")[2]))
                if chance.random() < 0.5:
                    return
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
                    + ANSWER
                )
        except (asyncio.IncompleteReadError, ConnectionError):  # the client has left
            return
        finally:
            writer.close()

    async def main() -> None:
        nonlocal port
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        started.set()

    def run() -> None:
        loop.run_until_complete(main())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    started.wait()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def t20(folder: Path, options: Options) -> Result:
    """Clients with 3 retries, a service overloaded 3 times, another half dead: attempts per call <= 1.1."""
    queue = QueuePolicy(slo_ms=200)

    def overloaded(policy: RetryPolicy, name: str) -> Storm:
        model = scripted("sleep", batch=2, seconds=2 / CAPACITY, queue=queue)
        with replica(folder / name, model, grpc_port=None) as server:
            return storm(f"http://{server.address}", policy, TIMES * CAPACITY, options.seconds)

    def dying(policy: RetryPolicy, name: str) -> Storm:  # noqa: ARG001 - as `overloaded`
        with half_dead() as url:
            return storm(url, policy, TIMES * CAPACITY, options.seconds)

    kinds: dict[str, Callable[[RetryPolicy, str], Storm]] = {"overloaded": overloaded, "half dead": dying}
    ours = {kind: measure(OURS, f"{kind}-ours") for kind, measure in kinds.items()}
    naive = {kind: measure(NAIVE, f"{kind}-naive") for kind, measure in kinds.items()}
    figure = "; ".join(f"{kind}: {ours[kind]}, without a budget {naive[kind]}" for kind in kinds)
    return Result(figure, all(found.attempts <= MOST * found.calls for found in ours.values()))


def storm(url: str, policy: RetryPolicy, rate: float, seconds: float) -> Storm:
    """A storm of its own event loop."""
    found = Storm()
    asyncio.run(found.run(url, policy, rate, 2 * seconds))
    return found
