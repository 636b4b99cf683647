"""HTTP/1.1 request heads: parsed and checked once, then known by their bytes.

A keep-alive client sends the same head with every request of the same size. Looking the bytes up costs 0.1 us, parsing
them again 10 us; equal bytes mean the same request, so the cache cannot change what a request means. Header lines that
differ from request to request (trace, request id) are cut out first (`percall.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import httptools

from modelyard.domain.errors import InvalidInput
from modelyard.serving.http.percall import PerCall, cut

if TYPE_CHECKING:
    from modelyard.serving.http.ports import Inference

NO_HEADER: Final = -1
"""Header length of a request without `Inference-Header-Content-Length`: the whole body is JSON."""
_KEPT: Final = 1024
_KEPT_HEAD_BYTES: Final = 2048
_REQUEST_LINE: Final = re.compile(rb"[A-Z]{1,20} [\x21-\x7e]+ HTTP/(\d\.\d)\r\n")
_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
_MAX_DIGITS: Final = 12
"""Of a number in a header: 30 years in milliseconds, a terabyte."""


@dataclass(slots=True)
class Head:
    """What a request head says. `segments` is the decoded path, split; `length` of the body, -1 if chunked.

    `coding`: how the body is sent ("" for plain; codecs and routes get it plain). `accepts`: the
    coding that the client would have the answer in ("" for plain). `timeout_s` and `priority` (0: none) are the
    request's own, by header. `problem` is the status and text to answer with where the head is well framed but asks for
    something impossible. `inference` is filled by the connection the first time the head is seen, where it asks for
    one. `keeps`: an answer to it needs no `Connection` line.
    """

    method: str
    segments: tuple[str, ...]
    length: int
    keep_alive: bool
    old_http: bool
    expects_continue: bool
    header_length: int
    coding: str = ""
    accepts: str = ""
    timeout_s: float | None = None
    priority: int = 0
    problem: tuple[int, str] | None = None
    inference: Inference | None = None
    keeps: bool = False

    def __post_init__(self) -> None:
        self.keeps = self.keep_alive and not self.old_http

    @property
    def chunked(self) -> bool:
        return self.length < 0


class Heads:
    """Parses heads and remembers them."""

    def __init__(self) -> None:
        self.known: dict[bytes, Head] = {}
        """By their bytes, of heads without header lines that differ from call to call. For look-ups only."""

    def get(self, raw: bytes) -> tuple[Head, PerCall | None]:
        """The head that these bytes (through the blank line) are, and what is this call's own in it.

        Raises InvalidInput where the end of the request cannot be told for sure: the connection is to be closed.
        """
        rest, own = cut(raw)
        head = self.known.get(rest)
        if head is None:
            head = _parse(rest)
            if len(rest) <= _KEPT_HEAD_BYTES:
                if len(self.known) >= _KEPT:
                    self.known.clear()
                self.known[rest] = head
        return head, own


class _Recorder:
    """httptools' callbacks for one head."""

    def __init__(self) -> None:
        self.parser: Any = httptools.HttpRequestParser(self)
        self.keep_alive = False
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True
        self.keep_alive = self.parser.should_keep_alive()  # the parser forgets when the message is complete


def _malformed(why: str) -> InvalidInput:
    return InvalidInput("malformed HTTP request", why=why)


def _parse(raw: bytes) -> Head:
    """Parse strictly (RFC 9112): whatever two parsers could frame differently is refused.

    llhttp refuses bare CR and LF, NUL, folded lines, wrong lengths and codings; the rest is refused here.
    """
    line = _REQUEST_LINE.match(raw)
    if line is None:
        raise _malformed("the request line is not METHOD TARGET HTTP/1.1")
    version = line[1].decode("ascii")
    if version not in ("1.1", "1.0"):
        raise InvalidInput(f"HTTP version {version} is not supported")
    recorder = _Recorder()
    try:
        recorder.parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # an offer to switch protocols may be ignored
    except httptools.HttpParserError as error:
        raise _malformed(str(error)) from None
    if not recorder.complete:
        raise _malformed("the head does not end where its blank line is")
    headers = _Headers(recorder.headers)
    length = headers.length(version)
    hosts = headers.all(b"host")
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        raise _malformed("exactly one Host header is required")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise _malformed("the Host header is no host")
    method = recorder.parser.get_method().decode("ascii")
    recorder.parser = None  # they refer to each other: cut the cycle, so that no garbage collection is needed
    if method == "CONNECT":
        raise InvalidInput("CONNECT is not supported")
    head = Head(
        method=method,
        segments=_segments(recorder.url),
        length=length,
        keep_alive=recorder.keep_alive,
        old_http=version == "1.0",
        expects_continue=False,
        header_length=NO_HEADER,
    )
    headers.wishes(head)
    return head


class _Headers:
    """The header lines of one head: names in lower case."""

    def __init__(self, lines: list[tuple[bytes, bytes]]) -> None:
        self._lines = lines

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self._lines if key == name]

    def text(self, name: bytes) -> str:
        return ",".join(value.decode("latin-1") for value in self.all(name)).lower()

    def length(self, version: str) -> int:
        """Of the body, -1 if chunked. Raises InvalidInput where lines contradict each other."""
        lengths, codings = self.all(b"content-length"), self.all(b"transfer-encoding")
        if len(lengths) + len(codings) > 1:
            raise _malformed("the body's length is given more than once")
        if codings:
            if codings[0].lower() != b"chunked":
                raise InvalidInput("unsupported Transfer-Encoding", hint="use chunked or Content-Length")
            if version == "1.0":
                raise _malformed("HTTP/1.0 has no Transfer-Encoding")
            return -1
        if not lengths:
            return 0
        if not lengths[0].isdigit() or len(lengths[0]) > 18:
            raise _malformed("Content-Length is no number of at most 18 digits")
        return int(lengths[0])

    def wishes(self, head: Head) -> None:
        """Read what does not concern the framing."""
        expect = self.text(b"expect")
        if expect and expect != "100-continue":
            head.problem = (417, f"unsupported Expect header: {expect[:100]}")
        head.expects_continue = bool(expect) and not head.old_http and head.length != 0
        encoding = self.text(b"content-encoding").replace("x-gzip", "gzip")
        if encoding not in ("", "identity", "gzip", "deflate"):
            head.problem = (415, f"Content-Encoding '{encoding[:100]}' is not supported (use gzip, deflate or none)")
        elif encoding != "identity":
            head.coding = encoding
        head.accepts = _accepted(self.text(b"accept-encoding"))
        for name, spelled in _NUMBERS.items():
            values = self.all(name)
            if not values:
                continue
            text = values[0]
            if len(values) > 1 or not text.isdigit() or len(text) > _MAX_DIGITS:
                head.problem = (400, f"{spelled} must be a non-negative integer of at most {_MAX_DIGITS} digits")
            elif name == b"inference-header-content-length":
                head.header_length = int(text)
            elif name == b"x-request-priority":
                head.priority = int(text)
            elif int(text) > 0:
                timeout_s = int(text) * 1e-3
                head.timeout_s = timeout_s if head.timeout_s is None else min(timeout_s, head.timeout_s)


_NUMBERS: Final = {
    b"inference-header-content-length": "Inference-Header-Content-Length",
    b"x-request-priority": "X-Request-Priority",
    b"x-request-timeout-ms": "X-Request-Timeout-Ms",
    b"x-envoy-expected-rq-timeout-ms": "x-envoy-expected-rq-timeout-ms",
}


def _accepted(header: str) -> str:
    """The coding to answer in by `Accept-Encoding` (RFC 9110, 12.5.3); "" for none."""
    refused = {"0", "0.0", "0.00", "0.000"}
    quality = {}
    for part in header.split(","):
        name, _, parameter = part.partition(";")
        key, _, q = parameter.strip().partition("=")
        quality[name.strip()] = not (key.strip() == "q" and q.strip() in refused)
    return next((name for name in ("gzip", "deflate") if quality.get(name, quality.get("*", False))), "")


def _segments(target: bytes) -> tuple[str, ...]:
    """Path segments of a request target (origin or absolute form), percent-decoded after splitting."""
    try:
        path = (httptools.parse_url(target).path or b"/").decode("ascii")
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        raise InvalidInput("malformed request target") from None
    return tuple(unquote(part) for part in path.strip("/").split("/") if part)
