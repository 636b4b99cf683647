"""HTTP/1.1 responses from bytes, without I/O: framing as in RFC 9112, with limits."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from typing import Final, TypeAlias

import msgspec
import numpy as np

from modelyard.domain.errors import BackendFailed

Body: TypeAlias = bytes | memoryview

MAX_HEAD_BYTES: Final = 64 * 1024
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
_MAX_CHUNK_LINE: Final = 4096
_CACHED_HEAD_BYTES: Final = 1024
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\x00-\x08\x0a-\x1f]*)?")
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{1,15}")
_ONCE: Final = frozenset(
    {b"content-length", b"transfer-encoding", b"inference-header-content-length", b"content-encoding"}
)


class Head(msgspec.Struct, frozen=True):
    """What of a response's head matters. `length`: bytes of the body, or CHUNKED, or UNTIL_CLOSE."""

    status: int
    length: int
    keep_alive: bool
    json_length: int | None
    encoding: str
    retry_after: str | None
    location: str | None


class Response(msgspec.Struct):
    """A whole response, its body decompressed."""

    head: Head
    body: Body


def broken(why: str) -> BackendFailed:
    """The service does not speak the protocol."""
    return BackendFailed(
        "the service's answer breaks the protocol", why=why, hint="is this the HTTP port of a model server?"
    )


def too_large(limit: int) -> BackendFailed:
    """The answer is larger than the client takes."""
    return BackendFailed(
        f"the answer exceeds the limit of {limit} bytes ({limit / 2**20:.3g} MiB)",
        hint="ask for fewer rows or outputs, or raise TransportOptions.max_response_bytes",
    )


def parse_head(raw: bytes) -> Head:
    """A response's head (up to its empty line, without it). Raises BackendFailed."""
    return _cached_head(raw) if len(raw) <= _CACHED_HEAD_BYTES else _parse_head(raw)


def _parse_head(raw: bytes) -> Head:
    first, *lines = raw.split(b"\r\n")
    status_line = _STATUS.fullmatch(first)
    if status_line is None:
        raise broken(f"its first line is {first[:80]!r}")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name):
            raise broken(f"header line {line[:80]!r}")
        name, value = name.lower(), value.strip(b" \t")
        if name in _ONCE and fields.get(name, value) != value:
            raise broken(f"two different values of {name.decode()}")
        fields[name] = value
    status = int(status_line[2])
    tokens = {token.strip().lower() for token in fields.get(b"connection", b"").split(b",")}
    keep_alive = b"close" not in tokens if status_line[1] == b"1" else b"keep-alive" in tokens
    return Head(
        status,
        _length(status, fields),
        keep_alive,
        _number(fields, b"inference-header-content-length"),
        fields.get(b"content-encoding", b"").decode("latin-1").lower(),
        _text(fields, b"retry-after"),
        _text(fields, b"location"),
    )


# The same request gets the same head again and again. Failures are not kept.
_cached_head = lru_cache(256)(_parse_head)


def _length(status: int, fields: dict[bytes, bytes]) -> int:
    if status < 200 or status in (204, 304):
        return 0
    coding = fields.get(b"transfer-encoding")
    length = _number(fields, b"content-length")
    if coding is not None:
        if length is not None or coding.lower() != b"chunked":
            raise broken(
                f"Transfer-Encoding {coding[:80]!r}" + (" beside Content-Length" if length is not None else "")
            )
        return CHUNKED
    return UNTIL_CLOSE if length is None else length


def _number(fields: dict[bytes, bytes], name: bytes) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not _DIGITS.fullmatch(value):
        raise broken(f"{name.decode()}: {value[:80]!r}")
    return int(value)


def _text(fields: dict[bytes, bytes], name: bytes) -> str | None:
    value = fields.get(name)
    return None if value is None else value.decode("latin-1")


class ResponseReader:
    """Takes bytes until a response is whole; then `response` is set. One response each.

    Interim (1xx) responses are skipped. `started`: a byte has come. `reusable`: the connection may carry another one.
    """

    __slots__ = (
        "_at",
        "_body",
        "_chunk_left",
        "_grown",
        "_head",
        "_limit",
        "_pending",
        "response",
        "reusable",
        "started",
    )

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending = b""
        self._head: Head | None = None
        self._body: memoryview | None = None
        self._grown = bytearray()
        self._at = 0
        self._chunk_left = 0
        self.response: Response | None = None
        self.reusable = False
        self.started = False

    def feed(self, data: bytes) -> bool:
        """Take bytes; whether the response is whole. Raises BackendFailed."""
        self.started = True
        if self._head is None:
            if self._pending:
                data = self._pending + data
            rest = self._take_head(data)
            if rest is None:
                return False
            data = rest
        head = self._head
        if head is None:
            return False
        if head.length >= 0:
            return self._take_sized(head, data)
        if head.length == CHUNKED:
            return self._take_chunks(head, data)
        self._grow(data)
        return False

    def end(self) -> bool:
        """The connection ended: whether that made the response whole. Raises BackendFailed."""
        if self._head is not None and self._head.length == UNTIL_CLOSE:
            self._finish(self._head, bytes(self._grown), excess=True)
        return self.response is not None

    def _take_head(self, data: bytes) -> bytes | None:
        """Take the head; the bytes after it, or None while it is not whole."""
        while True:
            end = data.find(b"\r\n\r\n")
            if end > MAX_HEAD_BYTES or (end < 0 and len(data) > MAX_HEAD_BYTES):
                raise broken(f"its head exceeds {MAX_HEAD_BYTES} bytes")
            if end < 0:
                if not data.startswith(b"HTTP/1."[: len(data)]):
                    raise broken(f"it begins with {data[:40]!r}")
                self._pending = data
                return None
            head = parse_head(data[:end])
            data = data[end + 4 :]
            self._pending = b""
            if head.status >= 200:
                break
            if head.status == 101:
                raise broken("it switches protocols unasked")
        if head.length > self._limit:
            raise too_large(self._limit)
        self._head = head
        return data

    def _take_sized(self, head: Head, data: bytes) -> bool:
        body = self._body
        if body is None:
            if len(data) >= head.length:
                excess = len(data) > head.length
                self._finish(head, data[: head.length] if excess else data, excess=excess)
                return True
            # numpy's memory is not touched before it is needed, so a length that is a lie costs nothing
            body = self._body = np.empty(head.length, np.uint8).data
        left = head.length - self._at
        taken = data if len(data) <= left else data[:left]
        body[self._at : self._at + len(taken)] = taken
        self._at += len(taken)
        if self._at < head.length:
            return False
        self._finish(head, body, excess=len(data) > left)
        return True

    def _grow(self, data: bytes) -> None:
        if len(self._grown) + len(data) > self._limit:
            raise too_large(self._limit)
        self._grown += data

    def _take_chunks(self, head: Head, data: bytes) -> bool:
        """Chunked coding (RFC 9112, 7.1). `_chunk_left`: bytes of the present chunk and its CRLF still to come."""
        if self._pending:
            data = self._pending + data
            self._pending = b""
        at = 0
        while True:
            if self._chunk_left:
                at = self._take_chunk(data, at)
                if self._chunk_left:
                    self._pending = data[at:]
                    return False
            line_end = data.find(b"\r\n", at, at + _MAX_CHUNK_LINE)
            if line_end < 0:
                if len(data) - at >= _MAX_CHUNK_LINE:
                    raise broken("a chunk's size line is too long")
                self._pending = data[at:]
                return False
            digits = data[at:line_end].partition(b";")[0].strip(b" \t")
            if not _HEX.fullmatch(digits):
                raise broken(f"chunk size {digits[:40]!r}")
            size = int(digits, 16)
            if size == 0:
                return self._take_trailers(head, data, at, line_end)
            if len(self._grown) + size > self._limit:
                raise too_large(self._limit)
            self._chunk_left = size + 2
            at = line_end + 2

    def _take_chunk(self, data: bytes, at: int) -> int:
        """Take of the present chunk what has come; where its end, or what is missing, begins."""
        content = min(self._chunk_left - 2, len(data) - at)
        if content > 0:
            self._grow(data[at : at + content])
            self._chunk_left -= content
            at += content
        if self._chunk_left == 2 and len(data) - at >= 2:
            if data[at : at + 2] != b"\r\n":
                raise broken("a chunk does not end where it should")
            self._chunk_left = 0
            at += 2
        return at

    def _take_trailers(self, head: Head, data: bytes, at: int, line_end: int) -> bool:
        """The end of the last chunk: trailers, which nothing here needs, up to an empty line."""
        end = data.find(b"\r\n\r\n", line_end)
        if end < 0:
            if len(data) - at > MAX_HEAD_BYTES:
                raise broken("its trailers are too long")
            self._pending = data[at:]
            return False
        self._finish(head, bytes(self._grown), excess=len(data) > end + 4)
        return True

    def _finish(self, head: Head, body: Body, *, excess: bool) -> None:
        if head.encoding not in ("", "identity"):
            body = _decompress(head.encoding, body, self._limit)
        self.reusable = head.keep_alive and not excess  # bytes that nobody asked for: do not trust the connection
        self.response = Response(head, body)


def _decompress(encoding: str, body: Body, limit: int) -> bytes:
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise broken(f"Content-Encoding {encoding[:40]!r}, which nobody asked for")
    inflater = zlib.decompressobj(wbits=47)  # 32 + 15: gzip or zlib, whichever it is
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise broken(f"its {encoding} body: {error}") from error
    if len(plain) > limit:
        raise too_large(limit)
    if not inflater.eof:
        raise broken(f"its {encoding} body is cut off")
    return plain
