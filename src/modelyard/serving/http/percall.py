"""Header lines that differ from call to call: trace and request id. They are cut out of a head before it is looked up.

What is cut is a whole header line between two CRLFs, of a known name, of visible characters, not continued by the next
line. So the remaining head is framed exactly as the whole one: nothing can be smuggled by the cut.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from modelyard.serving.observe.context import TraceContext, parse

MAX_ID: Final = 128
_LINE: Final = re.compile(rb"\r\n(traceparent|tracestate|x-request-id):([\t\x20-\x7e]*)(?=\r\n[^ \t])", re.IGNORECASE)


class PerCall(NamedTuple):
    """What is a call's own: its trace, and header lines (each ending in CRLF) that its answer carries."""

    trace: TraceContext | None
    lines: bytes


def cut(raw: bytes) -> tuple[bytes, PerCall | None]:
    """A head without the lines that are a call's own, and what they say; the head itself where it has none."""
    found = _LINE.search(raw)
    if found is None:
        return raw, None
    values: dict[bytes, list[bytes]] = {}
    pieces: list[bytes] = []
    at = 0
    while found is not None:
        pieces.append(raw[at : found.start()])
        at = found.end()
        values.setdefault(found[1].lower(), []).append(found[2].strip(b" \t"))
        found = _LINE.search(raw, at)
    pieces.append(raw[at:])
    return b"".join(pieces), _understood(values)


def _understood(values: dict[bytes, list[bytes]]) -> PerCall:
    """A `traceparent` or request id that is given twice counts as none."""
    trace, lines = None, b""
    parents, ids = values.get(b"traceparent", []), values.get(b"x-request-id", [])
    if len(parents) == 1:
        trace = parse(parents[0], b",".join(values.get(b"tracestate", [])))
        if trace is not None:
            lines = b"traceparent: %b\r\n" % trace.header.encode("ascii")
    if len(ids) == 1 and 0 < len(ids[0]) <= MAX_ID:
        lines += b"X-Request-Id: %b\r\n" % ids[0]
    return PerCall(trace, lines)
