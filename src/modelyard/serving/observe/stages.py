"""The stages of the requests just served: a ring of timestamps, and the slowest ones of the last minutes.

Written once per executed batch, beside the ledger. A timestamp is a reading of `perf_counter`; nothing is formatted or
exported before somebody asks or a request is sampled.
"""

from __future__ import annotations

from collections import deque
from heapq import heappush, heapreplace
from time import perf_counter, time
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from modelyard.serving.observe.context import TraceContext
from modelyard.serving.oip.plan import Interface

BATCHES_KEPT: Final = 256
SLOWEST_KEPT: Final = 16
SLOWEST_WINDOW_S: Final = 60.0
STAGES: Final = ("receive", "parse", "pre", "queue", "batch_wait", "infer", "post", "encode", "send")
_RECEIVED: Final = 0
_SENT: Final = 6
"""Where these stand in a member's tuple."""


class Member(NamedTuple):
    """One request of a batch: readings of `perf_counter`, and `pre_s` and `post_s`, the times of its steps.

    `received`: its first byte was read; `whole`: its last one was, and decoding began; `enqueued`: in the queue;
    `encoded`: its answer was rendered; `sent`: the kernel had it.
    """

    received: float
    whole: float
    enqueued: float
    pre_s: float
    post_s: float
    encoded: float
    sent: float
    id: str
    trace: TraceContext | None


class Execution(NamedTuple):
    """One executed batch and its requests. `free`: when the slot was free for it; `start`, `end` of the model's run."""

    interface: Interface
    rows: int
    free: float
    start: float
    end: float
    members: list[Member]
    error: str = ""


class Stages(msgspec.Struct):
    """One request as `/requests` shows it. Times in microseconds; `age_s` since its answer.

    `receive` from the first byte to the last, `parse` until it is queued, `queue` for the slot, `batch_wait` with the
    slot free, `pre`- and `post`-processing steps, `infer` (of its batch of `batch_rows` rows), `encode`, `send` to the
    kernel.
    """

    model: str
    version: int
    id: str
    trace_id: str
    batch_rows: int
    age_s: float
    total_us: float
    receive_us: float
    parse_us: float
    pre_us: float
    queue_us: float
    batch_wait_us: float
    infer_us: float
    post_us: float
    encode_us: float
    send_us: float
    error: str = ""


class Exporter(Protocol):
    """Where sampled requests go (`tracing.Tracer`)."""

    @property
    def active(self) -> bool:
        """Whether any span can leave."""
        ...

    def offer(self, entry: Any) -> None:
        """Take the sampled requests of a batch (`whole` gives it names); on the event loop, must not block."""
        ...


class Recorder:
    """The ring of a replica. Event-loop thread only."""

    __slots__ = ("_exporter", "_recent", "_slow_since", "_slowest", "_slowest_before")

    def __init__(self, exporter: Exporter | None = None) -> None:
        self._recent: deque[Any] = deque(maxlen=BATCHES_KEPT)
        self._exporter = exporter
        self._slowest: list[tuple[float, int, Execution, Member]] = []
        self._slowest_before = self._slowest
        self._slow_since = perf_counter()

    def record(
        self,
        interface: Interface,
        members: list[Any],
        rows: int,
        free: float,
        start: float,
        end: float,
        error: str = "",
    ) -> None:
        """Note what was executed together: `members` as `scheduling.work.member` makes them.

        Called after the answers are sent (both event loops write to a socket at once): this is in no request's latency.
        """
        # plain tuples in the order of Member and Execution: a third of the cost of making those
        entry: Any = (interface, rows, free, start, end, members, error)
        self._recent.append(entry)
        slowest = self._slowest
        if len(slowest) < SLOWEST_KEPT or members[-1][_SENT] - members[0][_RECEIVED] > slowest[0][0]:
            self._note_slow(entry)
        exporter = self._exporter
        if exporter is not None and exporter.active:
            exporter.offer(entry)

    def _note_slow(self, entry: Any) -> None:
        execution = whole(entry)
        now = execution.members[-1].sent
        if now - self._slow_since > SLOWEST_WINDOW_S:
            self._slowest_before, self._slowest = self._slowest, []
            self._slow_since = now
        slowest = self._slowest
        for member in execution.members:
            slow = (member.sent - member.received, id(member), execution, member)
            if len(slowest) < SLOWEST_KEPT:
                heappush(slowest, slow)
            elif slow[0] > slowest[0][0]:
                heapreplace(slowest, slow)

    def recent(self, most: int = 100) -> list[Stages]:
        """The last requests, newest first."""
        now = perf_counter()
        found: list[Stages] = []
        for entry in reversed(self._recent):
            execution = whole(entry)
            found += [stages(execution, member, now) for member in reversed(execution.members)]
            if len(found) >= most:
                break
        return found[:most]

    def slowest(self) -> list[Stages]:
        """The slowest requests of the last one to two minutes, slowest first."""
        now = perf_counter()
        entries = {entry[1]: entry for entry in (*self._slowest, *self._slowest_before)}.values()
        young = [e for e in entries if now - e[3].sent <= 2 * SLOWEST_WINDOW_S]
        young.sort(key=lambda entry: -entry[0])
        return [stages(execution, member, now) for _, _, execution, member in young[:SLOWEST_KEPT]]


def whole(entry: Any) -> Execution:
    """An entry of the ring with its names."""
    execution = Execution(*entry)
    return execution._replace(members=[Member(*member) for member in execution.members])


def stages(execution: Execution, member: Member, now: float) -> Stages:
    """A request's time, split."""
    queue, wait = waits(execution, member)
    return Stages(
        model=execution.interface.name,
        version=execution.interface.version,
        id=member.id,
        trace_id=member.trace.trace_id if member.trace else "",
        batch_rows=execution.rows,
        age_s=now - member.sent,
        total_us=_us(member.sent - member.received),
        receive_us=_us(member.whole - member.received),
        parse_us=_us(member.enqueued - member.whole - member.pre_s),
        pre_us=_us(member.pre_s),
        queue_us=_us(queue),
        batch_wait_us=_us(wait),
        infer_us=_us(execution.end - execution.start),
        post_us=_us(member.post_s),
        encode_us=_us(member.encoded - execution.end - member.post_s),
        send_us=_us(member.sent - member.encoded),
        error=execution.error,
    )


def bounds(entry: Any, member: Any) -> tuple[float, ...]:
    """When each of a request's STAGES began, and the last one ended; of an entry of the ring as it is."""
    _, _, free, start, end, _, _ = entry
    received, complete, enqueued, pre_s, post_s, encoded, sent, _, _ = member
    queued = min(max(free, enqueued), start)
    return received, complete, enqueued - pre_s, enqueued, queued, start, end, end + post_s, encoded, sent


def waits(execution: Execution, member: Member) -> tuple[float, float]:
    """How long a request waited for the slot, and then with the slot free, in seconds."""
    free = min(max(execution.free, member.enqueued), execution.start)
    return free - member.enqueued, execution.start - free


def _us(seconds: float) -> float:
    return round(max(seconds, 0.0) * 1e6, 1)


def unix_offset_s() -> float:
    """What to add to a reading of `perf_counter` to get seconds since 1970."""
    return time() - perf_counter()


def snapshot(recorder: Recorder) -> dict[str, Any]:
    """`GET /requests`."""
    return {"schema": 2, "recent": recorder.recent(), "slowest": recorder.slowest()}
