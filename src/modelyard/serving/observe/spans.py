"""Sampled requests as spans: a server span per request, a child per stage; to a file, or to OpenTelemetry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from modelyard.domain.errors import InvalidInput, Unsupported
from modelyard.serving.observe.context import TraceContext, new_span_id
from modelyard.serving.observe.stages import Execution, Member, unix_offset_s, waits

_EXPORT_EVERY_MS: Final = 1000
_encode_lines = msgspec.json.Encoder().encode_lines


@dataclass(slots=True)
class Sample:
    """The sampled requests of one batch, each with its place in a trace."""

    execution: Execution
    picked: list[tuple[Member, TraceContext]]


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
    execution = sample.execution
    offset = unix_offset_s()

    def ns(clock: float) -> int:
        return int((clock + offset) * 1e9)

    for member, trace in sample.picked:
        face = execution.interface
        attributes: dict[str, str | int] = {"model": face.name, "version": face.version, "batch.rows": execution.rows}
        if member.id:
            attributes["request.id"] = member.id
        root = Span(
            trace.trace_id,
            trace.span_id,
            f"infer {face.name}",
            ns(member.received),
            ns(member.sent),
            parent_span_id=trace.parent_id,
            attributes=attributes,
            error=execution.error,
            state=trace.state,
        )
        children = [
            Span(trace.trace_id, new_span_id(), name, ns(start), ns(stop), parent_span_id=trace.span_id)
            for name, start, stop in _stages(execution, member)
            if stop > start
        ]
        yield [root, *children]


def _stages(execution: Execution, member: Member) -> list[tuple[str, float, float]]:
    queue, _ = waits(execution, member)
    queued = member.enqueued + queue
    before = member.enqueued - member.pre_s
    after = execution.end + member.post_s
    return [
        ("receive", member.received, member.whole),
        ("parse", member.whole, before),
        ("pre", before, member.enqueued),
        ("queue", member.enqueued, queued),
        ("batch_wait", queued, execution.start),
        ("infer", execution.start, execution.end),
        ("post", execution.end, after),
        ("encode", after, member.encoded),
        ("send", member.encoded, member.sent),
    ]


class FileWriter:
    """Appends spans to a file, a JSON object per line, unbuffered."""

    def __init__(self, path: str) -> None:
        """Raises InvalidInput where the file cannot be written."""
        try:
            self._file = Path(path).open("ab", buffering=0)  # noqa: SIM115 - kept open
        except OSError as error:
            raise InvalidInput(
                f"traces cannot be written to {path}", why=str(error.strerror), hint="choose another tracing.file"
            ) from error

    def write(self, samples: Sequence[Sample]) -> None:
        """Append the spans of samples."""
        every = [span for sample in samples for group in spans(sample) for span in group]
        self._file.write(_encode_lines(every))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_telemetry(endpoint: str) -> SpanWriter:
    """A writer to an OpenTelemetry collector (OTLP over HTTP). Raises Unsupported where the SDK is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise Unsupported(
            "tracing to OpenTelemetry is not installed", why=str(error), hint="pip install 'modelyard[otel]'"
        ) from error
    return OpenTelemetryWriter(OTLPSpanExporter(endpoint=endpoint))


class OpenTelemetryWriter:
    """Hands spans to an OpenTelemetry exporter, batched by its SDK."""

    def __init__(self, exporter: Any) -> None:
        """`exporter`: an `opentelemetry.sdk.trace.export.SpanExporter`."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._resource = Resource.create({"service.name": "modelyard"})
        self._scope = InstrumentationScope("modelyard.serving")
        self._processor: Any = BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_EVERY_MS)

    def write(self, samples: Sequence[Sample]) -> None:
        """Queue the spans of samples with the SDK's processor."""
        for group in (group for sample in samples for group in spans(sample)):
            for span in group:
                self._processor.on_end(self._readable(span, server=span is group[0]))

    def _readable(self, span: Span, *, server: bool) -> Any:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

        def context(span_id: str, *, remote: bool = False) -> Any:
            state = TraceState.from_header([span.state]) if span.state else TraceState()
            return SpanContext(int(span.trace_id, 16), int(span_id, 16), remote, TraceFlags(1), state)

        return ReadableSpan(
            name=span.name,
            context=context(span.span_id),
            parent=context(span.parent_span_id, remote=server) if span.parent_span_id else None,
            resource=self._resource,
            attributes=span.attributes,
            kind=SpanKind.SERVER if server else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=span.start_unix_ns,
            end_time=span.end_unix_ns,
            instrumentation_scope=self._scope,
        )

    def close(self) -> None:
        """Export what is queued."""
        self._processor.shutdown()
