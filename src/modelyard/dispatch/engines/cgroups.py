"""Groups of processes that the kernel holds to limits: below which groups a replica's may be made, and one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelyard.domain.errors import InvalidInput

_V2: Final = "unified"
_CONTROLLERS: Final = ("memory", "cpu")


@dataclass(frozen=True, slots=True)
class Parents:
    """By controller, the directory of the group below which a replica's may be made; None where none may.

    With cgroup v2 both are one directory, with v1 each controller has a hierarchy of its own.
    """

    memory: str | None = None
    cpu: str | None = None


class Group:
    """A replica's group in one hierarchy. With cgroup v2 both limits share it: making it twice is no error."""

    def __init__(self, parent: str, name: str) -> None:
        """Make it. Raises OSError where that is not allowed."""
        self.path = Path(parent) / name
        self.v2 = (Path(parent) / "cgroup.controllers").exists()
        self.path.mkdir(exist_ok=True)

    @property
    def enforcement(self) -> str:
        """`cgroup-v2` or `cgroup-v1`."""
        return "cgroup-v2" if self.v2 else "cgroup-v1"

    def join(self) -> None:
        """Move the calling process into the group."""
        (self.path / "cgroup.procs").write_text("0")


def find_parents(name: str | None, process: Path = Path("/proc/self")) -> Parents:
    """Where groups may be made: in the operator's group `name`, else in this process's own v2 group if delegated.

    `name` is a path below the root of each hierarchy, as in /proc/PID/cgroup (`/yard`). `process` is where the files
    `mountinfo` and `cgroup` are read. A v1 hierarchy is never taken unasked: delegation of v1 is not safe (systemd's
    CGROUP_DELEGATION). Raises InvalidInput for a name that leaves the hierarchy.
    """
    if name is not None and (not name.strip("/") or ".." in Path(name).parts):
        raise InvalidInput(f"'{name}' is not a cgroup", hint="MODELYARD_CGROUP is a path such as /yard")
    mounts = _hierarchies((process / "mountinfo").read_text())
    if name is not None:
        places = {c: mounts.get(c) or mounts.get(_V2) for c in _CONTROLLERS}
        return Parents(**{c: str(place / name.lstrip("/")) if place else None for c, place in places.items()})
    own = _own_v2(mounts, (process / "cgroup").read_text())
    control = own / "cgroup.subtree_control" if own else None
    delegated = control.read_text().split() if control and control.exists() else ()
    return Parents(**{c: str(own) if c in delegated else None for c in _CONTROLLERS})


def remove_groups(parents: Parents, pattern: str) -> None:
    """Remove the groups of that name (a glob); one that still holds a process stays (the kernel refuses)."""
    for parent in {p for p in (parents.memory, parents.cpu) if p}:
        for group in Path(parent).glob(pattern):
            with contextlib.suppress(OSError):
                group.rmdir()


def _hierarchies(mountinfo: str) -> Mapping[str, Path]:
    """Where v1's hierarchies are mounted, by controller, and the v2 hierarchy, by `unified` (format: proc(5))."""
    found: dict[str, Path] = {}
    for line in mountinfo.splitlines():
        mount, _, filesystem = line.partition(" - ")
        kind, _, options = filesystem.partition(" ")
        point = Path(mount.split()[4])
        if kind == "cgroup2":
            found.setdefault(_V2, point)
        elif kind == "cgroup":
            for controller in set(options.split(" ")[-1].split(",")) & set(_CONTROLLERS):
                found.setdefault(controller, point)
    return found


def _own_v2(mounts: Mapping[str, Path], groups: str) -> Path | None:
    paths = [line.removeprefix("0::") for line in groups.splitlines() if line.startswith("0::")]
    return mounts[_V2] / paths[0].lstrip("/") if paths and _V2 in mounts else None
