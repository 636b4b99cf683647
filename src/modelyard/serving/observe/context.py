"""The trace that a request is part of: W3C Trace Context (https://www.w3.org/TR/trace-context/), read and written."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, replace
from typing import Final

_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MAX_STATE: Final = 512
"""Longest `tracestate` that is kept: what the specification asks every vendor to pass on."""
_ZEROS: Final = "0" * 16


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A caller's `traceparent`, and the span that the request becomes here.

    `trace_id` 32, `parent_id` and `span_id` 16 hexadecimal digits. `sampled`: whether the caller keeps this trace.
    `state` is the caller's `tracestate`, passed on unread.
    """

    trace_id: str
    parent_id: str
    sampled: bool
    state: str = ""
    span_id: str = ""

    @property
    def header(self) -> str:
        """The `traceparent` of the span here, for answers and for calls made on the request's behalf."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def another(self) -> TraceContext:
        """The same caller's, for another span here: where one call brings several requests."""
        return replace(self, span_id=new_span_id())


def parse(value: bytes, state: bytes = b"") -> TraceContext | None:
    """The context in the values of `traceparent` and `tracestate`; None where the former is malformed.

    As the specification has it, an unusable `traceparent` is ignored and the request goes on untraced: lower-case
    hexadecimal only, no all-zero ids, no version ff; of later versions the part that this one knows is read.
    """
    found = _TRACEPARENT.fullmatch(value.strip(b" \t"))
    if found is None:
        return None
    version, trace, parent, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more) or not trace.strip(b"0") or not parent.strip(b"0"):
        return None
    kept = state.decode("latin-1").strip() if len(state) <= _MAX_STATE and state.isascii() else ""
    sampled = bool(int(flags, 16) & 1)
    return TraceContext(trace.decode(), parent.decode(), sampled, kept, new_span_id())


def new_span_id() -> str:
    """A random span id; never all zeros."""
    while not (number := secrets.randbits(64)):
        pass
    return f"{number:016x}"


def new_span_ids(count: int) -> bytes:
    """So many random span ids behind one another, as hexadecimal digits; none is all zeros."""
    found = secrets.token_hex(8 * count).encode("ascii")
    while _ZEROS.encode() in found and any(not found[at : at + 16].strip(b"0") for at in range(0, len(found), 16)):
        found = secrets.token_hex(8 * count).encode("ascii")
    return found


def new_places(count: int) -> list[tuple[str, str, str, str]]:
    """So many new traces, as `spans.Place`: random ids of the trace and its first span; no caller, no state."""
    while True:
        text = secrets.token_hex(24 * count)
        found = [(text[at : at + 32], text[at + 32 : at + 48], "", "") for at in range(0, len(text), 48)]
        if _ZEROS not in text or all(place[0].strip("0") and place[1].strip("0") for place in found):
            return found
