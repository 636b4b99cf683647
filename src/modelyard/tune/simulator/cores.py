"""Simulated time: events, and work that shares the cores of a node."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeAlias

Handler: TypeAlias = Callable[[Any], None]


class Clock:
    """The present and the events to come. Not thread-safe."""

    __slots__ = ("_events", "_number", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._number = count().__next__
        self._events: list[tuple[float, int, Handler, Any]] = []

    def at(self, time: float, handler: Handler, argument: Any = None) -> None:
        """Call `handler(argument)` at a time (seconds); the present where it has passed."""
        heappush(self._events, (time, self._number(), handler, argument))

    def run(self, going: Callable[[], bool]) -> None:
        """Handle events in the order of their times while `going()` and there are any."""
        events = self._events
        while events and going():
            time, _, handler, argument = heappop(events)
            if time > self.now:
                self.now = time
            handler(argument)


class Cores:
    """`capacity` cores under processor sharing. Not thread-safe.

    Work that is under way asks for `width` cores. While all of it together asks for more than there are, it progresses
    at the same fraction of its speed, as under a fair scheduler. That fraction is the derivative of a virtual time that
    all work shares, so a change of it moves only the end that comes next (as in fluid fair queueing: Parekh and
    Gallager, 1993, IEEE/ACM Trans. Networking 1(3)). Work that goes `first` (real-time priority) keeps its speed and
    leaves the others the rest.
    """

    __slots__ = ("_clock", "_demand", "_first", "_number", "_since", "_turn", "_virtual", "_work", "capacity", "speed")

    def __init__(self, clock: Clock, capacity: float) -> None:
        self.capacity = float(capacity)
        self.speed = 1.0
        """At which fraction of its full speed work progresses now."""
        self._clock = clock
        self._virtual = self._since = 0.0
        self._demand = 0.0
        self._first = 0
        self._turn = 0
        self._number = count().__next__
        self._work: list[tuple[float, int, float, Handler, Any]] = []

    def work(self, seconds: float, width: float, handler: Handler, argument: Any = None) -> None:
        """Do work of so many seconds on `width` cores, then call `handler(argument)`."""
        self._advance()
        heappush(self._work, (self._virtual + seconds, self._number(), width, handler, argument))
        self._demand += width
        self._share()

    def first(self, seconds: float, handler: Handler, argument: Any = None) -> None:
        """Work of one core that waits for nobody."""
        self._advance()
        self._first += 1
        self._share()
        self._clock.at(self._clock.now + seconds, self._first_ended, (handler, argument))

    def _first_ended(self, what: tuple[Handler, Any]) -> None:
        self._advance()
        self._first -= 1
        self._share()
        what[0](what[1])

    def _advance(self) -> None:
        now = self._clock.now
        self._virtual += (now - self._since) * self.speed
        self._since = now

    def _share(self) -> None:
        """Divide the cores anew, and say when the next work ends."""
        left = self.capacity - self._first
        self.speed = speed = 1.0 if self._demand <= left else max(left, 0.0) / self._demand
        self._turn += 1
        if self._work and speed:
            self._clock.at(self._since + (self._work[0][0] - self._virtual) / speed, self._ended, self._turn)

    def _ended(self, turn: int) -> None:
        if turn != self._turn:  # the cores were divided anew since
            return
        virtual, _, width, handler, argument = heappop(self._work)
        self._virtual, self._since = virtual, self._clock.now
        self._demand = self._demand - width if self._work else 0.0
        self._share()
        handler(argument)
