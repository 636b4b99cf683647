"""Routes of the REST endpoint other than inference: path and method to a complete HTTP response."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from modelyard.domain.errors import ModelyardError, NotFound
from modelyard.serving.dataplane import DataPlane
from modelyard.serving.executor import Executor
from modelyard.serving.faults import retry_after_header, status_of, text_of
from modelyard.serving.head import Head
from modelyard.serving.metrics import CONTENT_TYPE, render_metrics

REASONS: Final = {
    200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 409: "Conflict", 413: "Content Too Large", 415: "Unsupported Media Type",
    429: "Too Many Requests", 431: "Request Header Fields Too Large", 500: "Internal Server Error",
    501: "Not Implemented", 503: "Service Unavailable",
}  # fmt: skip
JSON: Final = "application/json"

_encode = msgspec.json.Encoder().encode


def response(status: int, body: bytes = b"", content_type: str = JSON, extra: str = "") -> bytes:
    """A complete HTTP/1.1 response. `extra`: further header lines, each ending in CRLF."""
    kind = f"Content-Type: {content_type}\r\n" if body else ""
    head = f"HTTP/1.1 {status} {REASONS[status]}\r\n{kind}{extra}Content-Length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


def error_response(error: ModelyardError) -> bytes:
    """The response to a failed request: `{"error": text}`, Retry-After where the error says when to come back."""
    status, _ = status_of(error)
    return error_text(status, text_of(error), retry_after_header(error))


def error_text(status: int, text: str, retry_after: str | None = None) -> bytes:
    """An error response of a given status."""
    extra = f"Retry-After: {retry_after}\r\n" if retry_after else ""
    return response(status, _encode({"error": text}), extra=extra)


class Router:
    """Finds what a head asks for."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def inference(self, head: Head) -> Executor | None:
        """The executor that a head's inference goes to; None if it asks for something else. Raises ModelyardError."""
        match head.segments:
            case ("v2", "models", name, "infer"):
                version = ""
            case ("v2", "models", name, "versions", version, "infer"):
                pass
            case _:
                return None
        return self._plane.find(name, version) if head.method == "POST" else None

    def respond(self, head: Head) -> bytes:
        """The response to anything but an inference."""
        plane = self._plane
        match head.segments:
            case ("v2",):
                make: Callable[[], bytes] = lambda: _json(plane.server_metadata())  # noqa: E731
            case ("v2", "health", "live"):
                make = lambda: response(200)  # noqa: E731
            case ("v2", "health", "ready"):
                make = lambda: _state(plane.ready)  # noqa: E731
            case ("v2", "models", "stats"):
                make = lambda: _json(plane.triton_statistics())  # noqa: E731
            case ("v2", "models", name, *rest):
                return self._model(head, name, rest)
            case ("metrics",):
                make = lambda: response(200, render_metrics(plane), CONTENT_TYPE)  # noqa: E731
            case ("stats",):
                make = lambda: _json(plane.statistics())  # noqa: E731
            case _:
                return error_response(NotFound("Not Found", why="no such path: /" + "/".join(head.segments)[:200]))
        return self._get(head, make)

    def _model(self, head: Head, name: str, rest: list[str]) -> bytes:
        plane = self._plane
        version = ""
        if rest and rest[0] == "versions" and len(rest) > 1:
            version, rest = rest[1], rest[2:]
        match rest:
            case []:
                return self._get(head, lambda: _json(plane.model_metadata(name, version)))
            case ["ready"]:
                return self._get(head, lambda: _state(plane.is_ready(name, version)))
            case ["stats"]:
                return self._get(head, lambda: _json(plane.triton_statistics(name, version)))
            case ["infer"]:
                return _not_allowed(head, "POST")
            case _:
                return error_response(NotFound("Not Found", why="no such path of a model: /" + "/".join(rest)[:200]))

    def _get(self, head: Head, make: Callable[[], bytes]) -> bytes:
        if head.method not in ("GET", "HEAD"):
            return _not_allowed(head, "GET, HEAD")
        try:
            return make()
        except ModelyardError as error:
            return error_response(error)


def _json(value: object) -> bytes:
    return response(200, _encode(value))


def _state(ready: bool) -> bytes:
    return response(200) if ready else response(503)


def _not_allowed(head: Head, allowed: str) -> bytes:
    if head.method == "OPTIONS":
        return response(200, extra=f"Allow: {allowed}, OPTIONS\r\n")
    return response(405, _encode({"error": f"method {head.method} is not allowed here"}), extra=f"Allow: {allowed}\r\n")
