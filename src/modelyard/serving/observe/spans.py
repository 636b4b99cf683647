"""Sampled requests as spans: a server span per request, a child per stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec

from modelyard.serving.observe.context import new_span_id
from modelyard.serving.observe.stages import STAGES, Execution, Member, bounds, unix_offset_s


class Place(NamedTuple):
    """Where a request stands in a trace: the ids of the trace, of its own span, of its caller's (or empty)."""

    trace_id: str
    span_id: str
    parent_id: str = ""
    state: str = ""


@dataclass(slots=True)
class Sample:
    """The sampled requests of one batch, each with its place in a trace: all as plain tuples, which cost a third.

    `entry` as `Execution`, `members` those of it that are sampled, as `Member`; the place of each is in `places`.
    """

    entry: Any
    members: list[Any]
    places: list[Any]


class Span(msgspec.Struct, omit_defaults=True):
    """One span as the trace file has it, one JSON object per line; times are nanoseconds since 1970."""

    trace_id: str
    span_id: str
    name: str
    start_unix_ns: int
    end_unix_ns: int
    parent_span_id: str = ""
    attributes: dict[str, str | int] = {}
    error: str = ""
    state: str = ""


class SpanWriter(Protocol):
    """Where spans go. Called from the exporting thread only."""

    def write(self, samples: Sequence[Sample]) -> None:
        """Write the spans of samples."""
        ...

    def close(self) -> None:
        """Flush and let go."""
        ...


def spans(sample: Sample) -> Iterator[list[Span]]:
    """The spans of each request of a sample: the request first, then its stages in order.

    Stages of no length (no steps, no wait) are left out.
    """
    execution = Execution(*sample.entry)
    face = execution.interface
    offset_ns = int(unix_offset_s() * 1e9)
    for plain, placed in zip(sample.members, sample.places, strict=True):
        member, place = Member(*plain), Place(*placed)
        attributes: dict[str, str | int] = {"model": face.name, "version": face.version, "batch.rows": execution.rows}
        if member.id:
            attributes["request.id"] = member.id
        times = [int(clock * 1e9) + offset_ns for clock in bounds(sample.entry, plain)]
        root = Span(
            place.trace_id,
            place.span_id,
            f"infer {face.name}",
            times[0],
            times[-1],
            parent_span_id=place.parent_id,
            attributes=attributes,
            error=execution.error,
            state=place.state,
        )
        children = [
            Span(place.trace_id, new_span_id(), name, start, stop, parent_span_id=place.span_id)
            for name, start, stop in zip(STAGES, times, times[1:], strict=False)
            if stop > start
        ]
        yield [root, *children]
