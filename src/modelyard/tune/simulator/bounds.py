"""What no simulation can exceed: capacity and latency by arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from modelyard.domain.batching import INLINE_BELOW_S
from modelyard.domain.latency import Overhead, Path
from modelyard.domain.placement import apart
from modelyard.tune.simulator.service import Load, SimulatedService


@dataclass(frozen=True, slots=True)
class Bounds:
    """`capacity_rps`: requests per second at most; `floor_ms`: the median latency at least; CPU seconds at least."""

    capacity_rps: float
    floor_ms: float
    core_s_per_request: float


def bounds(service: SimulatedService, load: Load, overhead: Overhead, path: Path) -> Bounds:
    """Of a service under loads of this shape (rows, bytes); arrival times do not matter.

    The capacity is that of the best batch size: a replica's loop and slots are each busy at most all the time, and all
    CPU time, the client's included, fits the cores.
    """
    per_request = sum(load.rows) / len(load.rows)
    server = path.server.of(load.request_bytes, load.answer_bytes)
    client = path.client.of(load.request_bytes, load.answer_bytes)
    most = max(service.batching.max_size, max(load.rows))
    sizes = sorted({min(2**k, most) for k in range(most.bit_length() + 1)} | {max(1, round(per_request))})
    own = len(apart(range(service.cores), service.threads)[0]) or service.cores
    capacity, cheapest = 0.0, float("inf")
    for size in (s for s in sizes if s >= per_request):
        run, requests = service.times.run(size), size / per_request
        loop = server + path.server.batch_s / requests
        inline = service.times.inside and run.wall_s < INLINE_BELOW_S
        slot = run.mean_s / requests / service.slots
        busy = loop + slot * service.slots if inline else max(loop, slot)
        cpu = loop + run.mean_s * run.width / requests
        rate = min(service.replicas / busy, service.cores / (cpu + client), own / cpu) if busy > 0 else float("inf")
        if service.cpu_limit is not None:
            rate = min(rate, service.replicas * service.cpu_limit / cpu)
        capacity, cheapest = max(capacity, rate), min(cheapest, cpu)
    first = service.times.run(max(1, round(per_request)))
    run_s = first.walls_s[len(first.walls_s) // 4]
    run_s += min(0.0, max(service.times.idle_s, -run_s / 2))
    floor = 2 * path.hop_s + server + path.server.batch_s + client + run_s
    if not service.times.inside:
        floor += overhead.child_s + 2 * overhead.handover_s
    return Bounds(capacity, floor * 1e3, cheapest)
