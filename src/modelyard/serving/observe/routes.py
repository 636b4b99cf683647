"""Paths that tell about the replica: `/metrics` (Prometheus), `/stats` (counters), `/requests` (the last requests)."""

from __future__ import annotations

from modelyard.serving.http.head import Head
from modelyard.serving.http.ports import Body, Reply
from modelyard.serving.http.router import json_response, not_allowed, response
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.observe.metrics import CONTENT_TYPE, render_metrics
from modelyard.serving.observe.stages import snapshot


class ObserveRoutes:
    """Metrics, statistics, the last requests."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def inference(self, head: Head) -> None:  # noqa: ARG002 - Routes'
        """None of these paths is an inference."""
        return

    def respond(self, head: Head, body: Body) -> Reply | None:  # noqa: ARG002
        """`/metrics`, `/stats` and `/requests`."""
        match head.segments:
            case ("metrics",):
                make = self._metrics
            case ("stats",):
                make = self._statistics
            case ("requests",):
                make = self._requests
            case _:
                return None
        return make() if head.method in ("GET", "HEAD") else not_allowed(head, "GET, HEAD")

    def _metrics(self) -> Reply:
        return response(200, render_metrics(self._plane), CONTENT_TYPE)

    def _statistics(self) -> Reply:
        return json_response(self._plane.statistics())

    def _requests(self) -> Reply:
        return json_response(snapshot(self._plane.recorder))
