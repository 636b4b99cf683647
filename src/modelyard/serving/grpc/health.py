"""The standard health service, which Kubernetes' gRPC probes and load balancers ask.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md; its two messages are small enough to be read by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.serving.grpc.ports import Call, Method, Methods, by_path
from modelyard.serving.models.dataplane import DataPlane

_SERVING: Final = b"\x08\x01"
_NOT_SERVING: Final = b"\x08\x02"
_SERVICE_UNKNOWN: Final = b"\x08\x03"
_SERVICE: Final = 0x0A
_WATCH_S: Final = 0.5
"""How often a watched status is looked at."""


def methods(plane: DataPlane, served: Methods) -> dict[str, Method]:
    """`grpc.health.v1.Health` for the services of `served`, and for the replica as a whole (the empty name)."""
    health = Health(plane, frozenset(path.split("/")[1] for path in served))
    return by_path(
        Method("/grpc.health.v1.Health/Check", unary=health.check),
        Method("/grpc.health.v1.Health/Watch", stream=health.watch),
    )


class Health:
    """Whether traffic is wanted, as `/v2/health/ready` tells it: the same for every service."""

    def __init__(self, plane: DataPlane, services: frozenset[str]) -> None:
        self._plane = plane
        self._services = services | {""}

    def _status(self) -> bytes:
        return _SERVING if self._plane.ready else _NOT_SERVING

    async def check(self, message: bytes, call: Call) -> bytes:  # noqa: ARG002 - Method's
        """The present status. Raises NotFound for a service that is not here, InvalidInput."""
        service = service_of(message)
        if service not in self._services:
            raise NotFound(f"no service '{service}' is served here")
        return self._status()

    async def watch(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:  # noqa: ARG002
        """The status now and whenever it changes, until the client leaves or the replica drains."""
        known, told = True, b""
        async for message in messages:
            known = service_of(message) in self._services
            break
        while True:
            status = self._status() if known else _SERVICE_UNKNOWN
            if status != told:
                yield status
                told = status
            if self._plane.draining:
                return  # or a watcher would hold up the drain
            await asyncio.sleep(_WATCH_S)


def service_of(message: bytes) -> str:
    """The service that a HealthCheckRequest names. Raises InvalidInput."""
    if not message:
        return ""
    if len(message) < 2 or message[0] != _SERVICE or message[1] > 127 or len(message) != 2 + message[1]:
        raise InvalidInput("the request is not a grpc.health.v1.HealthCheckRequest")
    try:
        return message[2:].decode()
    except UnicodeDecodeError:
        raise InvalidInput("the service's name is not UTF-8") from None
