"""A cap on a replica's cores, as the kernel keeps it: CPU time per period, then a stall until the next."""

from __future__ import annotations

from math import ceil
from typing import Final

PERIOD_S: Final = 0.01
LEAST_S: Final = 0.005
"""Period and least quota, as the engine sets them (docs/adr/0049-cpu-limits.md)."""


class Quota:
    """What is left of a replica's CPU time in the present period."""

    __slots__ = ("_number", "_period_s", "_quota_s", "_used_s")

    def __init__(self, cores: float) -> None:
        self._period_s = max(PERIOD_S, LEAST_S / cores)
        self._quota_s = cores * self._period_s
        self._number = 0
        self._used_s = 0.0

    def stall_s(self, now: float, seconds: float, width: float) -> float:
        """Use `seconds` of `width` cores from now on: by how much the end of that is later than without a cap."""
        number = int(now / self._period_s)
        if number > self._number:
            self._number, self._used_s = number, 0.0
        begin = max(now, self._number * self._period_s)
        cpu = seconds * width
        free = self._quota_s - self._used_s
        if cpu <= free:
            self._used_s += cpu
            return begin - now
        rest = cpu - free
        more = ceil(rest / self._quota_s)
        last = rest - (more - 1) * self._quota_s
        end = (self._number + more) * self._period_s + last / width
        self._number += more
        self._used_s = last
        return max(begin - now, end - now - seconds)
