"""Responses kept for equal requests, and equal requests in flight that share one execution. Both off by default.

Only for models that are pure functions of their input. A request's key is a digest of its input tensors; each version
has a cache of its own, and which outputs are wanted, and in which form, is decided when an answer is rendered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from time import perf_counter
from typing import Any, Final

import numpy as np

from modelyard.domain.errors import BackendFailed, ModelyardError, Unavailable
from modelyard.domain.tensors import Tensor
from modelyard.serving.scheduling.work import Work, member

_log = logging.getLogger(__name__)

_ENTRY_BYTES: Final = 512
"""What an entry costs besides its arrays, about."""
_DIGEST_HERE_BYTES: Final = 64 * 1024
"""Inputs up to this are digested on the event loop, in 60 us at most (BLAKE2b: 1.05 GB/s; one of 16 MiB would hold it
for 16 ms). XXH3 is faster, but with it a client could make two inputs of one key, and so spoil what others get."""
_STRING_COST: Final = 320
"""Bytes that are digested while one more string is looked at."""
_FEW_FLYING: Final = 64
"""More requests in flight than this are looked through for those whose clients left, whenever they have doubled."""


class Responses:
    """The cache and the requests in flight of one model version. Event-loop thread only.

    `accept` queues a request or raises; `note` is told of every answer without an execution of its own
    (`Answering.note`). The least recently used responses go first when `cache_bytes` are exceeded.
    """

    def __init__(
        self,
        accept: Callable[[Work], None],
        note: Callable[[tuple[Any, ...], int, float, float], None],
        loop: asyncio.AbstractEventLoop,
        cache_bytes: int,
        *,
        coalesce: bool,
    ) -> None:
        self._accept = accept
        self._note = note
        self._loop = loop
        self._most_bytes = cache_bytes
        self._coalesce = coalesce
        self._kept: OrderedDict[bytes, tuple[list[Tensor], int, int]] = OrderedDict()
        self._flying: dict[bytes, Shared] = {}
        self._most_flying = _FEW_FLYING
        self._thread: ThreadPoolExecutor | None = None
        self.digesting = 0
        """Large requests whose key is being made in the thread: accepted, and in no queue yet."""
        self.hits = 0
        """Requests answered from the cache."""
        self.misses = 0
        """Requests that were looked up and not found."""
        self.coalesced = 0
        """Requests that shared another's execution."""
        self.bytes = 0
        """Memory of what is kept."""

    def submit(self, work: Work) -> None:
        """Answer from the cache, join an equal request in flight, or queue the request. Raises what `accept` raises.

        A large request is told later what `accept` raised, as its key is made in a thread.
        """
        if sum(map(_cost, work.tensors)) <= _DIGEST_HERE_BYTES:
            self._look_up(work, digest(work))
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "digest")
        try:
            self._thread.submit(self._digest, work)
        except RuntimeError as error:
            self._thread = None  # the request is in its queue all the same: nobody may come to it later
            raise Unavailable(
                "the request cannot be looked up in the cache",
                why=str(error),
                hint="the system's limit of threads is reached: retry later, or raise it",
            ) from error
        self.digesting += 1

    def _digest(self, work: Work) -> None:
        """In the thread."""
        key: bytes | ModelyardError
        try:
            key = digest(work)
        except Exception:  # noqa: BLE001 - boundary of a thread; out of memory
            _log.exception("the key of a request could not be made")
            key = BackendFailed("the request could not be looked up in the cache")
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._digested, work, key)

    def _digested(self, work: Work, key: bytes | ModelyardError) -> None:
        self.digesting -= 1
        if work.cancelled:
            return
        if isinstance(key, ModelyardError):
            _fail(work, key)
            return
        try:
            self._look_up(work, key)
        except ModelyardError as error:
            _fail(work, error)

    def _look_up(self, work: Work, key: bytes) -> None:
        if self._most_bytes:
            found = self._kept.get(key)
            if found is not None:
                self.hits += 1
                self._kept.move_to_end(key)
                work.enqueued = perf_counter()
                self._loop.call_soon(self.answer, work, found[0], 0, found[1])
                return
            self.misses += 1
        flying = self._flying.get(key) if self._coalesce else None
        if flying is not None and not flying.cancelled and flying.serves(work):
            flying.join(work)
            self.coalesced += 1
            return
        shared = Shared(work, key, self)
        self._accept(shared)
        if self._coalesce:
            self._flying[key] = shared
            if len(self._flying) > self._most_flying:
                self._forget_abandoned()

    def _forget_abandoned(self) -> None:
        """Let go of executions that nobody waits for any more: they may have been dropped without a word."""
        self._flying = {key: shared for key, shared in self._flying.items() if not shared.cancelled}
        self._most_flying = max(_FEW_FLYING, 2 * len(self._flying))

    def landed(self, shared: Shared) -> None:
        """An execution is over, well or not."""
        if self._flying.get(shared.key) is shared:
            del self._flying[shared.key]

    def keep(self, key: bytes, outputs: list[Tensor], start: int, stop: int, *, batched: bool) -> None:
        """Remember a response."""
        if not self._most_bytes or key in self._kept:
            return
        mine = [(o[start:stop] if batched else o).copy() for o in outputs]
        size = sum(_bytes(o) for o in mine) + _ENTRY_BYTES
        if size > self._most_bytes:
            return
        self._kept[key] = (mine, stop - start, size)
        self.bytes += size
        while self.bytes > self._most_bytes:
            _, (_, _, old) = self._kept.popitem(last=False)
            self.bytes -= old

    def answer(self, work: Work, outputs: list[Tensor], start: int, stop: int) -> None:
        """Answer a request with what it did not have executed for itself."""
        if work.cancelled:
            return
        told, began = member(work, 0.0, 0.0), perf_counter()
        rendered = _reply(work, outputs, start, stop)
        if rendered is None:
            work.later(partial(self._note, told, work.rows, began))
        else:
            self._note(told, work.rows, began, rendered)

    def again(self, works: list[Work]) -> None:
        """Requests whose shared execution was refused or expired are queued on their own."""
        for work in works:
            try:
                self.submit(work)
            except ModelyardError as error:
                _fail(work, error)


class Shared(Work):
    """What is queued for one or several equal requests."""

    __slots__ = ("_gone", "_late", "_responses", "key", "members")

    def __init__(self, first: Work, key: bytes, responses: Responses) -> None:
        self._gone = False
        self._late: Work | None = None
        self.members = [first]
        Work.__init__(self, first.plan, first.tensors, first.received)
        self.whole = first.whole
        self.rows = first.rows
        self.shape_key = first.shape_key
        self.timeout_s = first.timeout_s
        self.priority = first.priority
        self.trace = first.trace
        self.key = key
        self._responses = responses

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._gone or all(each.cancelled for each in self.members)

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        self._gone = value

    def serves(self, work: Work) -> bool:
        """Whether another request loses nothing by waiting for this one: its priority and deadline are no tighter."""
        patient = work.timeout_s is None or work.received + work.timeout_s >= self.deadline
        return patient and self.priority in (1, work.priority)

    def join(self, work: Work) -> None:
        """Let another request have the same answer."""
        work.enqueued = perf_counter()
        self.members.append(work)

    def reply(self, outputs: list[Tensor], start: int, stop: int) -> float | None:
        """Keep the response and answer everyone; the first one's request is the one that counts as executed."""
        self._responses.landed(self)
        self._responses.keep(self.key, outputs, start, stop, batched=self.plan.interface.batched)
        alive = [each for each in self.members if not each.cancelled]
        if not alive:
            return perf_counter()
        first, *others = alive
        for other in others:
            self._responses.answer(other, outputs, start, stop)
        if first is not self.members[0]:
            self.plan, self.trace = first.plan, first.trace
            self.received, self.whole, self.enqueued = first.received, first.whole, first.enqueued
        rendered = _reply(first, outputs, start, stop)
        self._late = first if rendered is None else None
        return rendered

    def later(self, sent: Callable[[float], None]) -> None:
        """See `Work.later`."""
        if self._late is not None:
            self._late.later(sent)
            self._late = None

    def fail(self, error: ModelyardError) -> None:
        """Tell everyone; those that joined a request which was not executed in time try on their own."""
        self._responses.landed(self)
        alive = [each for each in self.members if not each.cancelled]
        self.members = []  # whatever becomes of the execution, they have been told, or are queued again
        if isinstance(error, Unavailable) and len(alive) > 1:
            first, *others = alive
            _fail(first, error)
            self._responses.again(others)
            return
        for each in alive:
            _fail(each, error)


def _cost(tensor: Tensor) -> int:
    """About how many bytes could be digested in the time that this tensor takes."""
    return tensor.size * _STRING_COST if tensor.dtype.kind == "O" else tensor.nbytes


def digest(work: Work) -> bytes:
    """The key of a request: its tensors' shapes and bytes (datatypes are the signature's)."""
    hashed = blake2b(digest_size=16)
    hashed.update(repr((work.rows, work.shape_key)).encode())
    for tensor in work.tensors:
        if tensor.dtype.kind == "O":
            for raw in _strings(tensor):
                hashed.update(len(raw).to_bytes(8, "little"))
                hashed.update(raw)
        else:
            hashed.update(np.ascontiguousarray(tensor).data.cast("B"))
    return hashed.digest()


def _strings(tensor: Tensor) -> list[bytes]:
    return list(tensor.ravel())


def _bytes(tensor: Tensor) -> int:
    if tensor.dtype.kind == "O":
        return sum(len(raw) + 40 for raw in _strings(tensor))
    return tensor.nbytes


def _reply(work: Work, outputs: list[Tensor], start: int, stop: int) -> float | None:
    """Answer one request, see `Work.reply`; what goes wrong hurts no other."""
    if work.cancelled:
        return perf_counter()
    try:
        return work.reply(outputs, start, stop)
    except ModelyardError as error:
        _fail(work, error)
    except Exception:  # noqa: BLE001 - one answer must not hurt the others
        _log.exception("answering a request failed")
        _fail(work, BackendFailed("the answer could not be written"))
    return perf_counter()


def _fail(work: Work, error: ModelyardError) -> None:
    try:
        work.fail(error)
    except Exception:  # noqa: BLE001 - one answer must not hurt the others
        _log.exception("answering a request with an error failed")
