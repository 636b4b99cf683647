"""Where an HTTP front listens: a TCP socket, with TLS or without, and a Unix socket beside it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from pathlib import Path
from typing import Any, Final

from modelyard.domain.errors import Conflict, InvalidInput
from modelyard.domain.services import Tls
from modelyard.serving.http.front import HttpFront
from modelyard.serving.http.tls import ServerTls

_log = logging.getLogger(__name__)

_BACKLOG: Final = 4096
UNIX_MODE: Final = 0o600
"""Of the socket's file: only the replica's own user may connect."""


class Listeners:
    """The HTTP listeners of a replica. Event-loop thread only."""

    def __init__(
        self, front: HttpFront, tls: Tls | None = None, unix_socket: str | None = None, *, take_over: bool = False
    ) -> None:
        """Binds the Unix socket; with `take_over` also where a server listens there, whose place it takes on `start`.

        Raises InvalidInput, Conflict.
        """
        self._front = front
        self._tls = ServerTls(tls) if tls is not None else None
        self._unix = bind_unix(Path(unix_socket), take_over=take_over) if unix_socket else None
        self._servers: list[asyncio.Server] = []

    async def start(self, listener: socket.socket) -> None:
        """Accept connections from a bound TCP socket, and from the Unix socket."""
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {}
        if self._tls is not None:
            head_s = self._front.limits.head_s
            options = {"ssl": self._tls.context, "ssl_handshake_timeout": head_s, "ssl_shutdown_timeout": head_s}
        server = await loop.create_server(self._front.connection, sock=listener, backlog=_BACKLOG, **options)
        self._servers.append(server)
        if self._unix is not None:
            server = await loop.create_unix_server(self._front.connection, sock=self._unix.socket, backlog=_BACKLOG)
            self._servers.append(server)
            self._unix.take_place()

    def reload(self) -> None:
        """Read the TLS files again; where that fails the old ones stay in use."""
        if self._tls is None:
            return
        try:
            self._tls.reload()
        except InvalidInput as error:
            _log.error("%s; the old ones stay in use", error)
        else:
            _log.info("TLS files read again")

    def close(self) -> None:
        """Accept nothing more."""
        for server in self._servers:
            server.close()
        if self._unix is not None:
            self._unix.close()


class UnixSocket:
    """A bound Unix socket that removes its file when closed, unless somebody else's stands there by then."""

    def __init__(self, bound: socket.socket, path: Path, beside: Path | None = None) -> None:
        """`beside`: where it was bound instead of `path`, until it takes its place."""
        self.socket = bound
        self._path = path
        self._beside = beside
        self._inode = (beside or path).stat().st_ino

    def take_place(self) -> None:
        """Stand at its path from now on: whoever connects meets this socket or the former, and never none."""
        if self._beside is not None:
            self._beside.rename(self._path)
            self._beside = None

    def close(self) -> None:
        """Close it and remove its file."""
        self.socket.close()
        if self._beside is not None:
            self._beside.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()


def bind_unix(path: Path, *, take_over: bool = False) -> UnixSocket:
    """A bound Unix socket, its file of mode 0600. The file of a server that is gone is replaced.

    With `take_over` it is bound beside its path, for a server that listens there goes on until `take_place`.
    Raises Conflict where somebody listens there, or something else stands there; InvalidInput for an impossible path.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}") if take_over and _is_socket(path) else None
    place = beside or path
    _remove_stale(place)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(str(place))
        place.chmod(UNIX_MODE)  # nobody can connect before it listens
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"cannot listen on {path}", why="something was created there just now") from error
        why = str(error) if error.errno is None else os.strerror(error.errno).lower()
        hint = "give a path of less than 108 bytes in a folder that the replica may write to"
        raise InvalidInput(f"cannot listen on {path}", why=why, hint=hint) from error
    bound.setblocking(False)
    return UnixSocket(bound, path, beside)


def _is_socket(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISSOCK(path.lstat().st_mode)
    return False


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"cannot listen on {path}", why="a file that is no socket stands there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise Conflict(f"cannot listen on {path}", why=str(error)) from error
    raise Conflict(f"cannot listen on {path}", why="another process does", hint="choose another unix_socket")
