"""What an HTTP front allows its clients: sizes, times, numbers."""

from __future__ import annotations

import resource
from dataclasses import dataclass, field
from math import inf
from random import random
from typing import Final

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB

_MOST_CONNECTIONS: Final = 16 * _KIB
_DESCRIPTORS_WANTED: Final = 64 * _KIB
_DESCRIPTORS_KEPT: Final = 64
"""For model files, logs, pipes, gRPC."""


SHARED_S: Final = 10.0
"""`Limits.shared_s` of a replica on a shared port."""
_TURNOVER: Final = 50
"""So many connections per second end for it at most."""


def connection_ends(now: float, shared_s: float, connections: int) -> float:
    """When a new connection is to end, beside so many others (`Limits.shared_s`)."""
    return now + max(shared_s, connections / _TURNOVER) * (0.5 + random())  # noqa: S311 - only: not all at once


def raise_descriptor_limit() -> None:
    """Raise this process's soft limit of open files to what it may have (no more than 65536)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections_possible() -> int:
    """How many HTTP connections leave descriptors for everything else: 3/4 of the soft limit, 16384 at most."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(1, min(_MOST_CONNECTIONS, (soft - _DESCRIPTORS_KEPT) * 3 // 4))


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a front. Times in seconds; all are enforced by `HttpFront.sweep`, within about a second.

    The defaults are what a replica has; tests pass shorter times.
    """

    max_head_bytes: int = 16 * _KIB
    max_body_bytes: int = 64 * _MIB
    """Of one request, also after decompression."""
    big_body_bytes: int = 64 * _KIB
    """While a request with a larger body is in flight, its connection takes no further one."""
    max_held_bytes: int = 1024 * _MIB
    """Of all bodies above `big_body_bytes` that are being received or worked on; more are refused with 429."""
    max_inflation: int = 256
    """A compressed body may unfold to this many times what was read of it (always to `free_inflation_bytes`)."""
    free_inflation_bytes: int = 8 * _MIB
    max_pipelined: int = 64
    max_connections: int = field(default_factory=connections_possible)
    max_unsent_bytes: int = 48 * _MIB
    """Of answers that clients do not read, and of their further requests. Above it, who is stuck longest is reset."""
    unsent_grace_s: float = 1.0
    """A connection is stuck no sooner than this, unless four times `max_unsent_bytes` wait."""
    head_s: float = 10.0
    body_s: float = 60.0
    slow_reader_s: float = 30.0
    """For each `slow_reader_bytes` (or part of it) that wait when the client stops reading."""
    slow_reader_bytes: int = 8 * _MIB
    idle_s: float = 300.0
    shared_s: float = inf
    """Where replicas share a port: a connection ends with an answer after about this long (half to one and a half), so
    that a replica that comes back gets its share of clients that keep theirs; later where there are very many."""
    linger_s: float = 2.0
    """After a refusal the rest of the request is read and dropped this long, so that the client sees the answer, not a
    reset."""
    drain_idle_s: float = 0.5
    """While draining, a connection without a request for this long is closed."""
