"""What the profiler and its load client say to each other: a plan file, then one JSON line per command and answer."""

from __future__ import annotations

import msgspec

from modelyard.domain.workload import Workload


class WarmUpRule(msgspec.Struct, frozen=True):
    """Warm-up blocks run until two in a row agree in p50 within `tolerance`; at most `max_blocks` and `max_s`."""

    tolerance: float = 0.05
    max_blocks: int = 10
    max_s: float = 5.0
    block_requests: int = 200
    block_s: float = 0.5


class LoadPlan(msgspec.Struct, frozen=True):
    """All that `python -m modelyard.profile.client plan.json` needs to know.

    `payload_file` holds the encoded requests one after the other, `payload_lengths` their sizes in bytes. Over HTTP a
    payload is a whole request with its head; over gRPC it is a serialised message for `grpc_method`. `trace_file` is
    where the recording of the workload's trace is kept.
    """

    host: str
    port: int
    workload: Workload
    payload_file: str
    payload_lengths: tuple[int, ...]
    samples_dir: str
    grpc_method: str = ""
    connections: int = 1
    max_connections: int = 512
    warm_up: WarmUpRule = WarmUpRule()
    cpus: tuple[int, ...] = ()
    trace_file: str = ""


class WarmUp(msgspec.Struct, frozen=True, tag="warm-up"):
    """Command: connect, send one request alone, then warm up."""


class LeadIn(msgspec.Struct, frozen=True, tag="lead-in"):
    """Command: send the workload for a moment, unrecorded, so that a block does not begin with cold caches."""


class RunBlock(msgspec.Struct, frozen=True, tag="block"):
    """Command: run one block; `number` picks its schedule."""

    number: int


Command = WarmUp | LeadIn | RunBlock


class WarmedUp(msgspec.Struct, frozen=True, tag="warmed-up"):
    """Answer to `WarmUp`: p50 of each warm-up block, how the first request of all went, the client's scheduling."""

    settled: bool
    p50s_ms: tuple[float, ...]
    first_response_ms: float
    first_status: int
    scheduling: str


class LedIn(msgspec.Struct, frozen=True, tag="led-in"):
    """Answer to `LeadIn`: how many requests were sent."""

    requests: int


class BlockDone(msgspec.Struct, frozen=True, tag="block-done"):
    """Answer to `RunBlock`: where its samples are, and what the client itself used meanwhile."""

    samples: str
    wall_s: float
    client_cpu_s: float


class Trouble(msgspec.Struct, frozen=True, tag="trouble"):
    """Answer to any command: it could not be done."""

    what: str
    why: str = ""


Answer = WarmedUp | LedIn | BlockDone | Trouble
