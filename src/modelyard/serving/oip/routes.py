"""The REST paths of the Open Inference Protocol and of Triton's extensions."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from modelyard.domain.errors import NotFound
from modelyard.serving.http.head import Head
from modelyard.serving.http.ports import Body, Inference, Reply
from modelyard.serving.http.router import json_response, not_allowed, response
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.oip.rest import RestCodec


class OipRoutes:
    """Everything below `/v2`."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._codec = RestCodec()

    def inference(self, head: Head) -> Inference | None:
        """The target of `/v2/models/M[/versions/V|/labels/L]/infer`."""
        version = label = ""
        match head.segments:
            case ("v2", "models", name, "infer"):
                pass
            case ("v2", "models", name, "versions", version, "infer"):
                pass
            case ("v2", "models", name, "labels", label, "infer"):
                pass
            case _:
                return None
        if head.method != "POST":
            return None
        return Inference(self._plane.target(name, version, label), self._codec)

    def respond(self, head: Head, body: Body) -> Reply | Coroutine[Any, Any, Reply] | None:  # noqa: ARG002
        """Health, metadata, statistics."""
        plane = self._plane
        match head.segments:
            case ("v2",):
                return _get(head, lambda: json_response(plane.server_metadata()))
            case ("v2", "health", "live"):
                return _get(head, lambda: response(200))
            case ("v2", "health", "ready"):
                return _get(head, lambda: _state(plane.ready))
            case ("v2", "models", "stats"):
                return _get(head, lambda: json_response(plane.triton_statistics()))
            case ("v2", "models", name, *rest):
                return self._model(head, name, rest)
            case _:
                return None

    def _model(self, head: Head, name: str, rest: list[str]) -> Reply:
        plane = self._plane
        version = ""
        if rest and rest[0] == "versions" and len(rest) > 1:
            version, rest = rest[1], rest[2:]
        match rest:
            case []:
                return _get(head, lambda: json_response(plane.model_metadata(name, version)))
            case ["ready"]:
                return _get(head, lambda: _state(plane.is_ready(name, version)))
            case ["stats"]:
                return _get(head, lambda: json_response(plane.triton_statistics(name, version)))
            case ["infer"] | ["labels", _, "infer"]:
                return not_allowed(head, "POST")
            case _:
                raise NotFound("Not Found", why="no such path of a model: /" + "/".join(rest)[:200])


def _get(head: Head, make: Callable[[], Reply]) -> Reply:
    return make() if head.method in ("GET", "HEAD") else not_allowed(head, "GET, HEAD")


def _state(ready: bool) -> Reply:
    return response(200) if ready else response(503)
