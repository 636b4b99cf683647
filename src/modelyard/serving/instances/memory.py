"""How much memory the process of a model has and may have.

RLIMIT_AS is no option: frameworks reserve tens of GiB of address space that they never touch. RLIMIT_DATA counts only
private writable memory (since Linux 4.7, setrlimit(2)), so what exceeds it is refused at once and inside the process:
the model fails with out of memory, or dies. Resident memory is watched besides, for what the limit does not count.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Final

_PAGE: Final = resource.getpagesize()


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 once it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def data_bytes(pid: int) -> int:
    """Private writable memory of a process, touched or not; 0 once it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[5]) * _PAGE
    except (OSError, IndexError):
        return 0


def bound(pid: int, limit_bytes: int) -> None:
    """Let a process that is resident with less than `limit_bytes` add no more private memory than what is left."""
    most = data_bytes(pid) + max(limit_bytes - resident_bytes(pid), 0)
    resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))
