"""gRPC load with grpc.aio: pre-serialised messages over several channels, so that replicas behind one port share it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import cycle
from time import monotonic_ns
from typing import Any

from modelyard.profile.client.block import Block
from modelyard.profile.samples import GRPC_BASE, OK, TIMED_OUT

_OPTIONS = (
    # Without it channels with equal arguments share one connection, and so one replica.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


class GrpcTransport:
    """Unary calls of one method, channels in turn. Deadlines are left to gRPC."""

    def __init__(self, address: str, method: str, payloads: Sequence[bytes], channels: int) -> None:
        self._address, self._method, self._payloads, self._count = address, method, payloads, channels
        self._channels: list[Any] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Connect every channel. Raises OSError after 10 s."""
        import grpc

        if self._channels:
            return
        self._channels = [grpc.aio.insecure_channel(self._address, _OPTIONS) for _ in range(self._count)]
        try:
            await asyncio.wait_for(asyncio.gather(*(c.channel_ready() for c in self._channels)), 10)
        except TimeoutError as error:
            raise OSError(f"no gRPC server answers at {self._address}") from error
        self._stubs = cycle([channel.unary_unary(self._method) for channel in self._channels])
        self._error = grpc.RpcError

    def send(self, block: Block, index: int, payload: int) -> None:
        """Start a call."""
        task = asyncio.get_running_loop().create_task(self._call(block, index, self._payloads[payload]))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _call(self, block: Block, index: int, message: bytes) -> None:
        now = monotonic_ns()
        block.sent[index] = now
        left_s = (block.scheduled[index] + block.timeout_ns - now) / 1e9
        status = OK
        try:
            await next(self._stubs)(message, timeout=max(left_s, 0.001))
        except self._error as error:
            code = error.code().value[0]
            status = TIMED_OUT if code == 4 else GRPC_BASE + code
        block.complete(index, status)

    def expire(self, block: Block, now_ns: int) -> None:
        """Nothing to do: every call has its deadline."""

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels:
            await channel.close()
