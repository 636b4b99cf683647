"""A simulated replica: an event loop in turns, the server's own `Scheduler`, and slots that run batches.

As in `modelyard.serving`: a turn of the loop reads every request that has arrived, then runs the next batch (a cheap
one right there, others on a slot's thread), renders its answers and writes them all at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from modelyard.domain.batching import INLINE_BELOW_S, LatencyModel
from modelyard.domain.latency import Overhead, Path, ProtocolCost
from modelyard.domain.scheduling import Batch, Scheduler
from modelyard.tune.simulator.cores import Clock, Cores, Handler
from modelyard.tune.simulator.quota import Quota
from modelyard.tune.simulator.service import Load, Run, SimulatedService

READ_SHARE: Final = 0.4
"""Of a request's CPU on the server: receiving, parsing and queueing it."""
RENDER_SHARE: Final = 0.2
"""Rendering its answer. What is left writes it to the socket."""
RESTED_S: Final = 2e-3
"""A pause after which a run is as slow as after any longer one."""
_TICK_S: Final = 5e-3
"""Longer waits for more rows take the loop's timers, which count in milliseconds (`serving.scheduling.executor`)."""
_PRIMED: Final = 3
"""Executions of each batch size before the load, so that the latency is learned as after the server's warm-up."""


class Request:
    """One simulated request; what `domain.scheduling.Waiting` asks for, and its times in seconds."""

    __slots__ = (
        "cancelled", "completed", "connection", "deadline", "due", "enqueued", "index", "ok", "priority", "received",
        "rows", "shape_key", "timeout_s",
    )  # fmt: skip

    def __init__(self, index: int, due: float, rows: int, units: int) -> None:
        self.index = index
        self.due = due
        self.rows = rows
        self.shape_key = units
        self.priority = 0
        self.timeout_s: float | None = None
        self.received = self.enqueued = self.deadline = self.completed = 0.0
        self.cancelled = False
        self.ok = True
        self.connection = 0


@dataclass(slots=True)
class Tally:
    """What is counted over all replicas: CPU seconds, executed batches and their rows; executions under way now."""

    cpu_s: float = 0.0
    batches: int = 0
    rows: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True)
class Scene:
    """What the replicas and the client of one simulation share."""

    clock: Clock
    service: SimulatedService
    load: Load
    overhead: Overhead
    path: Path
    rng: Random
    tally: Tally


class Sleep:
    """How an event loop falls asleep and wakes up: the latency and the CPU that it takes, by how long it slept."""

    __slots__ = ("_before", "_cold_s", "_hop_s", "_longer_s", "_path", "_wake_s", "after_s", "asleep", "since")

    def __init__(self, path: Path, costs: ProtocolCost) -> None:
        self._path, self._before = path, path.before
        self._hop_s, self._longer_s = path.hop_s, path.long_hop_s - path.hop_s
        self._wake_s, self._cold_s = costs.wake_s, costs.cold_s
        self.asleep, self.since = True, -1.0
        self.after_s = 0.0
        """CPU seconds of the present waking that are spent once there is nothing else to do."""

    def begin(self, now: float) -> None:
        """Fall asleep."""
        self.asleep, self.since = True, now

    def end(self, now: float) -> tuple[float, float]:
        """Wake up: seconds until it runs, and CPU seconds that it then spends first."""
        self.asleep = False
        deep = self._path.depth(now - self.since)
        cold = deep * self._cold_s
        self.after_s += (1.0 - self._before) * cold
        return self._hop_s + deep * self._longer_s, self._wake_s + self._before * cold


class Replica:
    """One replica on its cores. `deliver(request)` is called when an answer reaches the client's machine."""

    def __init__(self, scene: Scene, cores: Cores, deliver: Callable[[Request], None]) -> None:
        service, load, server = scene.service, scene.load, scene.path.server
        self._clock, self._cores, self._times, self._tally = scene.clock, cores, service.times, scene.tally
        self._random, self._deliver = scene.rng.random, deliver
        self._read_s = server.request_s * READ_SHARE + server.in_s * load.request_bytes
        self._render_s = server.request_s * RENDER_SHARE
        self._write_s = server.request_s * (1 - READ_SHARE - RENDER_SHARE) + server.out_s * load.answer_bytes
        self._batch_s, self._sleep = server.batch_s, Sleep(scene.path, server)
        self._handover_s, self._child_s = scene.overhead.handover_s, scene.overhead.child_s
        self._longer_s = max(0.0, scene.overhead.long_handover_s - self._handover_s)
        self._path = scene.path
        units = service.curve_units
        self._per_unit = 1.0 if units is None else 1.0 / units
        self._ragged = units is not None
        self.scheduler: Scheduler[Request] = Scheduler(
            service.batching, service.queue, LatencyModel(), service.slots, int if units is not None else None
        )
        self._delayed, self._most = service.batching.max_delay_us > 0, service.batching.max_size
        self._free = service.slots
        self._quota = None if service.cpu_limit is None else Quota(service.cpu_limit)
        self._inbox: list[Request] = []
        self._back: list[tuple[Batch[Request], float]] = []
        self._armed = self._awaiting = False
        self._timer = 0
        self._ran_at, self._idle_s = -1.0, service.times.idle_s
        self._prime()

    def _prime(self) -> None:
        size = 1
        while size <= self._most:
            for _ in range(_PRIMED):
                units = max(1, round(size / self._per_unit))
                self.scheduler.learn(units, self._times.run(size).wall_s)
            size *= 2

    # --- the loop

    def arrive(self, request: Request) -> None:
        """A request is there to be read."""
        self._inbox.append(request)
        if self._sleep.asleep:
            now = self._clock.now
            late, cost = self._sleep.end(now)
            self._clock.at(now + late, self._poll, cost)

    def _rouse(self) -> None:
        """Wake up for a slot or a timer, whose latency is counted elsewhere."""
        if self._sleep.asleep:
            self._poll(self._sleep.end(self._clock.now)[1])

    def _poll(self, cost: float) -> None:
        """Read what has arrived; sleep where there is nothing to do."""
        inbox, self._inbox = self._inbox, []
        if inbox:
            cost += self._read_s * len(inbox)
        elif not (self._armed or self._back):
            if self._sleep.after_s:
                cost, self._sleep.after_s = self._sleep.after_s, 0.0
            else:
                self._sleep.begin(self._clock.now)
                return
        self._tally.cpu_s += cost
        self._work(cost, 1.0, self._turn, inbox)

    def _turn(self, inbox: list[Request]) -> None:
        """Queue what was read, take back what the slots have done, run the next batch."""
        now, scheduler = self._clock.now, self.scheduler
        answers: list[Request] = []
        for request in inbox:
            request.received = now
            if scheduler.offer(request, now) is not None:
                request.ok = False
                answers.append(request)
            elif self._free and not self._armed:
                self._enqueued()
        if self._back:
            answers += self._take_back(now)
        inline = self._run_next(now) if self._armed else None
        if scheduler.dropped:
            answers += self._dropped()
        cost = self._render_s * len(answers)
        if inline is not None:
            self._run_inline(inline, answers, cost)
        elif answers:
            self._tally.cpu_s += cost
            self._work(cost, 1.0, self._write, answers)
        else:
            self._poll(0.0)

    def _enqueued(self) -> None:
        if self._awaiting:
            if self._delayed and self.scheduler.rows < self._most:
                return
            self._awaiting = False
            self._timer += 1
        self._armed = True

    def _dropped(self) -> list[Request]:
        dropped = [request for request, _ in self.scheduler.dropped]
        self.scheduler.dropped.clear()
        for request in dropped:
            request.ok = False
        return dropped

    def _write(self, answers: list[Request]) -> None:
        clock, cores, each = self._clock, self._cores, self._write_s
        stretched = each / cores.speed if cores.speed else each
        time = clock.now
        for request in answers:
            time += stretched
            clock.at(time, self._deliver, request)
        cost = each * len(answers)
        self._tally.cpu_s += cost
        self._work(cost, 1.0, self._poll, 0.0)

    def _work(self, seconds: float, width: float, handler: Handler, argument: Any) -> None:
        """Do work of this replica on the cores, under its cap."""
        if self._quota is not None:
            now = self._clock.now
            stall = self._quota.stall_s(now, seconds, width)
            if stall > 0.0:
                self._clock.at(now + stall, self._stalled, (seconds, width, handler, argument))
                return
        self._cores.work(seconds, width, handler, argument)

    def _stalled(self, what: tuple[float, float, Handler, Any]) -> None:
        self._cores.work(*what)

    # --- batches

    def _run_next(self, now: float) -> Batch[Request] | None:
        """Start batches on slots; the one to be run on the loop itself, if there is one."""
        self._armed = False
        scheduler, times = self.scheduler, self._times
        while self._free and scheduler.rows:
            step = scheduler.next(now)
            if step is None:
                return None
            if not isinstance(step, Batch):
                self._await(step, now)
                return None
            if times.inside and step.predicted_s < INLINE_BELOW_S:
                self._armed = scheduler.rows > 0
                return step
            self._start(step)
        return None

    def _draw(self, batch: Batch[Request], now: float) -> tuple[float, Run]:
        """Wall seconds of a run without contention for cores, and its size's figures."""
        units = max(1, round(batch.units * self._per_unit)) if self._ragged else batch.rows
        run, tally = self._times.run(units), self._tally
        walls = run.walls_s
        wall = walls[int(self._random() * len(walls))]
        slow = self._times.slowdown
        if tally.running and len(slow) > 1:
            wall *= slow[min(tally.running, len(slow) - 1)]
        if run.rested_s:
            wall += run.rested_s * min(1.0, (now - self._ran_at) / RESTED_S)
        if self._idle_s and self._sleep.since >= self._ran_at:
            idle = max(self._idle_s, -wall / 2)
            wall += idle
            self._sleep.after_s -= min(idle, 0.0)  # the work is not less, only later
        tally.batches += 1
        tally.rows += batch.rows
        tally.running += 1
        return wall, run

    def _run_inline(self, batch: Batch[Request], answers: list[Request], cost: float) -> None:
        wall, run = self._draw(batch, self._clock.now)
        loop = cost + self._batch_s + self._render_s * len(batch.items)
        self._tally.cpu_s += loop + wall * run.width
        self._work(loop + wall, max(1.0, run.width), self._ran, (batch, answers, wall))

    def _ran(self, what: tuple[Batch[Request], list[Request], float]) -> None:
        batch, answers, wall = what
        self._tally.running -= 1
        self._ran_at = now = self._clock.now
        self.scheduler.finished(batch, now)
        self.scheduler.learn(batch.units, wall)
        answers += batch.items
        self._write(answers)

    def _start(self, batch: Batch[Request]) -> None:
        self._free -= 1
        self._clock.at(self._clock.now + self._handover_s, self._begin, batch)

    def _begin(self, batch: Batch[Request]) -> None:
        now = self._clock.now
        wall, run = self._draw(batch, now)
        if not self._times.inside:
            wall += self._child_s
        self._tally.cpu_s += wall * run.width + self._batch_s + 2.0 * self._handover_s
        self._work(wall, run.width, self._ended, (batch, now))

    def _ended(self, what: tuple[Batch[Request], float]) -> None:
        batch, began = what
        self._tally.running -= 1
        self._ran_at = now = self._clock.now
        late = self._handover_s
        if self._longer_s and self._sleep.asleep:
            late += self._longer_s * self._path.depth(now - self._sleep.since)
        self._clock.at(now + late, self._done, (batch, now - began))

    def _done(self, what: tuple[Batch[Request], float]) -> None:
        self._back.append(what)
        self._rouse()

    def _take_back(self, now: float) -> list[Request]:
        answers: list[Request] = []
        for batch, seconds in self._back:
            self._free += 1
            self.scheduler.finished(batch, now)
            self.scheduler.learn(batch.units, seconds)
            answers += batch.items
        self._back = []
        self._armed = self.scheduler.rows > 0
        return answers

    def _await(self, until: float, now: float) -> None:
        self._awaiting = True
        self._timer += 1
        late = 5e-4 if until - now >= _TICK_S else 0.0
        self._clock.at(until + late, self._waited, self._timer)

    def _waited(self, timer: int) -> None:
        if self._awaiting and timer == self._timer:
            self._awaiting = False
            self._armed = True
            self._rouse()
