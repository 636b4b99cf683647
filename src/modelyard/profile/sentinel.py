"""The noise sentinel: is this machine quiet enough to measure on?

A fixed piece of CPU work (the canary) is timed before and after each block, and cores that stood still during one are
noted (`profile.stalls`). A block is thrown away for these alone, never for its own result, so that discarding cannot
make a service look better. Steal, pressure and throttling are recorded beside them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_ITERATIONS = 60_000
"""About 3 ms of integer work in CPython 3.11: far above timer noise, far below what would heat or disturb."""
_REPEATS = 5


def canary_s() -> float:
    """Seconds the fixed work takes now: the median of five runs, so that one interrupt does not count."""
    return sorted(_once() for _ in range(_REPEATS))[_REPEATS // 2]


def _once() -> float:
    begin = time.perf_counter()
    total = 0
    for i in range(_ITERATIONS):
        total = (total * 31 + i) & 0xFFFFFFFF
    return time.perf_counter() - begin


@dataclass(frozen=True, slots=True)
class Pulse:
    """Counters of the machine at one instant; differences of two say what happened between. Absent files count 0.

    `jiffies`, `steal_jiffies`: all and stolen CPU time of /proc/stat. `stalled_us`: /proc/pressure/cpu, some.
    `throttled_ns`: time the control group was held back by its CPU quota.
    """

    jiffies: int = 0
    steal_jiffies: int = 0
    stalled_us: int = 0
    throttled_ns: int = 0
    at_s: float = field(default_factory=time.monotonic)

    @classmethod
    def take(cls, root: Path = Path("/")) -> Pulse:
        """Read the counters."""
        fields = [int(v) for v in _text(root / "proc/stat").partition("\n")[0].split()[1:]]
        return cls(
            jiffies=sum(fields[:8]),
            steal_jiffies=fields[7] if len(fields) > 7 else 0,
            stalled_us=_pressure(_text(root / "proc/pressure/cpu")),
            throttled_ns=_throttled(root / "sys/fs/cgroup"),
        )


def environment(before: Pulse, after: Pulse, canaries_s: list[float]) -> Mapping[str, str]:
    """What the machine did during a measurement, as a measurement's `environment`."""
    wall = max(after.at_s - before.at_s, 1e-9)
    jiffies = max(after.jiffies - before.jiffies, 1)
    best = min(canaries_s, default=0.0)
    return {
        "canary_ms": f"{best * 1e3:.3f}",
        "canary_worst_ratio": f"{max(canaries_s, default=0.0) / best:.3f}" if best else "",
        "steal_fraction": f"{(after.steal_jiffies - before.steal_jiffies) / jiffies:.5f}",
        "cpu_pressure_fraction": f"{(after.stalled_us - before.stalled_us) / 1e6 / wall:.5f}",
        "throttled_s": f"{(after.throttled_ns - before.throttled_ns) / 1e9:.3f}",
    }


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not on this kernel, or not for us: recorded as no pressure, no steal
        return ""


def _pressure(text: str) -> int:
    for line in text.splitlines():
        if line.startswith("some "):
            return int(line.rpartition("total=")[2])
    return 0


def _throttled(cgroup: Path) -> int:
    """Control groups 2 count in microseconds, 1 in nanoseconds."""
    for path, key, unit_ns in (
        (cgroup / "cpu.stat", "throttled_usec", 1000),
        (cgroup / "cpu/cpu.stat", "throttled_time", 1),
    ):
        for line in _text(path).splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value) * unit_ns
    return 0
