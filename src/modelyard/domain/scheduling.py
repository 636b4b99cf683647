"""The queue of one model as a state machine: who is admitted, what runs next, who waits, who is dropped.

Driven from outside: by the server's executor with its event loop and clock, by the tuner's simulator with a simulated
clock. No clock, no I/O, no threads; every call gets `now`, seconds of one monotonic clock, never decreasing. The same
calls give the same answers.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Hashable, Iterator
from operator import attrgetter
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from modelyard.domain.batching import Arrivals, LatencyModel, Refusal, most_rows, waiting_pays
from modelyard.domain.configuration import Batching, QueuePolicy

PASSED_OVER: Final = 16
"""A waiting lower priority gets every so manieth batch at least: strict priority would let it starve."""
TRAINING_ROWS: Final = 256
"""Rows that may wait while the model's latency is not learned yet (or 8 full batches, if that is more)."""
SLO_SHARE: Final = 0.75
"""A request is admitted if its predicted latency is within this share of the SLO; the rest is for what predictions
cannot know. Less costs no goodput while full batches wait (with 0.9, on a machine whose cores others use at the same
time, a sixth of what was admitted came too late)."""
SHORTEST_LIMIT_S: Final = 0.01
"""An SLO drops nothing that has waited less: a turn of a busy loop takes that long, and a model that can keep no SLO is
still to answer those who need not queue."""
_GAP_WEIGHT: Final = 1 / 16
_LEAST_SHARE: Final = 1 / (PASSED_OVER + 1)
_deadline = attrgetter("deadline")


class Waiting(Protocol):
    """What the scheduler reads of a request, and the two fields that it writes: `deadline` and `enqueued`.

    `priority`: 1 is first, 0 where the request names none. `timeout_s`: how long it may wait for its execution, from
    `received` on; None for the queue's own bound. `shape_key` decides with what it can be joined. A `cancelled`
    request is removed when the scheduler comes across it.
    """

    rows: int
    shape_key: Any
    priority: int
    timeout_s: float | None
    received: float
    enqueued: float
    deadline: float
    cancelled: bool


T = TypeVar("T", bound=Waiting)


class Refused(NamedTuple):
    """Not admitted, and why; trying again in `retry_after_s` may work."""

    refusal: Refusal
    retry_after_s: float


class Batch(Generic[T]):
    """Requests to be executed together now. `units` is what the latency is learned on; `predicted_s` its latency."""

    __slots__ = ("items", "predicted_s", "rows", "started", "units")

    def __init__(self, items: list[T], rows: int, units: int, started: float, predicted_s: float) -> None:
        self.items = items
        self.rows = rows
        self.units = units
        self.started = started
        self.predicted_s = predicted_s


class Group(Generic[T]):
    """Waiting requests of one shape and priority, earliest deadline first."""

    __slots__ = ("key", "most", "queue", "row_cost", "rows")

    def __init__(self, key: Hashable, row_cost: int, most: int) -> None:
        self.key = key
        self.queue: list[T] = []
        self.rows = 0
        self.row_cost = row_cost
        self.most = most
        """Rows of a full batch."""


class Level(Generic[T]):
    """One priority's waiting requests, by shape.

    `passed`: batches of higher priorities since its last. `share`: what it got lately of the batches formed while it
    waited, as higher priorities take their part first.
    """

    __slots__ = ("groups", "passed", "rows", "share")

    def __init__(self) -> None:
        self.groups: dict[Hashable, Group[T]] = {}
        self.rows = 0
        self.passed = 0
        self.share = 1.0


class Scheduler(Generic[T]):
    """One model's queue and its executions. Not thread-safe: one caller at a time.

    Order: priorities strictly (but see `PASSED_OVER`), earliest deadline first within a priority (Liu and Layland,
    1973, J. ACM 20(1)), one shape per batch; a batch with room left takes requests of the same shape from lower
    priorities. `slots` batches run at the same time.
    """

    def __init__(
        self,
        batching: Batching,
        policy: QueuePolicy,
        cost: LatencyModel,
        slots: int = 1,
        row_cost: Callable[[Any], int] | None = None,
    ) -> None:
        self.batching = batching
        self.policy = policy
        self.cost = cost
        self.slots = slots
        self.held = 0
        """Requests admitted and neither taken into a batch nor dropped, those not enqueued yet included."""
        self.rows = 0
        """Rows enqueued; a request has at least one."""
        self.running: list[Batch[T]] = []
        self.dropped: list[tuple[T, Refusal]] = []
        """Requests that were admitted and will not run, for the driver to answer and clear: expired or evicted."""
        self.arrivals = Arrivals()
        self.levels: tuple[Level[T], ...] = tuple(Level() for _ in range(policy.priorities))
        self._default = self.levels[policy.default_level - 1]
        self._row_cost = row_cost
        self._units = 0
        self._slo_s = float("inf") if policy.slo_ms is None else policy.slo_ms * 1e-3
        self._limit_s = min(policy.max_wait_s, max(self._slo_s, SHORTEST_LIMIT_S))
        self._max_requests = policy.max_requests
        self._max_rows = most_rows(batching, 1) if row_cost is None else batching.max_size
        self._delay_s = batching.max_delay_us * 1e-6
        # where shapes vary, the next arrival may not fit the batch that waits for it
        one_shape = row_cost is None and batching.max_size > 1
        self._adapts = one_shape and policy.slo_ms is not None and batching.max_delay_us == 0
        self._waits = self._adapts or self._delay_s > 0.0
        self._lapse_s = 0.0
        self._idle_since: float | None = None

    @property
    def units(self) -> int:
        """Cost of the rows enqueued."""
        return self.rows if self._row_cost is None else self._units

    # --- arrival

    def offer(self, item: T, now: float, *, admitted: bool = False) -> Refused | None:
        """Admit and enqueue a request, or say why not. An admitted one may evict another (`dropped`)."""
        if not admitted:  # as in `admit`: a call less for every request
            timeout, limit = item.timeout_s, self._limit_s
            item.deadline = item.received + (limit if timeout is None or timeout > limit else timeout)
            if self.rows >= self._max_rows or self.held >= self._max_requests or (timeout is not None and self.running):
                refused = self._check(item, now)
                if refused is not None:
                    return refused
            self.held += 1
        if not self.rows:
            self._idle_since = None  # since the last execution everything left: the pause is the callers', not ours
        item.enqueued = now
        priority, rows, key = item.priority, item.rows, item.shape_key
        level = self._default if priority == 0 else self._level(priority)
        group = level.groups.get(key)
        if group is None:
            group = self._new_group(level, key)
        queue = group.queue
        if queue and item.deadline < queue[-1].deadline:
            insort(queue, item, key=_deadline)
        else:
            queue.append(item)
        group.rows += rows
        level.rows += rows
        self.rows += rows
        if self._row_cost is not None:
            self._units += rows * group.row_cost
        if self._adapts:
            self.arrivals.observe(now)
        return None

    def admit(self, item: T, now: float) -> Refused | None:
        """Admit a request that `enqueue` or `withdraw` follows.

        A request that need not wait is always admitted, and one that fits into the very next batch is, unless its own
        deadline comes first: so no wrong prediction can shut a model off from the executions that would correct it.
        Others are refused when the queue is full (after evicting a request of lower priority, if there is one), or
        when the predicted start is after their deadline or the predicted end after their SLO. Before the model's
        latency is learned only the number of waiting rows decides.
        """
        timeout, limit = item.timeout_s, self._limit_s
        item.deadline = item.received + (limit if timeout is None or timeout > limit else timeout)
        if self.rows >= self._max_rows or self.held >= self._max_requests or (timeout is not None and self.running):
            refused = self._check(item, now)
            if refused is not None:
                return refused
        self.held += 1
        return None

    def withdraw(self) -> None:
        """A request that was admitted and not enqueued will not come."""
        self.held -= 1

    def enqueue(self, item: T, now: float) -> None:
        """Queue an admitted request."""
        self.offer(item, now, admitted=True)

    def _level(self, priority: int) -> Level[T]:
        """Priorities beyond the lowest are the lowest."""
        return self.levels[min(priority, len(self.levels)) - 1]

    def _new_group(self, level: Level[T], key: Hashable) -> Group[T]:
        for old in [k for k, g in level.groups.items() if not g.queue]:
            del level.groups[old]
        row_cost = 1 if self._row_cost is None else self._row_cost(key)
        group = level.groups[key] = Group[T](key, row_cost, most_rows(self.batching, row_cost))
        return group

    # --- admission

    def _check(self, item: T, now: float) -> Refused | None:
        level = self._default if item.priority == 0 else self._level(item.priority)
        start, end = self._predict(item, level, now)
        if self.cost.trained:
            own = item.timeout_s
            late = start - item.deadline if own is not None or self.rows >= self._max_rows else 0.0
            if self.rows >= self._max_rows:
                late = max(late, end - item.received - SLO_SHARE * self._slo_s)
            if late > 0.0:
                return Refused(Refusal.WAIT_TOO_LONG, max(late, 1e-3))
        elif self.rows >= max(TRAINING_ROWS, 8 * self._max_rows):
            return Refused(Refusal.QUEUE_FULL, max(end - now, 1e-3))
        if self.held >= self._max_requests and not self._evict(level):
            return Refused(Refusal.QUEUE_FULL, self.drain_s(now))
        return None

    def _predict(self, item: T, level: Level[T], now: float) -> tuple[float, float]:
        """When a request would start and end if it were admitted now."""
        ahead = 0
        for other in self.levels:
            if other is level:
                break
            ahead += other.rows
        ahead += round(self._rows_before(item, level) / max(level.share, _LEAST_SHARE))
        per_row = self.units / self.rows if self.rows else 1.0
        most = self._full_rows(per_row)
        full, rest = divmod(ahead, most)
        cost = self.cost
        batch = cost.predict(round(most * per_row)) + self._lapse_s
        start = now + self.free_in_s(now) + full * batch / max(self.slots, 1)  # 0 while a hung instance is replaced
        return start, start + cost.predict(round(min(rest + item.rows, most) * per_row))

    def _rows_before(self, item: T, level: Level[T]) -> int:
        """Rows of the same priority that would run before the request, by deadline."""
        group = level.groups.get(item.shape_key)
        if group is None or not group.queue or item.deadline >= group.queue[-1].deadline:
            return level.rows
        place = bisect_right(group.queue, item.deadline, key=_deadline)
        return level.rows * place // len(group.queue)

    def _full_rows(self, per_row: float) -> int:
        most = self.batching.max_size
        if self.batching.max_cost is not None:
            most = max(1, min(most, int(self.batching.max_cost / per_row)))
        return most

    def free_in_s(self, now: float) -> float:
        """Predicted seconds until a slot is free.

        An execution that takes longer than predicted is expected to take as long again as it is late.
        """
        if len(self.running) < self.slots:
            return 0.0
        return min((abs(b.started + b.predicted_s - now) for b in self.running), default=0.0)

    def drain_s(self, now: float) -> float:
        """Predicted seconds until all that waits has been executed; at least a millisecond."""
        if not self.rows:
            return max(self.free_in_s(now), 1e-3)
        per_row = self.units / self.rows
        most = self._full_rows(per_row)
        full, rest = divmod(self.rows, most)
        seconds = full * (self.cost.predict(round(most * per_row)) + self._lapse_s)
        if rest:
            seconds += self.cost.predict(round(rest * per_row)) + self._lapse_s
        return max(self.free_in_s(now) + seconds / max(self.slots, 1), 1e-3)

    def _evict(self, level: Level[T]) -> bool:
        """Make room for a request of `level`: drop the one of the lowest priority below it that would run last."""
        for lower in reversed(self.levels):
            if lower is level:
                return False
            if not lower.rows:
                continue
            group = max((g for g in lower.groups.values() if g.queue), key=lambda g: g.queue[-1].deadline)
            victim = group.queue.pop()
            self._removed(lower, group, victim.rows)
            self.held -= 1
            if not victim.cancelled:
                self.dropped.append((victim, Refusal.EVICTED))
            return True
        return False

    # --- batches

    def next(self, now: float) -> Batch[T] | float | None:
        """What to do now: run this batch, ask again at that time (or after the next arrival), or nothing.

        Requests whose deadline has passed are dropped, never run. `finished` must follow each batch.
        """
        if not self.rows or len(self.running) >= self.slots:
            return None
        chosen: Level[T] | None = None
        for level in self.levels:
            if level.rows:
                if chosen is None:
                    chosen = level
                elif level.passed >= PASSED_OVER:
                    chosen = level
                    break
        assert chosen is not None  # noqa: S101 - for the type checker: something is queued
        groups = chosen.groups
        if self._waits:
            found = self._ripe(chosen, now)
            if not isinstance(found, Group):
                return found
            group = found
        elif len(groups) == 1:
            (group,) = groups.values()
        else:
            group = min((g for g in groups.values() if g.queue), key=lambda g: g.queue[0].deadline)
        batch = self._form(chosen, group, now)
        if batch is None:
            self.expire(now)  # all groups at once: of a ragged model there may be a thousand
            return self.next(now) if self.rows else None
        return batch

    def _ripe(self, level: Level[T], now: float) -> Group[T] | float | None:
        """The group to run now, by deadline, else the earliest time at which one is."""
        earliest = float("inf")
        for group in sorted((g for g in level.groups.values() if g.queue), key=lambda g: g.queue[0].deadline):
            until = self._await_until(level, group, now)
            if until <= now:
                return group
            earliest = min(earliest, until)
        return earliest if earliest < float("inf") else None

    def _await_until(self, level: Level[T], group: Group[T], now: float) -> float:
        """Until when a free slot awaits more rows for this group; not after `now`: start it.

        With a fixed delay: until the oldest request is that old, those of lower priorities included: a newcomer that
        goes before them must not make them wait anew. With an SLO: while `waiting_pays`, for two mean gaps
        after the latest arrival at most (an arrival process that stopped is not waited for), only in the first half of
        the SLO, and only if nothing else waits. Never so long that a deadline passes.
        """
        joinable = group.rows
        if self.rows > joinable:
            joinable = sum(g.rows for level in self.levels if (g := level.groups.get(group.key)) is not None)
        if joinable >= group.most:
            return now
        queue = group.queue
        head = queue[0]
        own = self.cost.predict(group.rows * group.row_cost)
        if self._delay_s > 0.0:
            until = min(item.enqueued for item in queue) + self._delay_s
            if self.rows != level.rows:
                until = min(until, self._lower_until(level, group, own))
        else:
            arrivals = self.arrivals
            cost = self.cost
            alone = self.rows == group.rows
            if not (alone and cost.trained and cost.sloped and waiting_pays(len(queue), arrivals.gap_s, cost.b)):
                return now
            until = arrivals.last_s + 2.0 * arrivals.gap_s
            until = min(until, min(item.received for item in queue) + 0.5 * self._slo_s - own)
        return min(until, head.deadline - own)

    def _lower_until(self, level: Level[T], group: Group[T], own_s: float) -> float:
        """Until when the requests of lower priorities can wait for a group of `level` that takes `own_s` to run."""
        until = float("inf")
        for lower in self.levels[self.levels.index(level) + 1 :]:
            for other in lower.groups.values():
                if other.queue:
                    aged = min(item.enqueued for item in other.queue) + self._delay_s
                    before = 0.0 if other.key == group.key else own_s  # of another shape it runs after the group
                    lapses = other.queue[0].deadline - self.cost.predict(other.rows * other.row_cost) - before
                    until = min(until, aged, lapses)
        return until

    def _form(self, level: Level[T], group: Group[T], now: float) -> Batch[T] | None:
        """Take the next batch from a group, with room left also from lower priorities; None if all had expired."""
        items: list[T] = []
        rows = self._take(level, group, items, 0, now)
        if not rows:
            return None
        level.passed = 0
        if level.share < 1.0:
            level.share += _GAP_WEIGHT * (1.0 - level.share)
        if self.rows != level.rows:
            rows = self._fill(level, group, items, rows, now)
        units = rows * group.row_cost
        batch = Batch(items, rows, units, now, self.cost.predict(units))
        self.running.append(batch)
        idle = self._idle_since
        if idle is not None:
            self._lapse_s += _GAP_WEIGHT * (now - idle - self._lapse_s)
            self._idle_since = None
        return batch

    def _fill(self, level: Level[T], group: Group[T], items: list[T], rows: int, now: float) -> int:
        """Give what room a batch has left to lower priorities; count it where one got none."""
        for lower in self.levels[self.levels.index(level) + 1 :]:
            if lower.rows:
                other, before = lower.groups.get(group.key), rows
                if other is not None and rows < group.most:
                    rows = self._take(lower, other, items, rows, now)
                lower.passed = 0 if rows > before else lower.passed + 1
                lower.share += _GAP_WEIGHT * ((rows - before) / rows - lower.share)
        return rows

    def _take(self, level: Level[T], group: Group[T], items: list[T], rows: int, now: float) -> int:
        """Move the head of a group that fits into a batch of `rows` rows; the batch's rows then."""
        queue, most = group.queue, group.most
        count = gone = 0
        before = rows
        for item in queue:
            if item.cancelled or item.deadline < now:
                gone += item.rows
                if not item.cancelled:
                    self.dropped.append((item, Refusal.EXPIRED))
            elif rows + item.rows <= most or not rows:  # never split: one that alone is too large runs alone
                items.append(item)
                rows += item.rows
            else:
                break
            count += 1
        if count == len(queue):
            queue.clear()
        else:
            del queue[:count]
        self.held -= count
        self._removed(level, group, gone + rows - before)
        return rows

    def _removed(self, level: Level[T], group: Group[T], rows: int) -> None:
        group.rows -= rows
        level.rows -= rows
        self.rows -= rows
        if self._row_cost is not None:
            self._units -= rows * group.row_cost

    # --- executions

    def learn(self, units: int, seconds: float) -> None:
        """An execution of `units` took so long."""
        self.cost.observe(units, seconds)

    def finished(self, batch: Batch[T], now: float) -> None:
        """A batch's slot is free again, whatever became of it."""
        self.running.remove(batch)
        self._idle_since = now if self.rows else None

    def expire(self, now: float) -> None:
        """Drop every waiting request whose deadline has passed or that was cancelled."""
        for level in self.levels:
            if not level.rows:
                continue
            for group in level.groups.values():
                kept = [item for item in group.queue if not (item.cancelled or item.deadline < now)]
                if len(kept) == len(group.queue):
                    continue
                rows = 0
                for item in group.queue:
                    if item.cancelled or item.deadline < now:
                        rows += item.rows
                        if not item.cancelled:
                            self.dropped.append((item, Refusal.EXPIRED))
                count = len(group.queue) - len(kept)
                group.queue = kept
                self.held -= count
                self._removed(level, group, rows)

    def waiting(self) -> Iterator[T]:
        """Every queued request, in no particular order."""
        for level in self.levels:
            for group in level.groups.values():
                yield from group.queue
