"""Finds who answers a request head, and builds plain responses."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, Final

import msgspec

from modelyard.domain.errors import ModelyardError, NotFound
from modelyard.serving.faults import retry_after_header, status_of, text_of
from modelyard.serving.http.head import Head
from modelyard.serving.http.ports import Body, Inference, Reply, Routes

REASONS: Final = {
    200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 409: "Conflict", 413: "Content Too Large", 415: "Unsupported Media Type",
    417: "Expectation Failed",
    429: "Too Many Requests", 431: "Request Header Fields Too Large", 500: "Internal Server Error",
    501: "Not Implemented", 503: "Service Unavailable",
}  # fmt: skip
JSON: Final = "application/json"

_encode = msgspec.json.Encoder().encode


def response(status: int, body: bytes = b"", content_type: str = JSON, extra: str = "") -> Reply:
    """A response with a body. `extra`: further header lines, each ending in CRLF."""
    kind = f"Content-Type: {content_type}\r\n" if body else ""
    head = f"{kind}{extra}Content-Length: {len(body)}\r\n\r\n"
    return Reply(status, head.encode("latin-1") + body)


def json_response(value: object) -> Reply:
    """A 200 response with `value` as JSON."""
    return response(200, _encode(value))


def not_allowed(head: Head, allowed: str) -> Reply:
    """The answer to a method that a path does not take: 405, or to OPTIONS what it takes."""
    if head.method == "OPTIONS":
        return response(200, extra=f"Allow: {allowed}, OPTIONS\r\n")
    return response(405, _encode({"error": f"method {head.method} is not allowed here"}), extra=f"Allow: {allowed}\r\n")


def error_response(error: ModelyardError) -> Reply:
    """The response to a failed request: `{"error": text}`, Retry-After where the error says when to come back."""
    status, _ = status_of(error)
    return error_text(status, text_of(error), retry_after_header(error))


def error_text(status: int, text: str, retry_after: str | None = None) -> Reply:
    """An error response of a given status."""
    extra = f"Retry-After: {retry_after}\r\n" if retry_after else ""
    return response(status, _encode({"error": text}), extra=extra)


class Router:
    """Asks each protocol's routes in turn."""

    def __init__(self, routes: Sequence[Routes]) -> None:
        self._routes = tuple(routes)

    def inference(self, head: Head) -> Inference | None:
        """Where a head's inference goes; None if it asks for something else. Raises ModelyardError."""
        for routes in self._routes:
            found = routes.inference(head)
            if found is not None:
                return found
        return None

    def respond(self, head: Head, body: Body) -> Reply | Coroutine[Any, Any, Reply]:
        """The response to anything but an inference. Raises ModelyardError."""
        for routes in self._routes:
            reply = routes.respond(head, body)
            if reply is not None:
                return reply
        raise NotFound("Not Found", why="no such path: /" + "/".join(head.segments)[:200])
