"""The simulated load client: one event loop that sends what is due and reads answers (`modelyard.profile.client`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from modelyard.tune.simulator.cores import Cores
from modelyard.tune.simulator.replica import Replica, Request, Scene, Sleep

_BURST: Final = 32
"""Overdue requests sent per turn of the loop before answers are read again."""


class Client:
    """Sends a load over connections that each stick to a replica, and keeps the requests with their times."""

    def __init__(self, scene: Scene, cores: Cores, dearer: float) -> None:
        """On its cores, where everything costs it `dearer` times what it does on a core of its own."""
        load, costs = scene.load, scene.path.client.times(dearer)
        self._clock, self._cores, self._load, self._random = scene.clock, cores, load, scene.rng.random
        half = costs.request_s / 2
        self._send_s = half + costs.in_s * load.request_bytes
        self._receive_s = half + costs.out_s * load.answer_bytes
        self._sleep, self._first = Sleep(scene.path, costs), scene.overhead.client_first
        self._jitter = scene.path.jitter_s
        self._due: Sequence[float] | None = None if load.due_s is None else load.due_s.tolist()
        self._count = load.count
        self._next = 0
        self._to_send: list[Request] = []
        self._waiting: deque[Request] = deque()
        self._ready: list[Request] = []
        self.requests: list[Request] = []
        self.left = self._count
        self.cpu_s = 0.0
        self._replicas: list[Replica] = []
        self._of: list[Replica] = []
        self._idle: deque[int] = deque()

    def connect(self, replicas: list[Replica]) -> None:
        """Open the connections: the kernel's hash puts each on any replica."""
        self._replicas = replicas
        for _ in range(self._load.connections):
            self._idle.append(self._new_connection())

    def _new_connection(self) -> int:
        replicas = self._replicas
        chosen = replicas[int(self._random() * len(replicas))] if len(replicas) > 1 else replicas[0]
        self._of.append(chosen)
        return len(self._of) - 1

    def start(self) -> None:
        """Begin the load."""
        if self._due is None:
            for _ in range(min(self._load.concurrency, self._count)):
                self._connected(self._made(0.0))
            self._sleep.asleep = False
            self._poll(0.0)
        else:
            self._clock.at(self._due[0], self._timer)

    def _made(self, due: float) -> Request:
        load, index = self._load, self._next
        self._next += 1
        request = Request(index, due, load.rows[index % len(load.rows)], load.units[index % len(load.units)])
        self.requests.append(request)
        return request

    def arrive(self, request: Request) -> None:
        """An answer is there to be read."""
        self._ready.append(request)
        if self._sleep.asleep:
            self._wake()

    def _timer(self, _: None) -> None:
        if self._sleep.asleep:
            self._wake()

    def _wake(self) -> None:
        now = self._clock.now
        late, cost = self._sleep.end(now)
        self._clock.at(now + late, self._poll, cost)

    def _poll(self, cost: float) -> None:
        """One turn: read the answers that are there, then send what is due."""
        clock, cores, ready, sending = self._clock, self._cores, self._ready, self._to_send
        start = clock.now
        if self._due is not None:
            self._take_due(start)
        if not (ready or sending):
            if self._sleep.after_s:
                cost, self._sleep.after_s = self._sleep.after_s, 0.0
            else:
                self._rest(start)
                return
        self._ready, self._to_send = [], []
        stretch = 1.0 if self._first or not cores.speed else 1.0 / cores.speed
        each = self._receive_s * stretch
        time = start + cost * stretch
        for request in ready:
            time += each
            self._complete(request, time, sending)
        each = self._send_s * stretch
        for request in sending:
            time += each
            clock.at(time, self._of[request.connection].arrive, request)
        spent = cost + self._receive_s * len(ready) + self._send_s * len(sending)
        self.cpu_s += spent
        if self._first:
            cores.first(spent, self._poll, 0.0)
        else:
            cores.work(spent, 1.0, self._poll, 0.0)

    def _take_due(self, now: float) -> None:
        due = self._due
        assert due is not None  # noqa: S101 - for the type checker: the caller's branch
        stop = min(self._next + _BURST, self._count)
        while self._next < stop and due[self._next] <= now:
            self._connected(self._made(due[self._next]))

    def _connected(self, request: Request) -> None:
        """Give a request the connection that has been idle longest; a new one where none is."""
        request.connection = self._idle.popleft() if self._idle else self._new_connection()
        self._to_send.append(request)

    def _complete(self, request: Request, time: float, sending: list[Request]) -> None:
        jitter = self._jitter
        request.completed = time + jitter[int(self._random() * len(jitter))] if jitter else time
        self.left -= 1
        if self._due is None:
            if self._next < self._count:
                following = self._made(time)
                self._idle.append(request.connection)
                following.connection = self._idle.popleft()
                sending.append(following)
        else:
            self._idle.append(request.connection)

    def _rest(self, now: float) -> None:
        self._sleep.begin(now)
        if self._due is not None and self._next < self._count:
            self._clock.at(self._due[self._next], self._timer)
