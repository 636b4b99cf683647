"""Decoder of chunked request bodies (RFC 9112, section 7.1), strict, bounded and incremental.

Only the payload is kept. A chunk costs about a microsecond however small it is, so a body of very many tiny ones is
refused: no client has a reason to send it, and a thousand such bodies would hold the event loop.
"""

from __future__ import annotations

import re
from typing import Final

from modelyard.domain.errors import InvalidInput

_MAX_LINE: Final = 256
"""Longest chunk-size line with its extension; longer ones only occur in attacks."""
_MAX_TRAILER: Final = 8 * 1024
FREE_CHUNKS: Final = 4096
"""So many chunks may be of any size; of more, `MEAN_CHUNK_BYTES` is the least mean size."""
MEAN_CHUNK_BYTES: Final = 32
_SIZE_LINE: Final = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_SIZE, _DATA, _AFTER, _TRAILERS = range(4)


class ChunkedBody:
    """Feed it bytes; `body` grows; after `done`, `feed` has returned where the next request begins."""

    __slots__ = ("_chunks", "_left", "_state", "_trailer", "body", "done")

    def __init__(self) -> None:
        self.body = bytearray()
        self.done = False
        self._left = 0
        self._chunks = 0
        self._state = _SIZE
        self._trailer = 0

    def feed(self, data: bytes | bytearray, start: int) -> int:
        """Decode `data` from `start`; return the offset of the first byte not consumed. Raises InvalidInput."""
        at, end = start, len(data)
        while at < end:
            state = self._state
            if state == _DATA:
                n = min(self._left, end - at)
                if n < 4096:
                    self.body += data[at : at + n]
                else:
                    with memoryview(data) as view:  # no copy between
                        self.body += view[at : at + n]
                at += n
                self._left -= n
                if self._left:
                    break
                self._state = _AFTER
            elif state == _AFTER:
                if end - at < 2:
                    break
                if data[at] != 13 or data[at + 1] != 10:
                    raise _malformed("no CRLF after a chunk")
                at += 2
                self._state = _SIZE
            else:
                most = _MAX_LINE if state == _SIZE else _MAX_TRAILER
                line_end = data.find(b"\r\n", at, at + most + 2)
                if line_end < 0:
                    if end - at > most + 1:
                        raise _malformed("a line is too long")
                    break
                line = data[at:line_end]
                at = line_end + 2
                if state == _SIZE:
                    self._size(line)
                elif self._trailer_ends(line):
                    break
        return at

    def _size(self, line: bytes | bytearray) -> None:
        found = _SIZE_LINE.fullmatch(line)
        if found is None:
            raise _malformed("a chunk size is not a hexadecimal number")
        self._left = int(found[1], 16)
        self._chunks += 1
        if self._chunks > FREE_CHUNKS and len(self.body) < self._chunks * MEAN_CHUNK_BYTES:
            raise InvalidInput(
                "malformed chunked body",
                why=f"more than {FREE_CHUNKS} chunks of less than {MEAN_CHUNK_BYTES} bytes on average",
                hint="let the client buffer the body, or send Content-Length",
            )
        self._state = _DATA if self._left else _TRAILERS

    def _trailer_ends(self, line: bytes | bytearray) -> bool:
        self._trailer += len(line) + 2
        if self._trailer > _MAX_TRAILER:
            raise _malformed("the trailers are too long")
        if line and not _TRAILER_LINE.fullmatch(line):
            raise _malformed("a trailer is not a header line")
        self.done = not line
        return self.done


def _malformed(why: str) -> InvalidInput:
    return InvalidInput("malformed chunked body", why=why)
