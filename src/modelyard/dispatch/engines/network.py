"""Ports that are neither lost nor shared by accident: held by the supervisor, joined by its replicas."""

from __future__ import annotations

import errno
import os
import socket

from modelyard.domain.errors import BackendFailed, Conflict, InvalidInput


def resolve(host: str) -> str:
    """The numeric address of `host`, so that the reservation and every replica bind the same one."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise InvalidInput(f"host '{host}' has no address", why=str(error), hint="use 127.0.0.1 or 0.0.0.0") from error
    return str(found[0][4][0])


def callable_host(address: str) -> str:
    """How a client on this machine reaches a service bound to `address`."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"[{here}]" if ":" in here else here


def reserve(address: str, port: int) -> socket.socket:
    """Bind (but not listen on) a port, 0 for a free one; replicas then join it by SO_REUSEPORT.

    The bind itself is exclusive, so two services never get the same port, whatever process starts them; only then
    the socket is opened for sharing. While it is held the port cannot be taken even if no replica runs.
    Raises Conflict if the port is in use or needs privileges, InvalidInput for an address that is not this machine's.
    """
    held = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # SO_REUSEADDR: connections in TIME_WAIT of an earlier service must not block its port.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((address, port))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError as error:
        held.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"port {port} on {address} is in use",
                hint=f"choose another port, or 0 for a free one; `ss -ltnp 'sport = :{port}'` shows who has it",
            ) from error
        if error.errno == errno.EACCES:
            raise Conflict(f"port {port} needs privileges", hint="choose a port above 1023") from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidInput(
                f"cannot serve at {address}",
                why="no network interface of this machine has that address",
                hint="use 127.0.0.1 (this machine only), 0.0.0.0 (every interface), or one of `ip -brief address`",
            ) from error
        raise BackendFailed(f"cannot bind {address}:{port}", why=os.strerror(error.errno or 0)) from error
    return held
