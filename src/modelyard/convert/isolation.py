"""What a child does to itself before it opens a model file: no network, own processes, writes only where allowed.

All by system call, about 2 ms, nothing to install. What the kernel or the user's rights do not permit is left out
and reported, never pretended: `enter` returns the names of the layers that hold.

- `network`: a new network namespace, without even a configured loopback.
- `processes`: a new PID namespace; when its first process ends, the kernel ends everything started inside.
- `filesystem`: Landlock denies every write outside the given directories. Reading stays possible (frameworks read
  their own files from everywhere); without a network nothing read can leave except in the artifact itself.

Unprivileged users get the namespaces through a user namespace where the distribution allows it.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
# Landlock system calls have the same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
# Accesses that change the file system, by the Landlock ABI version that knows them (linux/landlock.h).
_WRITES_ABI1 = (1 << 1) | sum(1 << bit for bit in range(4, 13))
_REFER_ABI2, _TRUNCATE_ABI3 = 1 << 13, 1 << 14
_FILE_WRITES = (1 << 1) | _TRUNCATE_ABI3


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when the thread that started it ends, even by kill -9.

    `parent`: its process id; where it has ended before this call, this process ends here.
    """
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def enter(writable: Sequence[Path]) -> tuple[str, ...]:
    """Apply every layer that can be applied and return their names. Call before any thread is started.

    Forks: the caller continues as an ordinary process of the new PID namespace, while the original process waits for
    it and ends with its status (128 + n for signal n).
    """
    applied = []
    namespaces = _unshare()
    if namespaces & _CLONE_NEWNET:
        applied.append("network")
    if namespaces & _CLONE_NEWPID:
        _become_inner()
        applied.append("processes")
    if _landlock(writable):
        applied.append("filesystem")
    return tuple(applied)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _unshare() -> int:
    libc, uid, gid = _libc(), os.getuid(), os.getgid()
    wanted = _CLONE_NEWNET | _CLONE_NEWPID
    if libc.unshare(wanted) == 0:
        return wanted
    if libc.unshare(wanted | _CLONE_NEWUSER) == 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        return wanted
    return _CLONE_NEWNET if libc.unshare(_CLONE_NEWNET) == 0 else 0


def _become_inner() -> None:
    """Go on two levels down. The first process of the namespace only reaps: as PID 1 it would ignore its own aborts."""
    init = os.fork()
    if init:
        _end_like(init)
    die_with_parent()
    worker = os.fork()
    if worker:
        _end_like(worker, reap_all=True)
    die_with_parent()


def _end_like(pid: int, *, reap_all: bool = False) -> NoReturn:
    while True:
        ended, status = os.waitpid(-1 if reap_all else pid, 0)
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            os._exit(128 - code if code < 0 else code)


def landlock_abi() -> int:
    """The kernel's Landlock version; 0 or less where it has none."""
    return int(_libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


def _landlock(writable: Sequence[Path]) -> bool:
    libc = _libc()
    libc.syscall.restype = ctypes.c_long
    abi = landlock_abi()
    if abi < 1:
        return False
    handled = _WRITES_ABI1 | (_REFER_ABI2 if abi >= 2 else 0) | (_TRUNCATE_ABI3 if abi >= 3 else 0)
    attributes = ctypes.c_uint64(handled)
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(8), ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    try:
        for path in (*writable, Path("/dev/null"), Path("/dev/shm")):  # noqa: S108 - shared memory, not a temp file
            _allow(libc, ruleset, path, handled if path.is_dir() else handled & _FILE_WRITES)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return False
        return bool(libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)) == 0)
    finally:
        os.close(ruleset)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, access: int) -> None:
    if not path.exists():
        return
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(access, fd)
        libc.syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0))
    finally:
        os.close(fd)
