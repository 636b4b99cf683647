"""One simulated block of load on one service."""

from __future__ import annotations

from random import Random

import numpy as np

from modelyard.domain.latency import Overhead
from modelyard.domain.placement import apart, shares
from modelyard.domain.workload import Protocol
from modelyard.tune.simulator.client import Client
from modelyard.tune.simulator.cores import Clock, Cores
from modelyard.tune.simulator.forecast import Simulated
from modelyard.tune.simulator.replica import Replica, Scene, Tally
from modelyard.tune.simulator.service import Load, SimulatedService


def simulate(
    service: SimulatedService,
    load: Load,
    *,
    overhead: Overhead | None = None,
    protocol: Protocol = Protocol.HTTP_BINARY,
    seed: int = 0,
) -> Simulated:
    """Simulate a service under a load until every request is answered: what if?

    Without an `overhead` server and client cost nothing, which is pure queueing. The same arguments give the same
    result. Raises InvalidInput for a protocol that the overhead was not calibrated for.
    """
    overhead = overhead or Overhead.none()
    tally = Tally()
    rng = Random(seed)  # noqa: S311 - a simulation's draws, several times faster one by one than numpy's
    clock = Clock()
    scene = Scene(clock, service, load, overhead, overhead.path(protocol), rng, tally)
    places, clients = _places(service, clock)
    client = Client(scene, clients, service.times.beside if clients in places else 1.0)
    client.connect([Replica(scene, places[k % len(places)], client.arrive) for k in range(service.replicas)])
    client.start()
    clock.run(lambda: client.left > 0)
    return _result(client, load, tally)


def _places(service: SimulatedService, clock: Clock) -> tuple[list[Cores], Cores]:
    """The cores of the replicas in turn, and those of the client: as a measurement places them (`domain.placement`)."""
    every = range(service.cores)
    own, clients = apart(every, service.threads)
    mine = () if service.shaped else shares(own or every, service.replicas, service.times.threads)
    replicas = [Cores(clock, len(share)) for share in mine] or [Cores(clock, len(own or every))]
    return replicas, Cores(clock, len(clients)) if own else replicas[-1]


def _result(client: Client, load: Load, tally: Tally) -> Simulated:
    requests = client.requests
    due = np.array([r.due for r in requests])
    completed = np.array([r.completed for r in requests])
    ok = np.array([r.ok for r in requests], np.bool_)
    spent = completed - due
    ok &= spent <= load.timeout_s
    latencies = np.where(ok, spent, load.timeout_s) * 1e3
    return Simulated(
        latencies_ms=latencies,
        due_s=due,
        completed_s=completed,
        ok=ok,
        seconds=float(completed.max()) if len(requests) else 0.0,
        cpu_s=tally.cpu_s,
        client_cpu_s=client.cpu_s,
        batches=tally.batches,
        rows=tally.rows,
        open_loop=load.due_s is not None,
    )
