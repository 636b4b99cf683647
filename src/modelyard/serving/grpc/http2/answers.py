"""What a gRPC server answers over HTTP/2: header blocks, trailers, and the usual answer in two packed parts.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final
from urllib.parse import quote

from modelyard.domain.errors import ModelyardError
from modelyard.serving.faults import retry_after_header, status_of, text_of
from modelyard.serving.grpc.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, frame

_MAX_MESSAGE: Final = 2048
"""A longer error text is cut: clients refuse metadata of more than 8 KiB."""
_UNQUOTED: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class Status(IntEnum):
    """gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


def field(name: bytes, value: bytes) -> bytes:
    """An HPACK literal field that touches no table (RFC 7541, section 6.2.2)."""
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    length = len(text)
    if length < 127:
        return bytes((length,)) + text
    rest, prefix = length - 127, bytearray(b"\x7f")
    while rest > 127:
        prefix.append(rest & 127 | 128)
        rest >>= 7
    prefix.append(rest)
    return bytes(prefix) + text


_STATUS_200: Final = b"\x88"
_CONTENT_TYPE: Final = b"\x0f\x10\x10application/grpc"  # static name 31, not indexed
_CONTENT_TYPE_INDEXED: Final = b"\x5f\x10application/grpc"  # static name 31, added to the table
_STATUS_0: Final = field(b"grpc-status", b"0")
_STATUS_0_INDEXED: Final = b"\x40" + _STATUS_0[1:]

HEAD: Final = _STATUS_200 + _CONTENT_TYPE
"""The header block before the first message."""
OK: Final = _STATUS_0
"""The trailers of success."""
TABLE_OF_NOTHING: Final = b"\x20"
"""The table size update that must start the next block once the peer wants a smaller table (RFC 7541, section 4.2)."""


class Form:
    """A whole unary answer, but for its message: what stands before and after it. Stateless."""

    __slots__ = ("_after", "_before", "_head", "_head_kind", "_tail", "_tail_kind")

    def __init__(self, head: bytes, tail: bytes) -> None:
        self._head, self._tail = head, tail
        self._head_kind = len(head) << 8 | HEADERS
        self._tail_kind = len(tail) << 8 | HEADERS
        self._before = Struct(f">IBI{len(head)}sIBIBI").pack
        self._after = Struct(f">IBI{len(tail)}s").pack

    def frames(self, stream: int, message: bytes) -> bytes:
        """HEADERS, one DATA frame and the trailers."""
        size = len(message)
        return b"".join(
            (
                self._before(
                    self._head_kind, END_HEADERS, stream, self._head, (size + 5) << 8 | DATA, 0, stream, 0, size
                ),
                message,
                self._after(self._tail_kind, END_HEADERS | END_STREAM, stream, self._tail),
            )
        )

    def frames_with(self, stream: int, message: bytes, more: bytes) -> bytes:
        """The same with `more` fields in the trailers."""
        size, tail = len(message), self._tail + more
        before = self._before(
            self._head_kind, END_HEADERS, stream, self._head, (size + 5) << 8 | DATA, 0, stream, 0, size
        )
        return before + message + frame(HEADERS, END_HEADERS | END_STREAM, stream, tail)


PLAIN: Final = Form(HEAD, OK)
"""For a peer whose table is too small, or not ours to fill."""
FILLING: Final = Form(_STATUS_200 + _CONTENT_TYPE_INDEXED, _STATUS_0_INDEXED)
"""A connection's first answer: it puts both fields into the peer's table."""
INDEXED: Final = Form(_STATUS_200 + b"\xbf", b"\xbe")
"""All later ones: 62 is the newest entry (grpc-status), 63 the one before."""


def trailers(status: Status, text: str = "", extra: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """The trailers of an error."""
    block = field(b"grpc-status", b"%d" % status)
    if text:
        block += field(b"grpc-message", _quoted(text))
    for name, value in extra:
        block += field(name, value)
    return block


def _quoted(text: str) -> bytes:
    quoted = quote(text, safe=_UNQUOTED, errors="replace")
    if len(quoted) > _MAX_MESSAGE:
        quoted = quoted[:_MAX_MESSAGE]
        cut = quoted.rfind("%", len(quoted) - 2)
        quoted = (quoted if cut < 0 else quoted[:cut]) + "..."
    return quoted.encode("ascii")


def of_error(error: ModelyardError) -> bytes:
    """The trailers that tell a Modelyard error, as grpc.aio's front does."""
    _, code = status_of(error)
    after = retry_after_header(error)
    return trailers(Status[code], text_of(error), ((b"retry-after", after.encode()),) if after else ())


def http_error(status: int) -> bytes:
    """The header block of an answer to what is no gRPC request at all."""
    return b"\x08\x03%d" % status + field(b"content-length", b"0")
