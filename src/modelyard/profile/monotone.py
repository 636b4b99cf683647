"""A monotone fit of how fast a service answers against the rate it is offered. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def crossing_of(points: Sequence[tuple[float, float]], level: float, capacity_rps: float) -> float:
    """The rate at which a monotone falling fit of (rate, speed) reaches `level`; speed is 1/latency.

    The fit is isotonic (pool adjacent violators) and linear between points, level before the first, and 0 at the
    capacity. Where even the first point is below `level`, the line from it through 0 at the capacity goes backwards.
    """
    if not points:
        return capacity_rps
    fitted = isotonic_falling(sorted(points))
    if fitted[-1][0] < capacity_rps and fitted[-1][1] > 0:
        fitted = [*fitted, (capacity_rps, 0.0)]
    if fitted[0][1] <= level:
        (rate, speed) = fitted[0]
        return rate * speed / level
    for (left, high), (right, low) in pairwise(fitted):
        if low <= level:
            return left + (right - left) * (high - level) / (high - low)
    return fitted[-1][0]


def isotonic_falling(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Least-squares falling step fit of points sorted by rate: each keeps its rate and gets its pool's mean."""
    pools: list[tuple[float, int]] = []
    for _, value in points:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] < pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [((a * n + b * m) / (n + m), n + m)]
    values = [value for value, count in pools for _ in range(count)]
    return [(rate, value) for (rate, _), value in zip(points, values, strict=True)]
