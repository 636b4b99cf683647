"""Requests out of bytes: what a client has sent of requests that are not whole yet, or that wait for their turn."""

from __future__ import annotations

from typing import Final

from modelyard.serving.faults import HeadTooLarge, TooLarge
from modelyard.serving.http.chunks import ChunkedBody
from modelyard.serving.http.head import Head, Heads
from modelyard.serving.http.limits import Limits
from modelyard.serving.http.percall import PerCall
from modelyard.serving.http.ports import Body

_EMPTY_LINES: Final = 8
"""So many empty lines may precede a request (RFC 9112, 2.2)."""


class Framing:
    """The bytes of one connection from the first one that is not handled. Event-loop thread only.

    `head` and `own` are those of the request that comes next, once they are whole; `began` is when its first byte was
    read. `waits` tells that its client sends the body only when it is asked to.
    """

    __slots__ = ("_body", "_buffer", "_empty_lines", "_heads", "_limits", "_seen", "began", "head", "own", "waits")

    def __init__(self, heads: Heads, limits: Limits, data: bytes, now: float) -> None:
        self._heads = heads
        self._limits = limits
        self._buffer = bytearray(data)
        self._seen = 0  # bytes of the buffer that are known not to hold the end of the head
        self._empty_lines = 0
        self._body: ChunkedBody | None = None
        self.began = now
        self.head: Head | None = None
        self.own: PerCall | None = None
        self.waits = False

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        self._buffer += data
        self.waits = False

    @property
    def size(self) -> int:
        """Bytes held."""
        return len(self._buffer) + (len(self._body.body) if self._body is not None else 0)

    @property
    def empty(self) -> bool:
        """Whether nothing is held: the last request ended where the bytes do."""
        return not self._buffer and self.head is None

    def next_head(self) -> Head | None:
        """Cut off the next head, or None while bytes are missing. Raises InvalidInput, HeadTooLarge, TooLarge."""
        buffer, limits = self._buffer, self._limits
        while buffer[:2] == b"\r\n" and self._empty_lines < _EMPTY_LINES:
            del buffer[:2]
            self._empty_lines += 1
        most = limits.max_head_bytes
        end = buffer.find(b"\r\n\r\n", max(self._seen - 3, 0), most) + 4
        if end == 3:
            self._seen = len(buffer)
            if len(buffer) >= most:
                raise HeadTooLarge(f"the request head exceeds {most} bytes")
            return None
        head, own = self._heads.get(bytes(buffer[:end]))
        if head.length > limits.max_body_bytes:
            raise self._too_large()
        del buffer[:end]
        self._seen = self._empty_lines = 0
        self._body = ChunkedBody() if head.chunked else None
        self.head, self.own = head, own
        self.waits = head.expects_continue and not buffer
        return head

    def next_body(self) -> Body | None:
        """Cut off the body that belongs to `head`, or None while bytes are missing. Raises InvalidInput, TooLarge."""
        buffer, head, chunked = self._buffer, self.head, self._body
        if chunked is not None:
            del buffer[: chunked.feed(buffer, 0)]
            if len(chunked.body) > self._limits.max_body_bytes:
                raise self._too_large()
            if not chunked.done:
                return None
            self.head = self._body = None
            return chunked.body
        length = head.length if head is not None else 0
        if len(buffer) < length:
            return None
        self.head = None
        if len(buffer) == length:
            self._buffer = bytearray()
            return buffer
        body = buffer[:length]
        del buffer[:length]
        return body

    def _too_large(self) -> TooLarge:
        limit = self._limits.max_body_bytes
        return TooLarge(
            f"the request body exceeds the limit of {limit} bytes ({limit / 2**20:.3g} MiB)",
            hint="send fewer rows per request, or smaller ones; binary tensors take less room than JSON",
        )
