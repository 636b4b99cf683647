"""All points of a space, one after the other, without looking at what a constraint excludes early."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from modelyard.domain.study import Knob, Point
from modelyard.tune.expressions import Constraint
from modelyard.tune.knobs import Dimension


def active(dimension: Dimension, values: Mapping[str, Knob]) -> bool:
    """Whether a knob is active where the knobs before it have these values."""
    return all(values.get(other) in wanted for other, wanted in dimension.when.items())


class Descent:
    """Depth first over the knobs; a constraint prunes as soon as its last knob is set. Immutable; thread-safe."""

    def __init__(
        self, knobs: Mapping[str, Dimension], constraints: Sequence[Constraint], constants: Mapping[str, Knob]
    ) -> None:
        self._knobs = list(knobs.items())
        self._constants = constants
        places = {name: i for i, name in enumerate(knobs)}
        self._due: list[list[Constraint]] = [[] for _ in knobs]
        """Per knob: the constraints whose last knob it is; those without a knob stand with the first."""
        for constraint in constraints:
            last = max((places[n] for n in constraint.expression.names if n in places), default=0)
            self._due[last].append(constraint)

    def points(self, values: Mapping[str, Sequence[Knob]], most: int | None) -> Iterator[Point | None]:
        """The feasible points whose knobs have these values, in order, lazily.

        After `most` partial points it goes on with None: there may be more. `most` None: as many as there are.
        """
        return self._from({}, 0, values, _Visits(most))

    def _from(
        self, chosen: dict[str, Knob], depth: int, values: Mapping[str, Sequence[Knob]], visits: _Visits
    ) -> Iterator[Point | None]:
        if depth == len(self._knobs):
            yield Point.of(chosen)
            return
        name, dimension = self._knobs[depth]
        for value in values[name] if active(dimension, chosen) else (None,):
            if not visits.another():
                yield None
                return
            extended = chosen if value is None else {**chosen, name: value}
            if all(c.holds({**self._constants, **extended}) for c in self._due[depth]):
                yield from self._from(extended, depth + 1, values, visits)


@dataclass
class _Visits:
    """Counts partial points."""

    left: int | None

    def another(self) -> bool:
        if self.left is None:
            return True
        self.left -= 1
        return self.left >= 0
