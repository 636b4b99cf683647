"""The trace that a request is part of (W3C Trace Context, https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A caller's `traceparent`: 32 and 16 hexadecimal digits, and whether the caller samples this trace."""

    trace_id: str
    parent_id: str
    sampled: bool
    state: str = ""
