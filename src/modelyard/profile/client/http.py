"""HTTP/1.1 load on uvloop: prebuilt requests, and just enough parsing to know a response's end and status.

Measured here (bench/load_client.py): a general client library reaches 1,000 to 3,000 requests/s per core, this
15,000 and more; a load client must be far cheaper than the service it measures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic_ns
from typing import cast

from modelyard.profile.client.block import Block
from modelyard.profile.client.pool import Connection, Pool
from modelyard.profile.samples import CONNECTION_LOST, OK

_HEAD_PENDING = -1
_UNTIL_CLOSE = 1 << 62


class HttpConnection(Connection):
    """One request at a time. `_left`: body bytes still to come, or `_HEAD_PENDING`."""

    def __init__(self, pool: Pool, payloads: Sequence[bytes]) -> None:
        self._pool, self._payloads = pool, payloads
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._left = _HEAD_PENDING
        self._chunked = False
        self._closing = False
        self._status = OK
        self.block: Block | None = None
        self.index = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # a stream's; uvloop's class does not inherit from it

    def send(self, block: Block, index: int, payload: int) -> None:
        self.block, self.index = block, index
        block.sent[index] = monotonic_ns()
        self._transport.write(self._payloads[payload])  # type: ignore[union-attr]  # set before the pool sees it

    def data_received(self, data: bytes) -> None:
        if self._left >= 0:
            self._left -= len(data)
            if self._left <= 0:
                self._finish()
            return
        if self._buffer:
            data = self._buffer + data
        if self._chunked:
            self._take_chunks(data)
            return
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = data
            return
        self._take_head(data[:end].lower(), data, end + 4)

    def _take_head(self, head: bytes, data: bytes, body_at: int) -> None:
        status = int(head[9:12])
        self._status = OK if status == 200 else status
        self._closing = b"\r\nconnection: close" in head
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            stop = head.find(b"\r\n", at + 17)
            left = int(head[at + 17 : stop if stop >= 0 else len(head)]) - (len(data) - body_at)
            if left > 0:
                self._left, self._buffer = left, b""
            else:
                self._finish()
        elif b"\r\ntransfer-encoding: chunked" in head:
            self._chunked = True
            self._take_chunks(data[body_at:])
        elif status in (204, 304):
            self._finish()
        else:
            self._left, self._closing = _UNTIL_CLOSE, True

    def _take_chunks(self, data: bytes) -> None:
        """Skip whole chunks; keep what is incomplete. The last chunk has size 0 and may be followed by trailers."""
        at = 0
        while (line := data.find(b"\r\n", at)) >= 0:
            size = int(data[at:line].split(b";", 1)[0], 16)
            if size == 0:
                if data.find(b"\r\n\r\n", line) >= 0:
                    self._finish()
                    return
                break
            if len(data) < line + 2 + size + 2:
                break
            at = line + 2 + size + 2
        self._buffer = data[at:]

    def _finish(self) -> None:
        block, index = self.block, self.index
        self.block, self._left, self._buffer, self._chunked = None, _HEAD_PENDING, b"", False
        if block is None:  # bytes that no request asked for: the connection cannot be trusted any more
            self._closing = True
        if self._closing:
            self._transport.close()  # type: ignore[union-attr]
        else:
            self._pool.free(self)
        if block is not None:
            block.complete(index, self._status)

    def abort(self, status: int) -> None:
        block, self.block = self.block, None
        if self._transport is not None:
            self._transport.abort()
        if block is not None:
            block.complete(self.index, status)

    def connection_lost(self, exc: Exception | None) -> None:
        block, self.block = self.block, None
        self._pool.lost(self)
        if block is not None:
            whole = self._left >= _UNTIL_CLOSE // 2 and exc is None
            block.complete(self.index, self._status if whole else CONNECTION_LOST)
