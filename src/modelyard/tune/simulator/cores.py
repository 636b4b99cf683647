"""Simulated time: events, and work that shares the cores of a node."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any, TypeAlias

Handler: TypeAlias = Callable[[Any], None]


class Cores:
    """The clock, the events to come, and `capacity` cores under processor sharing. Not thread-safe.

    Work that is under way asks for `width` cores. While all of it together asks for more than there are, it progresses
    at the same fraction of its speed, as under a fair scheduler. That fraction is the derivative of a virtual time that
    all work shares, so a change of it moves no event (as in fluid fair queueing: Parekh and Gallager, 1993, IEEE/ACM
    Trans. Networking 1(3)). Work that goes `first` (real-time priority) keeps its speed and leaves the others the rest.
    """

    __slots__ = ("_demand", "_events", "_first", "_number", "_speed", "_virtual", "_work", "capacity", "now")

    def __init__(self, capacity: float) -> None:
        self.capacity = float(capacity)
        self.now = 0.0
        self._virtual = 0.0
        self._speed = 1.0
        self._demand = 0.0
        self._first = 0
        self._number = count().__next__
        self._events: list[tuple[float, int, Handler, Any]] = []
        self._work: list[tuple[float, int, float, Handler, Any]] = []

    @property
    def speed(self) -> float:
        """At which fraction of its full speed work progresses now."""
        return self._speed

    def at(self, time: float, handler: Handler, argument: Any = None) -> None:
        """Call `handler(argument)` at a time (seconds); the present where it has passed."""
        heappush(self._events, (time, self._number(), handler, argument))

    def work(self, seconds: float, width: float, handler: Handler, argument: Any = None) -> None:
        """Do work of so many seconds on `width` cores, then call `handler(argument)`."""
        heappush(self._work, (self._virtual + seconds, self._number(), width, handler, argument))
        self._demand += width
        self._share()

    def first(self, seconds: float, handler: Handler, argument: Any = None) -> None:
        """Work of one core that waits for nobody."""
        self._first += 1
        self._share()
        self.at(self.now + seconds, self._ended, (handler, argument))

    def _ended(self, what: tuple[Handler, Any]) -> None:
        self._first -= 1
        self._share()
        what[0](what[1])

    def _share(self) -> None:
        left = self.capacity - self._first
        self._speed = 1.0 if self._demand <= left else max(left, 0.0) / self._demand

    def run(self, going: Callable[[], bool]) -> None:
        """Handle events in the order of their times while `going()` and there are any."""
        events, work = self._events, self._work
        while going():
            if work:
                speed = self._speed
                ends = self.now + (work[0][0] - self._virtual) / speed if speed else inf
            else:
                ends = inf
            if events and events[0][0] < ends:
                time, _, handler, argument = heappop(events)
                if time > self.now:
                    self._virtual += (time - self.now) * self._speed
                    self.now = time
                handler(argument)
            elif work and ends < inf:
                virtual, _, width, handler, argument = heappop(work)
                self.now = ends
                self._virtual = virtual
                self._demand = self._demand - width if work else 0.0
                self._share()
                handler(argument)
            else:
                return
