"""Scales: where a value stands along an axis, and which ticks the axis has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

Tick = tuple[float, str]
_NOTHING: Final = 1e-30
"""No measured quantity is smaller, in any unit; floats below cannot be divided into steps."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high` in its own values; `bend` makes it linear (a logarithm, say)."""

    low: float
    high: float
    ticks: tuple[Tick, ...]
    bend: Callable[[float], float] = float

    def share(self, value: float) -> float:
        """Where `value` stands, from 0 (low) to 1 (high); what is beyond an end stands at that end."""
        low, high = self.bend(self.low), self.bend(self.high)
        at = self.bend(min(max(value, self.low), self.high))
        return (at - low) / (high - low)


def linear(values: Iterable[float], *, zero: bool = True, steps: int = 5) -> Scale:
    """A linear scale that holds `values`, from 0 unless told otherwise; ticks at 1, 2 or 5 times a power of ten."""
    found = [value for value in values if math.isfinite(value)] or [1.0]
    low, high = (0.0 if zero else min(found)), max(found)
    if high - low < _NOTHING:
        high = low + (abs(low) or 1.0)
    high += (high - low) * 0.06
    return Scale(low, high, tuple((tick, short(tick)) for tick in _steps(low, high, steps)))


def logarithmic(values: Iterable[float], *, room: float = 1.15, steps: int = 7) -> Scale:
    """A logarithmic scale that holds the positive ones of `values` with a factor `room` beyond either end.

    Ticks at 1, 2 and 5 times powers of ten; at the powers alone, or every few, where these are many; where the range is
    too narrow for that, at equal steps.
    """
    found = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    low, high = min(found) / room, max(found) * room
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    candidates: list[list[float]] = [[10.0**e * m for e in exponents for m in (1, 2, 5)]]
    candidates += [[10.0**e for e in exponents if e % every == 0] for every in (1, 2, 3, 6, 12)]
    inside = [[tick for tick in ticks if low <= tick <= high] for ticks in candidates]
    ticks = next((some for some in inside if len(some) <= steps), inside[-1])
    if len(ticks) < 3 and high / low < 100:
        ticks = [tick for tick in _steps(low, high, 4) if tick > 0]
    return Scale(low, high, tuple((tick, short(tick)) for tick in ticks), math.log10)


def tail(most: float) -> Scale:
    """Shares of requests from 0 to `most` (< 1), where each further nine is as far from the last.

    So p99 and p99.9 can be read where a linear axis has them all in its last line.
    """
    most = max(most, 0.95)
    ticks: list[Tick] = [(0.0, "0"), (0.5, "p50"), (0.9, "p90")]
    nines, reach = 2, -math.log10(1 - most)
    while nines <= reach + 1e-9:
        digits = "9" * nines
        ticks.append((1 - 10.0**-nines, f"p{digits[:2]}{'.' if nines > 2 else ''}{digits[2:]}"))
        nines += 1
    return Scale(0.0, most, tuple(ticks), lambda share: -math.log10(max(1 - share, 1e-12)))


def ordinal(names: Sequence[str]) -> Scale:
    """Places 0, 1, 2, ... with a name each, evenly spaced."""
    return Scale(-0.6, len(names) - 0.4, tuple((float(place), name) for place, name in enumerate(names)))


def short(value: float) -> str:
    """A tick in few characters: 0.05, 20, 5000, 20k, 3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:.6g}"


def _steps(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]
