"""Take a replica out of a shared port without losing a connection.

With SO_REUSEPORT each listener has its own queue, and what waits in it when the listener closes is reset. So before a
replica is told to drain, its listeners are made deaf to SYN: the queue can only run empty, handshakes under way still
complete, and a client whose SYN was dropped sends it again a second later, when the kernel gives it to another replica.
(`sysctl net.ipv4.tcp_migrate_req=1` would do it without that second, but it is the machine's to set, not ours.)
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import socket
import struct
from pathlib import Path
from typing import Final

_SYS_PIDFD_GETFD: Final = 438  # the same number on every architecture; Linux 5.6
_SO_ATTACH_FILTER: Final = 26
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
# Classic BPF on the TCP header: load the flags, keep SYN and ACK, drop what has SYN alone, else accept whole.
_DROP_SYN: Final = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # ldb [13]
        (0x54, 0, 0, 0x12),  # and #SYN|ACK
        (0x15, 0, 1, 0x02),  # jeq #SYN, next, over next
        (0x06, 0, 0, 0),  # ret #0
        (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1
    )
)

log = logging.getLogger(__name__)


def divert(pid: int, ports: tuple[int, ...]) -> int:
    """Make every listener of a child process on `ports` deaf to new connections; returns how many there were.

    Works on the child's own sockets, whatever program it is. Where the kernel does not let us (a container without
    pidfd_getfd), nothing is diverted: then a connection made in the instant of closing may be reset.
    """
    diverted = 0
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if entry.readlink().name.startswith("socket:"):
                    diverted += _make_deaf(handle, int(entry.name), ports)
    except OSError as error:
        log.warning("new connections cannot be diverted from process %d: %s", pid, error)
    finally:
        os.close(handle)
    return diverted


def _make_deaf(handle: int, number: int, ports: tuple[int, ...]) -> bool:
    copied = _LIBC.syscall(_SYS_PIDFD_GETFD, handle, number, 0)
    if copied < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    with socket.socket(fileno=copied) as ours:
        if ours.family not in (socket.AF_INET, socket.AF_INET6) or ours.type != socket.SOCK_STREAM:
            return False
        listening = ours.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not listening or ours.getsockname()[1] not in ports:
            return False
        program = ctypes.create_string_buffer(_DROP_SYN, len(_DROP_SYN))
        ours.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_DROP_SYN) // 8, ctypes.addressof(program))
        )
    return True
