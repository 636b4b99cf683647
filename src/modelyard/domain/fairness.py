"""Who executes next where models share the cores of one replica: start-time fair queueing over learned cost.

Goyal, Vin, Cheng: Start-time Fair Queueing (SIGCOMM 1996): an execution gets the start tag max(virtual time, finish tag
of its model's previous one) and the finish tag start + cost / weight; the smallest start tag goes first, and the
virtual time is the start tag of what started last. A model that was idle comes back at the present virtual time: it
neither saves up nor owes. Pure: no clock, no threads.
"""

from __future__ import annotations

from modelyard.domain.errors import InvalidInput


class Flow:
    """One model's executions. `width`: cores that one of them occupies; `weight`: its share where models compete."""

    __slots__ = ("finish", "start", "weight", "width")

    def __init__(self, weight: float = 1.0, width: int = 1) -> None:
        if weight <= 0 or width < 1:
            raise InvalidInput("a model's share needs weight > 0 and width >= 1")
        self.weight = weight
        self.width = width
        self.start = 0.0
        """Start tag of its next execution, while it is held back."""
        self.finish = 0.0
        """Finish tag of its last execution."""


class FairShare:
    """Seats for executions, `capacity` cores of them, given in the order of start tags."""

    def __init__(self, capacity: int) -> None:
        self.capacity = max(1, capacity)
        self.used = 0
        self.virtual = 0.0
        self.held_back: list[Flow] = []
        """Flows that have work and no seat."""
        self._granted: list[Flow] = []

    def enter(self, flow: Flow, cost: float) -> bool:
        """Take a seat for an execution predicted to cost so much; False: held back until `grant` names the flow."""
        if self._granted and flow in self._granted:
            self._granted.remove(flow)
            self._begin(flow, cost)
            return True
        if not self.held_back and self._fits(flow):
            self.used += flow.width
            self._begin(flow, cost)
            return True
        if flow not in self.held_back:
            flow.start = max(self.virtual, flow.finish)
            self.held_back.append(flow)
        return False

    def leave(self, flow: Flow, error: float = 0.0) -> None:
        """Give a seat back. `error`: what the execution cost beyond the prediction."""
        self.used -= flow.width
        flow.finish += error * flow.width / flow.weight

    def charge(self, flow: Flow, cost: float) -> None:
        """An execution that needs no seat (on the event loop itself) took place."""
        self._begin(flow, cost)

    def correct(self, flow: Flow, error: float) -> None:
        """An execution whose seat is gone already cost so much more than predicted."""
        flow.finish += error * flow.width / flow.weight

    def grant(self) -> Flow | None:
        """The held back flow whose turn it is, with a seat kept for its `enter` (or `forgo`); None: no seat is free."""
        if not self.held_back:
            return None
        first = min(self.held_back, key=_start)
        if not self._fits(first):
            return None  # nor does any other overtake it: wide models would starve
        self.held_back.remove(first)
        self.used += first.width
        self._granted.append(first)
        return first

    def forgo(self, flow: Flow) -> None:
        """The flow has no work after all: it is neither held back nor keeps a granted seat."""
        if flow in self._granted:
            self._granted.remove(flow)
            self.used -= flow.width
        elif flow in self.held_back:
            self.held_back.remove(flow)

    def tag(self, flow: Flow) -> float:
        """The start tag that the flow's next execution would get."""
        return max(self.virtual, flow.finish)

    def _fits(self, flow: Flow) -> bool:
        return self.used == 0 or self.used + flow.width <= self.capacity

    def _begin(self, flow: Flow, cost: float) -> None:
        start = flow.finish
        if start < self.virtual:
            start = self.virtual
        self.virtual = start
        flow.finish = start + cost * flow.width / flow.weight


def _start(flow: Flow) -> float:
    return flow.start
