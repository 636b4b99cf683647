"""Requests whose time is over before it is their turn: row T18.

The queue is of a higher priority: within one priority the earliest deadline goes first, so that a fifth of requests
with 5 ms meets a slot that frees within them, and is rightly executed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np

from bench.faults.result import Options, Result
from modelyard.client import NO_RETRIES, AsyncClient
from modelyard.domain.configuration import QueuePolicy
from tests.serving_harness import replica, scripted

ROWS = 4
"""Of a request that keeps the queue 50 ms long; an expiring one has 1, so that rows tell who was executed."""
EXECUTION_S = 0.025
QUEUED = 3
"""Requests of that kind at a time: one runs, two wait."""
DEADLINE_S = 0.005
PER_S = 200.0
"""Expiring requests."""


async def expiring(port: int) -> int:
    """One request that says by Triton's `timeout` how long it may take, on a connection that stays; its status."""
    item = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    body = json.dumps({"inputs": [item], "parameters": {"timeout": int(DEADLINE_S * 1e6), "priority": 2}}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return int(head.split(b" ", 2)[1])


async def drive(port: int, seconds: float) -> tuple[int, Counter[int]]:
    """How many requests of the queue were answered, and the statuses of the expiring ones."""
    end = time.perf_counter() + seconds
    queue = np.ones((ROWS, 4), np.float32)

    async with AsyncClient(f"http://127.0.0.1:{port}", retries=NO_RETRIES) as client:

        async def fill() -> int:
            answered = 0
            while time.perf_counter() < end + 3 * QUEUED * EXECUTION_S:  # the queue outlives what expires in it
                await client.infer("m", {"x": queue}, priority=1)
                answered += 1
            return answered

        fillers = [asyncio.create_task(fill()) for _ in range(QUEUED)]
        await asyncio.sleep(2 * QUEUED * EXECUTION_S)
        asked = []
        while time.perf_counter() < end:
            asked.append(asyncio.create_task(expiring(port)))
            await asyncio.sleep(1 / PER_S)
        statuses = Counter(await asyncio.gather(*asked))
        return sum(await asyncio.gather(*fillers)), statuses


def t18(folder: Path, options: Options) -> Result:
    """Deadlines of 5 ms behind a queue of 50 ms: none reaches the model."""
    journal = folder / "journal"
    model = scripted("sleep", batch=ROWS, queue=QueuePolicy(priorities=2), seconds=EXECUTION_S, journal=journal)
    with replica(folder / "r", model, grpc_port=None) as server:
        before = len(journal.read_text().split()) if journal.exists() else 0  # what warmed the model up
        answered, statuses = asyncio.run(drive(server.http_port, 2 * options.seconds))
        executed = [int(line) for line in journal.read_text().split()[before:]]
    reached = sum(executed) - ROWS * answered
    told = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    figure = f"{reached} of {statuses.total():,} reached the model (told: {told}), {len(executed)} executions of others"
    return Result(figure, reached == 0 and 200 not in statuses)
