"""Entry point of the load client's process."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import resource
import sys
import time
from pathlib import Path
from typing import Final, TextIO

import msgspec
import uvloop

from modelyard.domain.workload import Protocol, Workload
from modelyard.profile.client.block import Transport
from modelyard.profile.client.grpc import GrpcConnection, request_headers
from modelyard.profile.client.http import HttpConnection
from modelyard.profile.client.load import may_run_first, run_block
from modelyard.profile.client.pool import PooledTransport
from modelyard.profile.plan import Answer, BlockDone, Command, LeadIn, LedIn, LoadPlan, RunBlock, Trouble, WarmedUp
from modelyard.profile.recording import Recording
from modelyard.profile.samples import Samples
from modelyard.profile.schedule import BlockSchedule, draw
from modelyard.profile.statistics import percentile, settled

LEAD_S: Final = 0.1
"""Of load before each block. Requests as long as this do not gain by warm caches, and are not led in."""
_LEAD_REQUESTS: Final = 10_000


class LoadClient:
    """Runs the commands of one plan over one set of connections."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._payloads = read_payloads(plan)
        self._recording = Recording.load(Path(plan.trace_file)) if plan.trace_file else None
        self._transport = make_transport(plan, self._payloads)
        self._typical_ms = 0.0

    async def warm_up(self) -> WarmedUp:
        """Send the first request alone, then blocks of the workload until they agree."""
        rule, workload = self._plan.warm_up, self._plan.workload
        alone = dataclasses.replace(workload, requests=1)
        first = await self._run(alone, -1)
        # At a low rate half a second may hold no request at all: a block has at least ten.
        block_s = max(rule.block_s, 10 / workload.rate_rps) if workload.rate_rps else rule.block_s
        brief = dataclasses.replace(workload, requests=rule.block_requests, duration_s=block_s)
        p50s: list[float] = []
        ends = time.monotonic() + rule.max_s
        while len(p50s) < rule.max_blocks and not settled(p50s, rule.tolerance):
            # The same schedule and payloads each time: what changes from block to block is then warmth, not chance.
            samples = await self._run(brief, -2)
            p50s.append(percentile(samples.latencies_ms(workload.timeout_s), 0.5))
            if time.monotonic() > ends:
                break
        self._typical_ms = p50s[-1]
        return WarmedUp(
            settled=settled(p50s, rule.tolerance),
            p50s_ms=tuple(p50s),
            first_response_ms=float(first.latencies_ms(0.0)[0]),
            first_status=int(first.status[0]),
            scheduling="real-time" if may_run_first() else "ordinary",
        )

    async def lead_in(self) -> LedIn:
        """Send the workload for `LEAD_S`, and forget what came of it."""
        if self._typical_ms >= LEAD_S * 1e3:
            return LedIn(0)
        workload = self._plan.workload
        brief = dataclasses.replace(workload, requests=min(workload.requests, _LEAD_REQUESTS), duration_s=LEAD_S)
        return LedIn(len(await self._run(brief, -3)))

    async def block(self, number: int) -> BlockDone:
        """Run one block and write its samples."""
        schedule = self._draw(self._plan.workload, number)
        run = await run_block(self._transport, self._plan.workload, schedule, number)
        path = Path(self._plan.samples_dir) / f"block-{number}.npz"
        run.samples.save(path)
        return BlockDone(samples=str(path), wall_s=run.wall_s, client_cpu_s=run.cpu_s)

    async def close(self) -> None:
        """Disconnect."""
        await self._transport.close()

    async def _run(self, workload: Workload, number: int) -> Samples:
        schedule = self._draw(workload, number)
        return (await run_block(self._transport, workload, schedule, number)).samples

    def _draw(self, workload: Workload, number: int) -> BlockSchedule:
        return draw(workload, number, len(self._payloads), self._recording)


def read_payloads(plan: LoadPlan) -> list[bytes]:
    """The encoded requests of a plan."""
    data = memoryview(Path(plan.payload_file).read_bytes())
    payloads, at = [], 0
    for length in plan.payload_lengths:
        payloads.append(bytes(data[at : at + length]))
        at += length
    return payloads


def make_transport(plan: LoadPlan, payloads: list[bytes]) -> Transport:
    """The transport of the plan's protocol."""
    most = max(plan.connections, plan.max_connections)
    if plan.workload.protocol is Protocol.GRPC:
        headers = request_headers(f"{plan.host}:{plan.port}", plan.grpc_method)
        messages = [b"\0" + len(payload).to_bytes(4, "big") + payload for payload in payloads]
        return PooledTransport(
            plan.host, plan.port, lambda pool: GrpcConnection(pool, headers, messages), plan.connections, most
        )
    return PooledTransport(plan.host, plan.port, lambda pool: HttpConnection(pool, payloads), plan.connections, most)


def serve(plan: LoadPlan, commands: TextIO, answers: TextIO) -> None:
    """Answer commands until the input ends."""
    decoder = msgspec.json.Decoder(Command)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        client = runner.run(_made(plan))
        for line in commands:
            command = decoder.decode(line)
            answer: Answer
            try:
                answer = runner.run(_obeyed(client, command))
            except OSError as error:
                answer = Trouble(f"cannot reach {plan.host}:{plan.port}", str(error))
            answers.write(msgspec.json.encode(answer).decode() + "\n")
            answers.flush()
        runner.run(client.close())


async def _obeyed(client: LoadClient, command: Command) -> Answer:
    match command:
        case RunBlock(number):
            return await client.block(number)
        case LeadIn():
            return await client.lead_in()
        case _:
            return await client.warm_up()


async def _made(plan: LoadPlan) -> LoadClient:
    return LoadClient(plan)


def main() -> None:
    """Read the plan named by the only argument and serve."""
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=LoadPlan)
    if plan.cpus:
        os.sched_setaffinity(0, plan.cpus)
    if not may_run_first():
        sys.stderr.write("no right to real-time scheduling; the load client runs as an ordinary process\n")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    serve(plan, sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
