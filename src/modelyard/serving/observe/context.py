"""The trace that a request is part of: W3C Trace Context (https://www.w3.org/TR/trace-context/), read and written."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Final

_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MAX_STATE: Final = 512
"""Longest `tracestate` that is kept: what the specification asks every vendor to pass on."""


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


def new_trace_id() -> str:
    """A random trace id."""
    return secrets.token_hex(16)


def new_span_id() -> str:
    """A random span id; never all zeros."""
    while not (number := secrets.randbits(64)):
        pass
    return f"{number:016x}"
