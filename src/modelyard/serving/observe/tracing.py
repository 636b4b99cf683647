"""Which requests are traced, by Triton's trace settings, and their way to the exporters.

The event loop decides and queues; a thread of its own turns records into spans and writes them, so that a slow disk or
collector never holds a request. What does not fit the queue is dropped and counted.
Settings: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_trace.md
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from modelyard.domain.errors import InvalidInput
from modelyard.domain.services import Tracing
from modelyard.serving.observe.context import TraceContext, new_places
from modelyard.serving.observe.spans import Sample, SpanWriter
from modelyard.serving.observe.writers import writers_of

_log = logging.getLogger(__name__)

QUEUED: Final = 10_000
"""Requests that may wait for the exporting thread."""
GATHER_S: Final = 0.25
"""The exporting thread writes what has come in so long at once: waking it for every sample cost the event loop a change
of threads each time, at 920 samples per second an eighth of its throughput (bench/tracing_cost.py)."""
AT_ONCE: Final = 256
"""Requests written at once: enough for `lines` to pay, few enough for their lines to stay in the processor's cache."""
MANY: Final = 1024
"""So many requests are written without waiting for more."""
_TRACE: Final = 8
"""Where a member's tuple (`stages.Member`) has its trace."""
_FIXED: Final = ("trace_file", "trace_mode")
_NAMES: Final = ("trace_level", "trace_rate", "trace_count", "log_frequency", *_FIXED)


@dataclass(slots=True)
class Settings:
    """Whether and how often requests are sampled: one of `rate` requests, `count` more of them (-1: no end)."""

    on: bool = False
    rate: int = 1000
    count: int = -1
    changed: frozenset[str] = field(default=frozenset())
    """The settings that a model has of its own; the others follow the replica's."""


class Tracer:
    """The trace settings of a replica and its models, and the sampler. Event-loop thread only, but for `close`."""

    def __init__(
        self,
        tracing: Tracing,
        writers: list[SpanWriter] | None = None,
    ) -> None:
        self._tracing = tracing
        self._writers = writers if writers is not None else writers_of(tracing)
        self._global = _start(tracing)
        self._models: dict[str, Settings] = {}
        self._until: dict[str, int] = {}
        self.dropped = 0
        """Samples lost because the exporting thread could not keep up."""
        self.exported = 0
        """Samples that every exporter has written."""
        self.failed = 0
        """Samples that an exporter could not write."""
        self._queue: deque[tuple[Any, list[Any]]] = deque()
        self._put = self._taken = 0  # requests: one is counted by the loop, the other by the thread
        self._some, self._many = threading.Event(), threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    @property
    def active(self) -> bool:
        """Whether any span can leave at all: without an exporter nothing is sampled."""
        return bool(self._writers)

    # --- sampling

    def offer(self, entry: Any) -> None:
        """Queue the sampled requests of a batch: those whose caller samples them, and one in `rate` of the others."""
        name, members = entry[0].name, entry[5]
        settings = self._models.get(name, self._global)
        picked = [m for m in members if m[_TRACE] is not None and m[_TRACE].sampled]
        if settings.on and settings.count != 0:
            first = self._until.get(name, settings.rate - 1)
            if first < len(members):
                picked += self._pick(settings, members, first)
                first += -(-(len(members) - first) // settings.rate) * settings.rate
            self._until[name] = first - len(members)
        if picked:
            self._queue_up(entry, picked)

    def _pick(self, settings: Settings, members: list[Any], first: int) -> list[Any]:
        """Every `rate`th member from `first` on; one that comes with a trace follows its caller's decision instead."""
        chosen = [m for m in members[first :: settings.rate] if m[_TRACE] is None]
        if settings.count > 0:
            chosen = chosen[: settings.count]
            settings.count -= len(chosen)
        return chosen

    def _queue_up(self, entry: Any, picked: list[Any]) -> None:
        waiting = self._put - self._taken
        if waiting >= QUEUED:
            self.dropped += len(picked)
            return
        self._put += len(picked)
        self._queue.append((entry, picked))
        if self._thread is None:
            self._thread = threading.Thread(target=self._export, name="traces", daemon=True)
            self._thread.start()
        if not self._some.is_set():
            self._some.set()
        if waiting > MANY and not self._many.is_set():
            self._many.set()

    def _export(self) -> None:
        """The exporting thread."""
        while not self._closing:
            self._some.wait()
            self._many.wait(GATHER_S)
            self._some.clear()
            self._many.clear()
            self._write_all()
        self._write_all()  # what came between the last look at the queue and the end

    def _write_all(self) -> None:
        while self._queue:
            gathered: list[tuple[Any, list[Any]]] = []
            requests = 0
            while self._queue and requests < AT_ONCE:
                gathered.append(self._queue.popleft())
                requests += len(gathered[-1][1])
            self._taken += requests
            self._write(gathered, requests)

    def _write(self, gathered: list[tuple[Any, list[Any]]], requests: int) -> None:
        new = iter(new_places(requests))
        samples = [Sample(entry, picked, [_place(m[_TRACE], new) for m in picked]) for entry, picked in gathered]
        whole = True
        for writer in self._writers:
            try:
                writer.write(samples)
            except Exception:  # noqa: BLE001 - boundary of a thread: an exporter's failure must not end tracing
                whole = False
                _log.exception("traces could not be written")
        if whole:
            self.exported += requests
        else:
            self.failed += requests

    def close(self, timeout_s: float = 5.0) -> None:
        """Export what waits, within `timeout_s`, and end the thread."""
        self._closing = True
        if self._thread is not None:
            self._some.set()
            self._many.set()
            self._thread.join(timeout_s)
            if self._queue or self._thread.is_alive():
                _log.warning("traces were not all written in time")
        for writer in self._writers:
            writer.close()

    # --- settings

    def settings(self, model: str = "") -> dict[str, Any]:
        """The settings of a model, or of the replica, as Triton writes them: texts."""
        own = self._models.get(model, self._global)
        mode = "opentelemetry" if self._tracing.otlp_endpoint else "triton"
        return {
            "trace_level": ["TIMESTAMPS" if own.on else "OFF"],
            "trace_rate": str(own.rate),
            "trace_count": str(own.count),
            "log_frequency": "0",
            "trace_file": self._tracing.file,
            "trace_mode": mode,
        }

    def update(self, wanted: Mapping[str, Any], model: str = "") -> dict[str, Any]:
        """Change settings; None clears one (a model's to the replica's, the replica's to its start). All or nothing.

        Returns the settings then. Raises InvalidInput: an unknown name, a value that is none, or a setting that only
        the operator may change (where traces are written).
        """
        base = self._models.get(model, self._global) if model else self._global
        start = self._global if model else _start(self._tracing)
        changed = replace(base)
        names = set(changed.changed)
        for name, value in wanted.items():
            if name not in _NAMES:
                raise InvalidInput(f"unknown trace setting: '{name}'", hint=f"known are {', '.join(_NAMES)}")
            if name in _FIXED:
                raise InvalidInput(
                    f"{name} location can not be updated through network protocol",
                    hint="set it in the replica's spec (tracing)",
                )
            _change(changed, name, value, start)
            names = names - {name} if value is None else names | {name}
        changed.changed = frozenset(names)
        if changed.on and not self._writers:
            raise InvalidInput(
                "tracing cannot be switched on",
                why="this replica has no place to write traces to",
                hint="start it with tracing.file or tracing.otlp_endpoint in its spec",
            )
        if not model:
            self._global = changed
            self._until.clear()  # counting starts anew: the next request is sampled, whatever the rate was
            for own in self._models.values():
                _follow(own, changed)
        elif names:
            self._until.pop(model, None)
            self._models[model] = changed
        else:
            self._until.pop(model, None)
            self._models.pop(model, None)
        return self.settings(model)


def _place(trace: TraceContext | None, new: Iterator[tuple[str, str, str, str]]) -> tuple[str, str, str, str]:
    """As `spans.Place`."""
    if trace is None:
        return next(new)
    return trace.trace_id, trace.span_id, trace.parent_id, trace.state


def _start(tracing: Tracing) -> Settings:
    """The settings that a spec asks for."""
    rate = tracing.rate
    return Settings(on=rate > 0, rate=max(round(1 / rate), 1) if rate > 0 else 1000)


def _change(settings: Settings, name: str, value: object, start: Settings) -> None:
    if name == "trace_level":
        settings.on = start.on if value is None else _level(value)
    elif name == "trace_rate":
        settings.rate = start.rate if value is None else _whole(name, value, 1)
    elif name == "trace_count":
        settings.count = start.count if value is None else _whole(name, value, -1)
    elif value is not None and _whole(name, value, 0) != 0:
        raise InvalidInput("log_frequency is not supported", why="spans are written as they come", hint="leave it 0")


def _follow(own: Settings, base: Settings) -> None:
    """What a model has not set itself follows the replica's."""
    if "trace_level" not in own.changed:
        own.on = base.on
    if "trace_rate" not in own.changed:
        own.rate = base.rate
    if "trace_count" not in own.changed:
        own.count = base.count


def _level(value: object) -> bool:
    levels = value if isinstance(value, list) else [value]
    if not levels or any(level not in ("OFF", "TIMESTAMPS") for level in levels):
        raise InvalidInput(f"trace_level {levels} is not supported", hint="use OFF or TIMESTAMPS")
    return "TIMESTAMPS" in levels


def _whole(name: str, value: object, least: int) -> int:
    text = value[0] if isinstance(value, list) and len(value) == 1 else value
    try:
        number = int(str(text))
    except ValueError:
        number = least - 1
    if number < least:
        raise InvalidInput(f"{name} must be a whole number >= {least}", why=f"got {value!r}")
    return number
