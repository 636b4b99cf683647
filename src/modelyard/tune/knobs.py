"""The kinds of knobs of a space: whole numbers, real numbers and choices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from modelyard.domain.errors import InvalidInput
from modelyard.domain.study import Knob

When: TypeAlias = Mapping[str, tuple[Knob, ...]]
"""A knob is active where each knob named here has one of the values given."""

MOST_LEVELS: Final = 1_000_000
_SIX_DIGITS: Final = ".6g"
"""Of a continuous knob: what a service is set to is written and read as text, and no service feels the seventh."""
_NEAR: Final = (0.05, 0.2)
"""How far a continuous knob is moved for a neighbour, in parts of its range."""


@dataclass(frozen=True, slots=True)
class Integer:
    """Whole numbers from `low` to `high`: by `step`, or doubling from `low` (`log2`).

    `log2` from 0 goes on with `step` and doubles from there: `Integer(0, 4000, log2=True, step=500)` is 0, 500, 1000,
    2000, 4000. Raises InvalidInput.
    """

    low: int
    high: int
    log2: bool = False
    step: int = 1
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (_whole(self.low) and _whole(self.high) and _whole(self.step)):
            raise InvalidInput("an integer knob needs whole numbers", hint="write e.g. integer: [1, 8]")
        if self.low > self.high or self.step < 1 or (self.log2 and self.low < 0):
            raise InvalidInput(
                f"an integer knob cannot go from {self.low} to {self.high} by {self.step}",
                hint="it needs low <= high and step >= 1; log2 starts at 0 or above",
            )
        if self.log2 and self.low > 0 and self.step != 1:
            raise InvalidInput("log2 doubles from its low bound", hint="a step is for log2 from 0")
        if not self.log2 and (self.high - self.low) // self.step >= MOST_LEVELS:
            raise InvalidInput(f"an integer knob has at most {MOST_LEVELS} values", hint="give it a step, or log2")

    @property
    def levels(self) -> Sequence[int]:
        """All values, ascending."""
        if not self.log2:
            return range(self.low, self.high + 1, self.step)
        found = [self.low]
        while (following := 2 * found[-1] or self.step) <= self.high:
            found.append(following)
        return found

    @property
    def width(self) -> int:
        return 1

    def at(self, share: float) -> int:
        """The value at `share` in [0, 1) of the levels."""
        return self.levels[int(share * len(self.levels))]

    def encode(self, value: Knob | None) -> list[float]:
        """The value's position in [0, 1]: by exponent where it doubles; 0.5 where the knob is not active."""
        levels = self.levels
        if not isinstance(value, int | float) or len(levels) == 1:
            return [0.5]
        clipped = min(max(value, levels[0]), levels[-1])
        if not self.log2:
            return [(clipped - levels[0]) / (levels[-1] - levels[0])]
        below = max(i for i, level in enumerate(levels) if level <= clipped)
        if levels[below] == clipped:
            return [below / (len(levels) - 1)]
        between = (clipped - levels[below]) / (levels[below + 1] - levels[below])
        return [(below + between) / (len(levels) - 1)]

    def read(self, value: Knob) -> Knob:
        """The value as the knob has it. Raises InvalidInput where it has none such."""
        if not isinstance(value, str) and math.isfinite(value) and value == int(value) and int(value) in self.levels:
            return int(value)
        raise InvalidInput(f"{_shown(value)} is not one of {_listed(self.levels)}")

    def spread(self, count: int) -> Sequence[Knob]:  # noqa: ARG002 - `count` is for continuous knobs
        """The values a grid goes through: all of them."""
        return self.levels

    def adjacent(self, value: Knob) -> Sequence[Knob]:
        """The next values below and above."""
        levels = self.levels
        below = max((level for level in levels if level < number_of(value)), default=None)
        above = min((level for level in levels if level > number_of(value)), default=None)
        return [level for level in (below, above) if level is not None]


@dataclass(frozen=True, slots=True)
class Real:
    """Real numbers from `low` to `high`: all of them, by `step`, or evenly on the log scale (`log`).

    Values are kept to six digits. Raises InvalidInput.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InvalidInput(
                f"a real knob cannot go from {self.low:g} to {self.high:g}",
                hint="write two finite numbers, the smaller first",
            )
        if self.log and (self.low <= 0 or self.step is not None):
            raise InvalidInput("a log knob starts above 0 and has no step")
        if self.step is not None and not (self.step > 0 and (self.high - self.low) / self.step < MOST_LEVELS):
            raise InvalidInput(
                f"a step of {self.step:g} does not fit", hint=f"use one above 0 with at most {MOST_LEVELS} values"
            )

    @property
    def levels(self) -> Sequence[float] | None:
        """All values, ascending; None where it is continuous."""
        if self.step is None:
            return None
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return [_digits(self.low + i * self.step) for i in range(count)]

    @property
    def width(self) -> int:
        return 1

    def at(self, share: float) -> float:
        levels = self.levels
        return self._between(share) if levels is None else levels[int(share * len(levels))]

    def encode(self, value: Knob | None) -> list[float]:
        if not isinstance(value, int | float):
            return [0.5]
        clipped = min(max(value, self.low), self.high)
        if self.log:
            return [math.log(clipped / self.low) / math.log(self.high / self.low)]
        return [(clipped - self.low) / (self.high - self.low)]

    def read(self, value: Knob) -> Knob:
        if not isinstance(value, str) and math.isfinite(value):
            given = _digits(value)
            levels = self.levels
            if self.low <= given <= self.high and (levels is None or given in levels):
                return given
        by = "" if self.step is None else f" by {self.step:g}"
        raise InvalidInput(f"{_shown(value)} is not between {self.low:g} and {self.high:g}{by}")

    def spread(self, count: int) -> Sequence[Knob]:
        levels = self.levels
        if levels is not None:
            return levels
        return [self._between(i / (count - 1) if count > 1 else 0.5) for i in range(count)]

    def adjacent(self, value: Knob) -> Sequence[Knob]:
        levels = self.levels
        if levels is not None:
            below = [level for level in levels if level < number_of(value)][-1:]
            return [*below, *[level for level in levels if level > number_of(value)][:1]]
        here = self.encode(value)[0]
        shares = sorted(here + side * far for far in _NEAR for side in (-1, 1))
        return [self._between(share) for share in shares if 0 <= share <= 1]

    def _between(self, share: float) -> float:
        if self.log:
            return self._kept(self.low * (self.high / self.low) ** share)
        return self._kept(self.low + share * (self.high - self.low))

    def _kept(self, value: float) -> float:
        return min(max(_digits(value), self.low), self.high)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values without an order. Raises InvalidInput."""

    values: tuple[Knob, ...]
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise InvalidInput("a choice needs values, each once", hint="write e.g. choice: [onnx, openvino]")
        if any(isinstance(value, bool) or not isinstance(value, int | float | str) for value in self.values):
            raise InvalidInput("a choice is made between texts or numbers", hint="put yes, no, true, false in quotes")
        if any(isinstance(value, float) and not math.isfinite(value) for value in self.values):
            raise InvalidInput("a choice is made between finite numbers")

    @property
    def levels(self) -> Sequence[Knob]:
        return self.values

    @property
    def width(self) -> int:
        return len(self.values) if len(self.values) > 1 else 0

    def at(self, share: float) -> Knob:
        return self.values[int(share * len(self.values))]

    def encode(self, value: Knob | None) -> list[float]:
        """One number per value, 1 for the one it is; all 0 where the knob is not active."""
        return [] if self.width == 0 else [float(value == other) for other in self.values]

    def read(self, value: Knob) -> Knob:
        for known in self.values:
            if known == value:
                return known
        raise InvalidInput(f"{_shown(value)} is not one of {_listed(self.values)}")

    def spread(self, count: int) -> Sequence[Knob]:  # noqa: ARG002 - `count` is for continuous knobs
        return self.values

    def adjacent(self, value: Knob) -> Sequence[Knob]:
        return [other for other in self.values if other != value]


Dimension: TypeAlias = Integer | Real | Choice


def number_of(value: Knob) -> float:
    """The value as a number. Raises InvalidInput for a text."""
    if isinstance(value, str):
        raise InvalidInput(f"'{value}' is not a number")
    return value


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _digits(value: float) -> float:
    return float(format(value, _SIX_DIGITS))


def _shown(value: Knob) -> str:
    return f"'{value}'" if isinstance(value, str) else f"{value:g}"


def _listed(values: Sequence[Knob]) -> str:
    shown = [_shown(value) for value in values[:12]]
    return ", ".join(shown if len(values) <= 12 else [*shown, f"... {_shown(values[-1])}"])
