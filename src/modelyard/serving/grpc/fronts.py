"""The choice between the two gRPC fronts; the replica sees only what they have in common."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from concurrent.futures import Executor as Pool
from math import inf
from typing import Protocol

from modelyard.domain.errors import InvalidInput
from modelyard.domain.services import GrpcFront, ReplicaSpec
from modelyard.serving.grpc.ports import Methods
from modelyard.serving.models.dataplane import DataPlane

_log = logging.getLogger(__name__)


class Front(Protocol):
    """A gRPC front that serves. Event-loop thread only."""

    @property
    def port(self) -> int:
        """Where it listens."""
        ...

    def sweep(self, now: float) -> None:
        """Enforce deadlines. Call about every second."""
        ...

    def reload(self) -> None:
        """Read the TLS files again; where that fails the old ones stay in use."""
        ...

    async def stop(self, grace: float) -> None:
        """Take no more calls, let those under way end for `grace` seconds, then cut what is left."""
        ...


async def start(
    spec: ReplicaSpec, plane: DataPlane, methods: Methods, pool: Pool, bind: Callable[[], socket.socket]
) -> Front:
    """Start the front that `spec.grpc_front` names. Raises Conflict where the port is taken, InvalidInput.

    `bind` makes a bound socket on the spec's host and gRPC port.
    """
    if spec.grpc_front is GrpcFront.AIO:
        from modelyard.serving.grpc import aio  # grpcio costs 100 ms to import: only where it is wanted

        return await aio.start(spec, plane, methods, pool)
    from modelyard.serving.grpc.http2.front import Http2Front
    from modelyard.serving.http.limits import SHARED_S
    from modelyard.serving.http.tls import ServerTls

    tls = ServerTls(spec.tls, protocols=("h2",)) if spec.tls is not None else None
    front = Http2Front(plane, methods, pool, spec.max_body_bytes, SHARED_S if spec.reuse_port else inf)
    await front.listen(bind(), tls)
    return front


def reload_logged(reload: Callable[[], None]) -> None:
    """Read TLS files again by `reload`; a failure is logged."""
    try:
        reload()
    except InvalidInput as error:
        _log.error("%s; the old ones stay in use", error)
