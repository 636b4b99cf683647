"""gzip and deflate: request bodies within limits of size and work, answers where it pays."""

from __future__ import annotations

import zlib
from typing import Final

from modelyard.domain.errors import InvalidInput
from modelyard.serving.faults import TooLarge
from modelyard.serving.http.limits import Limits
from modelyard.serving.http.ports import Body, Reply

INLINE_BYTES: Final = 64 * 1024
"""A body that unfolds to no more than this is unfolded on the event loop (up to about 0.2 ms)."""
COMPRESSED_FROM: Final = 16 * 1024
"""Answers smaller than this are sent plain: compressing would cost more than their bytes on any network near by."""
_LEVEL: Final = 1
_STEP: Final = 1024 * 1024
_WINDOW: Final = {"gzip": 31, "deflate": 15}


class Inflation:
    """One body being unfolded: `start` on the event loop, then, if it returns None, `finish` in a pool thread."""

    __slots__ = ("_done", "_encoding", "_limits", "_size", "_stream", "_tail")

    def __init__(self, encoding: str, body: Body, limits: Limits) -> None:
        self._encoding = encoding
        self._limits = limits
        self._size = len(body)
        self._tail: Body = body
        self._done = bytearray()
        # RFC 9110 means zlib's format by deflate; some clients send the bare stream (first byte: no zlib header)
        raw = encoding == "deflate" and (len(body) < 2 or body[0] & 15 != 8 or (body[0] << 8 | body[1]) % 31)
        self._stream = zlib.decompressobj(-15 if raw else _WINDOW[encoding])

    def start(self) -> bytearray | None:
        """Unfold up to `INLINE_BYTES`: the body if that is all of it. Raises InvalidInput, TooLarge."""
        self._step(INLINE_BYTES)
        return self._whole()

    def finish(self) -> bytearray:
        """Unfold the rest. Raises InvalidInput, TooLarge once it exceeds the limits, having kept no more than them."""
        while (whole := self._whole()) is None:
            self._step(_STEP)
        return whole

    def _step(self, most: int) -> None:
        before = len(self._done)
        try:
            self._done += self._stream.decompress(self._tail, most)
        except zlib.error as error:
            raise InvalidInput(f"the body is not valid {self._encoding}", why=str(error)) from None
        self._tail = self._stream.unconsumed_tail
        size, limits = len(self._done), self._limits
        if size > limits.max_body_bytes:
            raise TooLarge(f"the decompressed request body exceeds the limit of {limits.max_body_bytes} bytes")
        if size > limits.free_inflation_bytes and size > (self._size - len(self._tail)) * limits.max_inflation:
            raise TooLarge(
                f"the request body unfolds to more than {limits.max_inflation} times its size",
                hint="send it uncompressed",
            )
        if size == before and not self._tail and not self._stream.eof:
            raise InvalidInput(f"the body is not valid {self._encoding}", why="it ends too early")

    def _whole(self) -> bytearray | None:
        if not self._stream.eof:
            return None
        if self._stream.unused_data:
            raise InvalidInput(f"the body is not valid {self._encoding}", why="something follows its end")
        return self._done


def pays(reply: Reply, accepts: str) -> bool:
    """Whether an answer is worth compressing for a client that accepts this coding: large, and text."""
    if not accepts or len(reply.rest) < COMPRESSED_FROM:
        return False
    lines = reply.rest[: reply.rest.index(b"\r\n\r\n")]
    return (b"application/json" in lines or b"text/" in lines) and b"Content-Encoding:" not in lines


def compress(reply: Reply, coding: str) -> Reply:
    """The same answer, its body compressed; the reply itself where that makes it no smaller."""
    lines, _, body = reply.rest.partition(b"\r\n\r\n")
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW[coding])
    packed = stream.compress(body) + stream.flush()
    if len(packed) >= len(body):
        return reply
    kept = [line for line in lines.split(b"\r\n") if not line.lower().startswith(b"content-length:")]
    kept += [
        b"Content-Encoding: " + coding.encode("ascii"), b"Vary: Accept-Encoding", b"Content-Length: %d" % len(packed)
    ]  # fmt: skip
    return Reply(reply.status, b"\r\n".join(kept) + b"\r\n\r\n" + packed)
