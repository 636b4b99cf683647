"""Where spans go: a file, or an OpenTelemetry collector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from modelyard.domain.errors import InvalidInput, ModelyardError, Unsupported
from modelyard.domain.services import Tracing
from modelyard.serving.observe.lines import lines
from modelyard.serving.observe.spans import Sample, Span, SpanWriter, spans

_EXPORT_EVERY_MS: Final = 1000


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
        rest = memoryview(lines(samples))
        while rest:  # a file that is nearly full takes a part
            rest = rest[self._file.write(rest) :]

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


def writers_of(tracing: Tracing) -> list[SpanWriter]:
    """The exporters that a spec asks for. Raises Unsupported, InvalidInput."""
    writers: list[SpanWriter] = []
    try:
        if tracing.file:
            writers.append(FileWriter(tracing.file))
        if tracing.otlp_endpoint:
            writers.append(open_telemetry(tracing.otlp_endpoint))
    except ModelyardError:
        for writer in writers:
            writer.close()
        raise
    return writers
