"""Which cores the replicas of a service and a load client run on, where that is not left to the kernel. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def shares(cores: Sequence[int], replicas: int, threads: int) -> tuple[tuple[int, ...], ...]:
    """Cores of its own for each replica, where their threads are exactly as many as the cores; else none.

    Left alone, the kernel lets two of them share one core for milliseconds while another rests (docs/benchmarks.md).
    Fewer threads leave cores idle, which the kernel finds; more have to share.
    """
    if replicas < 2 or replicas * threads != len(cores):
        return ()
    return tuple(tuple(cores[k * threads : (k + 1) * threads]) for k in range(replicas))


def apart(cores: Sequence[int], threads: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cores for a service of so many threads in all, and for the load client that measures it.

    The client has the last core; the service the others where its threads fit them, else all (an empty tuple, as for
    both where there is one core). A client and a server on one core answer each other without waking another: callers
    from elsewhere never see that, and whether the kernel puts them together is chance.
    """
    if len(cores) < 2:
        return (), ()
    return tuple(cores[:-1]) if threads < len(cores) else (), tuple(cores[-1:])
