"""Paths that tell about the replica: `/metrics` (Prometheus), `/stats` (JSON)."""

from __future__ import annotations

from modelyard.serving.http.head import Head
from modelyard.serving.http.ports import Body, Reply
from modelyard.serving.http.router import json_response, not_allowed, response
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.observe.metrics import CONTENT_TYPE, render_metrics


class ObserveRoutes:
    """Metrics and statistics."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def inference(self, head: Head) -> None:  # noqa: ARG002 - Routes'
        """None of these paths is an inference."""
        return

    def respond(self, head: Head, body: Body) -> Reply | None:  # noqa: ARG002
        """`/metrics` and `/stats`."""
        if head.segments not in (("metrics",), ("stats",)):
            return None
        if head.method not in ("GET", "HEAD"):
            return not_allowed(head, "GET, HEAD")
        if head.segments == ("metrics",):
            return response(200, render_metrics(self._plane), CONTENT_TYPE)
        return json_response(self._plane.statistics())
