"""Which of several versions gets the next request: by weight, without chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelyard.serving.scheduling.executor import Executor


@dataclass(slots=True)
class _Share:
    executor: Executor
    weight: float
    credit: float = 0.0


class Shares:
    """Smooth weighted round robin (nginx's): after n choices each version had its share of n, to within one request.

    Deterministic, so that a test of a 1 % share needs 100 requests and no luck. Event-loop thread only.
    """

    __slots__ = ("_shares", "_total")

    def __init__(self, choices: Sequence[tuple[Executor, float]]) -> None:
        self._shares = [_Share(executor, weight) for executor, weight in choices]
        self._total = sum(weight for _, weight in choices)

    def pick(self) -> Executor:
        """The executor of the next request."""
        best = self._shares[0]
        for share in self._shares:
            share.credit += share.weight
            if share.credit > best.credit + 1e-12:
                best = share
        best.credit -= self._total
        return best.executor
