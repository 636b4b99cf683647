"""Decoder of chunked request bodies (RFC 9112, section 7.1), strict, bounded and incremental.

Only the payload is kept, so a million one-byte chunks cost a million bytes.
"""

from __future__ import annotations

from typing import Final

from modelyard.domain.errors import InvalidInput

_MAX_LINE: Final = 256
"""Longest chunk-size line with its extension; longer ones only occur in attacks."""
_MAX_TRAILER: Final = 8 * 1024
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


class ChunkedBody:
    """Feed it bytes; `body` grows; after `done`, `feed` has returned where the next request begins."""

    __slots__ = ("_left", "_state", "_trailer", "body", "done")

    def __init__(self) -> None:
        self.body = bytearray()
        self.done = False
        self._left = 0
        self._state = 0  # 0 size line, 1 data, 2 CRLF after data, 3 trailers
        self._trailer = 0

    def feed(self, data: bytes | bytearray, start: int) -> int:
        """Decode `data` from `start`; return the offset of the first byte not consumed. Raises InvalidInput."""
        at, end = start, len(data)
        while at < end and not self.done:
            if self._state == 1:
                n = min(self._left, end - at)
                self.body += data[at : at + n]
                at += n
                self._left -= n
                if self._left:
                    break
                self._state = 2
            elif self._state == 2:
                if end - at < 2:
                    break
                if data[at : at + 2] != b"\r\n":
                    raise InvalidInput("malformed chunked body", why="no CRLF after a chunk")
                at += 2
                self._state = 0
            else:
                line_end = data.find(b"\r\n", at, at + _MAX_LINE + 2 if self._state == 0 else end)
                if line_end < 0:
                    if end - at > (_MAX_LINE if self._state == 0 else _MAX_TRAILER):
                        raise InvalidInput("malformed chunked body", why="a line is too long")
                    break
                self._line(data, at, line_end)
                at = line_end + 2
        return at

    def _line(self, data: bytes | bytearray, at: int, line_end: int) -> None:
        if self._state == 3:
            self._trailer += line_end - at + 2
            if self._trailer > _MAX_TRAILER:
                raise InvalidInput("malformed chunked body", why="the trailers are too long")
            self.done = line_end == at
            return
        digits, semicolon, extension = data[at:line_end].partition(b";")
        digits = digits.rstrip(b" \t") if semicolon else digits
        if not 0 < len(digits) <= 15 or not _HEX.issuperset(digits) or b"\n" in extension or b"\r" in extension:
            raise InvalidInput("malformed chunked body", why="a chunk size is not a hexadecimal number")
        self._left = int(digits, 16)
        self._state = 1 if self._left else 3
