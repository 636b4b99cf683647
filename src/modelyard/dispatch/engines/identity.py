"""Which process is meant: a pid alone is reused, a pid with its start time and boot is not."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MARKER: Final = "MODELYARD_SERVICE_INSTANCE"
"""Environment variable that every process of a service carries, with the service's unique instance id."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process: pid, start time in clock ticks after boot, boot id."""

    pid: int
    started_ticks: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The process that has `pid` now; None if there is none, or only a zombie."""
        ticks = _started_ticks(pid)
        return None if ticks is None else cls(pid, ticks, _boot())

    @property
    def alive(self) -> bool:
        """Whether exactly this process still runs (a zombie does not)."""
        return _started_ticks(self.pid) == self.started_ticks and _boot() == self.boot

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to exactly this process; False if it is gone."""
        try:
            handle = os.pidfd_open(self.pid)  # checked after opening: the pid cannot be reused in between
        except ProcessLookupError:
            return False
        try:
            if not self.alive:
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True


def marked(instance: str) -> list[ProcessIdentity]:
    """Every process of this user that carries the marker of a service instance, children of replicas included."""
    wanted = f"{MARKER}={instance}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or another user's
            continue
        if wanted in variables and (identity := ProcessIdentity.of(int(entry.name))):
            found.append(identity)
    return found


def _started_ticks(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command name stands in parentheses and may itself hold spaces and parentheses: fields follow the last one.
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
