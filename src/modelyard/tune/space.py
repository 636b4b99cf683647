"""The configurations that may be tried: typed knobs, when they are active, and what must hold between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput
from modelyard.domain.study import Knob, Point
from modelyard.manifest.problems import nearest
from modelyard.tune import space_text
from modelyard.tune.descent import Descent, active
from modelyard.tune.expressions import Constraint
from modelyard.tune.knobs import Dimension, Real

MOST_POINTS: Final = 20_000
"""That are listed: more are sampled. A point takes about 1 kB."""
_MOST_VISITS: Final = 400_000
"""Partial points looked at before a space counts as too large to be listed: about a second."""
_TRIES: Final = 10_000
"""Samples drawn before the constraints count as leaving too little."""
_SOBOL_FACTOR: Final = 64
"""Sobol points drawn per point wanted, before the rest is sampled."""


@dataclass(frozen=True)
class Space:
    """Knobs by name, constraints between them, and the constants that the constraints read (`cores`, `memory`).

    A knob whose `when` does not hold is absent from a point, so that equal configurations are equal points. `when` may
    name knobs that stand before it. Immutable; thread-safe. Raises InvalidInput, also where no point is feasible.
    """

    knobs: Mapping[str, Dimension]
    constraints: Sequence[str] = ()
    constants: Mapping[str, Knob] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.knobs:
            raise InvalidInput("a space needs a knob", hint="e.g. threads: {integer: [1, 8], log2: true}")
        for _, error in _mistakes(self.knobs, self.constants):
            raise error
        if self._first is None:
            raise InvalidInput(
                "no configuration of the space keeps its constraints",
                why=self._why_none(),
                hint="widen a knob or loosen a constraint",
            )

    @classmethod
    def parse(cls, text: str, constants: Mapping[str, Knob] | None = None, *, name: str = "space") -> Space:
        """Read a space's YAML text. Its own `constants` come before those given; `name` is the file's, for errors.

        Raises InvalidInput with every problem and its line.
        """
        problems = space_text.problems(name)
        knobs, constraints, known = space_text.read(text, dict(constants or {}), problems)
        for knob, error in _mistakes(knobs, known):
            problems.add_error(("knobs", knob), error)
        problems.raise_if_any()
        try:
            return cls(knobs, constraints, known)
        except InvalidInput as error:
            problems.add_error(("constraints",), error)
            problems.raise_if_any()
            raise

    @cached_property
    def text(self) -> str:
        """The space as YAML: complete in itself, so that `Space.parse(space.text)` is this space."""
        return space_text.write(self.knobs, self.constraints, self.constants)

    @cached_property
    def size(self) -> int | None:
        """How many points are feasible; None where there are infinitely many, or more than are listed."""
        return None if self._listed is None else len(self._listed)

    def points(self) -> Sequence[Point]:
        """All feasible points, in the order of knobs and their values. Raises InvalidInput where `size` is None."""
        if self._listed is None:
            raise InvalidInput(
                "the space has too many points to list them", hint="give continuous knobs a step, or sample"
            )
        return self._listed

    def walk(self, levels: int) -> Iterator[Point]:
        """All feasible points one after the other, continuous knobs at `levels` values; lazily, in a stable order."""
        return (point for point in self._descent.points(self._spreads(levels), None) if point is not None)

    def sample(self, rng: np.random.Generator) -> Point:
        """A feasible point: uniform over the points where they can be listed, else over each knob's values."""
        if self._listed is not None:
            return self._listed[int(rng.integers(len(self._listed)))]
        for _ in range(_TRIES):
            point = self._at(rng.random(len(self.knobs)))
            if self.check(point) is None:
                return point
        return self._any

    def sobol(self, count: int, seed: int) -> list[Point]:
        """Up to `count` distinct feasible points, spread evenly: a scrambled Sobol sequence, one axis per knob.

        Fewer only where the space has no more. Source: scipy.stats.qmc (Owen scrambling).
        """
        from scipy.stats import qmc

        wanted = count if self.size is None else min(count, self.size)
        found: dict[Point, None] = {}
        sequence = qmc.Sobol(len(self.knobs), rng=np.random.default_rng(seed))
        drawn, power = 0, max(3, (max(wanted, 1) - 1).bit_length())
        while len(found) < wanted and drawn < _SOBOL_FACTOR * wanted:
            for shares in sequence.random(2**power):
                point = self._at(shares)
                if len(found) < wanted and self.check(point) is None:
                    found[point] = None
            drawn += 2**power
        return self._filled(found, wanted, np.random.default_rng([seed, 1]))

    def point(self, knobs: Mapping[str, Knob]) -> Point:
        """The point with these values; those of inactive knobs are left out.

        Raises InvalidInput for an unknown or missing knob, a value it does not have, or a broken constraint.
        """
        for name in knobs:
            if name not in self.knobs:
                raise InvalidInput(f"the space has no knob '{name}'" + nearest(name, self.knobs))
        values: dict[str, Knob] = {}
        for name, dimension in self.knobs.items():
            if not active(dimension, values):
                continue
            if name not in knobs:
                raise InvalidInput(f"the point has no value for the knob '{name}'")
            try:
                values[name] = dimension.read(knobs[name])
            except InvalidInput as error:
                raise InvalidInput(f"the knob '{name}' cannot have that value", why=error.what) from error
        broken = self._broken(values)
        if broken is not None:
            raise InvalidInput(f"{Point.of(values)} breaks '{broken}'", hint="choose values that keep it")
        return Point.of(values)

    def check(self, point: Point) -> str | None:
        """Why the point is not one of the space, in words: the constraint it breaks; None where it is one."""
        values = dict(point)
        expected = [name for name, dimension in self.knobs.items() if active(dimension, values)]
        if expected != list(values):
            return f"it has the knobs {', '.join(values)} and needs {', '.join(expected)}"
        for name, value in values.items():
            try:
                canonical = self.knobs[name].read(value)
            except InvalidInput as error:
                return f"{name}: {error.what}"
            if canonical != value:
                return f"{name}: {value} is written {canonical}"
        return self._broken(values)

    def encode(self, point: Point) -> NDArray[np.float64]:
        """The point as (`dimensions`,) float64 in [0, 1]: numbers by their position, choices one-hot.

        A point from outside the space is encoded as its nearest values.
        """
        return np.array([x for name, knob in self.knobs.items() for x in knob.encode(point.get(name))], np.float64)

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """(`dimensions`,) int64: the number of the knob that each column of `encode` belongs to."""
        widths = [knob.width for knob in self.knobs.values()]
        return np.repeat(np.arange(len(widths)), widths)

    def neighbours(self, point: Point) -> list[Point]:
        """The feasible points that differ in one knob by one step (a choice: by any value), in a stable order.

        Knobs that this makes active start at their first value.
        """
        return [other for other in self.around(point) if self.check(other) is None]

    def around(self, point: Point) -> list[Point]:
        """`neighbours`, and those that break a constraint."""
        found: dict[Point, None] = {}
        for name, value in point:
            if name not in self.knobs:
                continue
            for other in self.knobs[name].adjacent(value):
                found[self._completed({**dict(point), name: other})] = None
        found.pop(point, None)
        return list(found)

    @property
    def _first(self) -> Point | None:
        """Some feasible point."""
        found = next((p for p in self._descent.points(self._spreads(3), _MOST_VISITS) if p is not None), None)
        if found is not None or not self._continuous:
            return found
        rng = np.random.default_rng(0)
        drawn = (self._at(rng.random(len(self.knobs))) for _ in range(_TRIES))
        return next((point for point in drawn if self.check(point) is None), None)

    @cached_property
    def _any(self) -> Point:
        found = self._first
        if found is None:
            raise InvalidInput("no configuration of the space keeps its constraints")
        return found

    @property
    def _continuous(self) -> bool:
        return any(isinstance(knob, Real) and knob.levels is None for knob in self.knobs.values())

    @cached_property
    def _listed(self) -> tuple[Point, ...] | None:
        if self._continuous:
            return None
        found: list[Point] = []
        for point in self._descent.points(self._spreads(1), _MOST_VISITS):
            if point is None or len(found) == MOST_POINTS:
                return None
            found.append(point)
        return tuple(found)

    def _spreads(self, levels: int) -> Mapping[str, Sequence[Knob]]:
        return {name: knob.spread(levels) for name, knob in self.knobs.items()}

    @cached_property
    def _descent(self) -> Descent:
        return Descent(self.knobs, self._parsed, self.constants)

    @cached_property
    def _parsed(self) -> tuple[Constraint, ...]:
        known = frozenset(self.knobs) | frozenset(self.constants)
        return tuple(Constraint.parse(text, known) for text in self.constraints)

    def _broken(self, values: Mapping[str, Knob]) -> str | None:
        known = {**self.constants, **values}
        return next((c.text for c in self._parsed if not c.holds(known)), None)

    def _at(self, shares: NDArray[np.float64]) -> Point:
        values: dict[str, Knob] = {}
        for (name, dimension), share in zip(self.knobs.items(), shares, strict=True):
            if active(dimension, values):
                values[name] = dimension.at(min(float(share), 1 - 1e-12))
        return Point.of(values)

    def _completed(self, values: Mapping[str, Knob]) -> Point:
        """The values in the space's order, without inactive knobs, newly active ones at their first value."""
        done: dict[str, Knob] = {}
        for name, dimension in self.knobs.items():
            if active(dimension, done):
                done[name] = values[name] if name in values else dimension.at(0.0)
        return Point.of(done)

    def _filled(self, found: dict[Point, None], wanted: int, rng: np.random.Generator) -> list[Point]:
        """The found points, and sampled ones until there are as many as wanted."""
        if self._listed is not None and len(found) < wanted:
            rest = [point for point in self._listed if point not in found]
            return [*found, *(rest[i] for i in rng.permutation(len(rest))[: wanted - len(found)])]
        for _ in range(_SOBOL_FACTOR * wanted):
            if len(found) >= wanted:
                break
            found[self.sample(rng)] = None
        return list(found)

    def _why_none(self) -> str:
        if len(self.constraints) == 1:
            return f"'{self.constraints[0]}' never holds"
        alone = [text for text in self.constraints if not _possible(self, text)]
        if alone:
            return f"'{alone[0]}' never holds"
        return "together they exclude everything: " + "; ".join(self.constraints)


def _mistakes(knobs: Mapping[str, Dimension], constants: Mapping[str, Knob]) -> Iterator[tuple[str, InvalidInput]]:
    """What is wrong with the names of knobs and with what they depend on, each with its knob."""
    before: list[str] = []
    for name, knob in knobs.items():
        if not name.isidentifier() or name in space_text.RESERVED:
            hint = "use letters, digits and _, beginning with a letter"
            yield name, InvalidInput(f"'{name}' cannot name a knob", hint=hint)
        elif name in constants:
            yield name, InvalidInput(f"'{name}' is both a knob and a constant", hint="rename one of them")
        for other, values in knob.when.items():
            if other not in before:
                near = nearest(other, before) if before else ""
                text = f"the knob '{name}' depends on '{other}', which does not stand before it{near}"
                yield name, InvalidInput(text)
                continue
            for value in values:
                try:
                    knobs[other].read(value)
                except InvalidInput as error:
                    yield name, InvalidInput(f"'when' of the knob '{name}': {other}: {error.what}")
        before.append(name)


def _possible(space: Space, constraint: str) -> bool:
    try:
        Space(space.knobs, [constraint], space.constants)
    except InvalidInput:
        return False
    return True
