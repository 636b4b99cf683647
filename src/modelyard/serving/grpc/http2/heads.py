"""Request heads: the protocol's checks, and what gRPC puts into headers.

A head is read once and then known by its bytes: a block that changes nothing in the dynamic table decodes to the same
fields for as long as the table is unchanged. Where clients write something anew for every call, the rest is known by
its fields.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from typing import Final

from modelyard.serving.grpc.http2.answers import HEAD, Status, http_error, trailers
from modelyard.serving.grpc.http2.blocks import CountingTable, Field, decode
from modelyard.serving.grpc.http2.limits import MAX_HEADER_LIST_BYTES
from modelyard.serving.grpc.ports import Method, Methods

_KNOWN: Final = 64
_KNOWN_BYTES: Final = 1024
"""Heads remembered per connection, and how long one may be."""
_SHARED: Final = 256
_SHARED_BYTES: Final = 2048
_OWN: Final = frozenset((b"grpc-timeout", b"traceparent", b"tracestate"))
"""What clients write anew for every call."""
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+").fullmatch
_VALUE = re.compile(rb"[^\x00\r\n]*").fullmatch
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_NOT_METADATA: Final = frozenset((b"te", b"content-type", b"content-length", b"grpc-encoding", b"grpc-accept-encoding"))
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])").fullmatch
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
ENCODINGS: Final = (b"identity", b"gzip", b"deflate")


class RequestHead:
    """The meaning of a request's header block.

    Exactly one of `method`, `answer` (a header block that answers it with END_STREAM) and `malformed` is set;
    `trailing`: the block has no pseudo-header fields, so that it can only be a request's trailers.
    """

    __slots__ = (
        "answer", "binary", "content_length", "encoding", "malformed", "metadata", "method", "timeout_s", "traceparent",
        "tracestate", "trailing",
    )  # fmt: skip

    def __init__(self) -> None:
        self.method: Method | None = None
        self.answer = b""
        self.malformed = ""
        self.trailing = False
        self.timeout_s: float | None = None
        self.encoding = b"identity"
        self.content_length = -1
        self.traceparent = b""
        self.tracestate = b""
        self.metadata: dict[str, str] = {}
        self.binary: dict[str, bytes] = {}


class Heads:
    """One connection's header decoder. `known` are the heads that can be taken by their bytes."""

    __slots__ = ("_shared", "_table", "known")

    def __init__(self, shared: SharedHeads) -> None:
        self.known: dict[bytes, RequestHead] = {}
        self._shared = shared
        self._table = CountingTable()

    def read(self, block: bytes) -> RequestHead:
        """Decode a block that is not known. Raises Violation where the connection's table is lost with it."""
        table, before = self._table, self._table.state
        fields, size = decode(block, table)
        head = self._shared.of(fields, size)
        if table.state != before:
            self.known.clear()
        elif len(block) <= _KNOWN_BYTES:
            if len(self.known) >= _KNOWN:
                self.known.clear()
            self.known[block] = head
        return head


class SharedHeads:
    """The heads of all connections, by their fields but for those that are a call's own."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods
        self._heads: dict[tuple[Field, ...], RequestHead] = {}

    def of(self, fields: list[Field], size: int) -> RequestHead:
        """The head that `fields` make, `size` bytes as HTTP/2 counts them."""
        if size > MAX_HEADER_LIST_BYTES:
            head = read_head(fields, self._methods)
            head.answer = _refusal(Status.RESOURCE_EXHAUSTED, f"metadata exceeds {MAX_HEADER_LIST_BYTES} bytes")
            return head
        own = [field for field in fields if field[0] in _OWN]
        if not own:
            return self._of(fields, size)
        if fields[-len(own) :] != own and any(n[:1] == b":" for n, _ in fields[fields.index(own[0]) :]):
            return read_head(fields, self._methods)  # malformed: the pseudo-header fields come late
        return _with_own(self._of([field for field in fields if field[0] not in _OWN], size), own)

    def _of(self, fields: list[Field], size: int) -> RequestHead:
        key = tuple(fields)
        head = self._heads.get(key)
        if head is None:
            head = read_head(fields, self._methods)
            if size <= _SHARED_BYTES:
                if len(self._heads) >= _SHARED:
                    self._heads.clear()
                self._heads[key] = head
        return head


def _with_own(base: RequestHead, own: list[Field]) -> RequestHead:
    """A head with the fields of one call."""
    head = RequestHead()
    for slot in RequestHead.__slots__:
        setattr(head, slot, getattr(base, slot))
    head.metadata = dict(base.metadata)
    for name, value in own:
        if not _VALUE(value):
            head.malformed = "a field value has a forbidden character"
        elif name == b"grpc-timeout":
            if not (found := _TIMEOUT(value)):
                head.answer = head.answer or _refusal(Status.INTERNAL, "grpc-timeout is malformed")
            else:
                head.timeout_s = int(found[1]) * _UNITS[found[2]]
        else:
            head.metadata[name.decode("ascii")] = value.decode("latin-1")
            if name == b"traceparent":
                head.traceparent = value
            else:
                head.tracestate = value
    return head


def read_head(fields: list[Field], methods: Methods) -> RequestHead:
    """Check a request's fields (RFC 9113, sections 8.2 and 8.3; gRPC's own rules) and read what they say."""
    head = RequestHead()
    head.trailing = not any(name[:1] == b":" for name, _ in fields)
    pseudo: dict[bytes, bytes] = {}
    if problem := _check(fields, pseudo):
        head.malformed = problem
        return head
    plain = {name: value for name, value in fields if name[:1] != b":"}
    length = plain.get(b"content-length")
    if length is not None:
        if not length.isdigit() or len(length) > 18:
            head.malformed = "content-length is no number"
            return head
        head.content_length = int(length)
    if pseudo[b":method"] != b"POST":
        head.answer = http_error(405)
    elif not plain.get(b"content-type", b"").startswith(b"application/grpc"):
        head.answer = http_error(415)
    else:
        _read_grpc(head, pseudo[b":path"], fields, plain, methods)
    return head


def _check(fields: list[Field], pseudo: dict[bytes, bytes]) -> str:
    regular = False
    for name, value in fields:
        if name[:1] == b":":
            if regular or name not in _PSEUDO or name in pseudo:
                return "a pseudo-header field is unknown, repeated or late"
            pseudo[name] = value
        else:
            regular = True
            if not _NAME(name) or name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
                return "a field name is not allowed"
        if not _VALUE(value):
            return "a field value has a forbidden character"
    if not (pseudo.get(b":method") and pseudo.get(b":scheme") and pseudo.get(b":path")):
        return "a pseudo-header field is missing"
    return ""


def _refusal(status: Status, text: str, extra: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    return HEAD + trailers(status, text, extra)


def _read_grpc(
    head: RequestHead, path: bytes, fields: list[Field], plain: dict[bytes, bytes], methods: Methods
) -> None:
    method = methods.get(path.decode("latin-1"))
    encoding = plain.get(b"grpc-encoding", b"identity")
    if method is None:
        head.answer = _refusal(Status.UNIMPLEMENTED, "Method not found!")
        return
    if encoding not in ENCODINGS:
        text = f"grpc-encoding '{encoding.decode('latin-1')}' is not supported"
        head.answer = _refusal(Status.UNIMPLEMENTED, text, ((b"grpc-accept-encoding", b",".join(ENCODINGS)),))
        return
    head.encoding = encoding
    for name, value in fields:
        if name[:1] != b":" and name not in _NOT_METADATA:
            _read_metadata(head, name.decode("ascii"), value)
    head.method = method


def _read_metadata(head: RequestHead, name: str, value: bytes) -> None:
    if not name.endswith("-bin"):
        head.metadata[name] = value.decode("latin-1")
        return
    last = value.rsplit(b",", 1)[-1].strip()  # several values may be joined; as with text, the last one counts
    try:
        head.binary[name] = b64decode(last + b"=" * (-len(last) % 4), validate=True)
    except Base64Error:
        head.answer = _refusal(Status.INTERNAL, f"metadata '{name}' is not base64")
