"""Cores of their own for replicas that together fill those of their service (`domain.placement`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Final

from modelyard.dispatch.ports import Limits
from modelyard.domain.placement import shares
from modelyard.domain.services import ReplicaSpec
from modelyard.processes import process_tree, tasks

_PASSES: Final = 3
"""A thread made while the others are bound inherits its maker's cores, of before or after: look again."""


def usable_cores(limits: Limits) -> tuple[int, ...]:
    """Those that a service's replicas may run on."""
    return tuple(sorted(limits.cores or os.sched_getaffinity(0)))


def cores_of(index: int, replicas: int, spec: ReplicaSpec, limits: Limits) -> tuple[int, ...]:
    """The cores that replica `index` is bound to; empty where the kernel places it better.

    A cap on cores, or several instances of a model (bound inside the replica), go before.
    """
    threads = limits.threads or max((m.threads for m in spec.models), default=1)
    shaped = limits.cpu_limit or spec.cpu_limit or any(m.instances > 1 for m in spec.models)
    found = () if shaped else shares(usable_cores(limits), replicas, threads)
    return found[index] if 0 <= index < len(found) else ()


def bind(pid: int, cores: Sequence[int]) -> None:
    """Let a process, its threads and its descendants run on these cores only. What has ended meanwhile is left out."""
    wanted = set(cores)
    for _ in range(_PASSES):
        elsewhere = [task for task in _tasks(pid) if _affinity(task) != wanted]
        if not elsewhere:
            return
        for task in elsewhere:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(task, wanted)


def _tasks(pid: int) -> list[int]:
    return [task for process in process_tree(pid) for task in tasks(process)]


def _affinity(task: int) -> set[int]:
    with contextlib.suppress(ProcessLookupError):
        return set(os.sched_getaffinity(task))
    return set()
