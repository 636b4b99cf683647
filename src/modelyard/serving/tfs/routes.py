"""The REST paths of TF Serving: `/v1/models/M[/versions/V|/labels/L][:verb|/metadata]`."""

from __future__ import annotations

from typing import Final

from modelyard.domain.errors import NotFound
from modelyard.serving.http.head import Head
from modelyard.serving.http.ports import Body, Codec, Inference, Reply
from modelyard.serving.http.router import json_response, not_allowed, response
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.observe.metrics import CONTENT_TYPE, render_metrics
from modelyard.serving.tfs import models
from modelyard.serving.tfs.rest import ClassifyCodec, PredictCodec, RegressCodec

_CODECS: Final[dict[str, Codec]] = {"predict": PredictCodec(), "classify": ClassifyCodec(), "regress": RegressCodec()}
_METRICS: Final = ("monitoring", "prometheus", "metrics")


class TfsRoutes:
    """Everything below `/v1/models`, and TF Serving's place of the metrics."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def inference(self, head: Head) -> Inference | None:
        """The target of `:predict`, `:classify` and `:regress`."""
        if head.method != "POST" or head.segments[:2] != ("v1", "models"):
            return None
        found = _split(head.segments)
        if found is None:
            return None
        name, version, label, verb, _ = found
        codec = _CODECS.get(verb)
        return None if codec is None else Inference(models.target(self._plane, name, version, label), codec)

    def respond(self, head: Head, body: Body) -> Reply | None:  # noqa: ARG002 - Routes'
        """Status, metadata, metrics."""
        if head.segments == _METRICS:
            if head.method not in ("GET", "HEAD"):
                return not_allowed(head, "GET, HEAD")
            return response(200, render_metrics(self._plane), CONTENT_TYPE)
        if head.segments[:2] != ("v1", "models"):
            return None
        found = _split(head.segments)
        if found is None:
            raise NotFound(f"Malformed request: {head.method} /{'/'.join(head.segments)[:200]}")
        name, version, label, verb, tail = found
        if verb:
            if verb not in _CODECS:
                raise NotFound(f"Malformed request: unknown method '{verb[:50]}'", hint=f"use {', '.join(_CODECS)}")
            return not_allowed(head, "POST")
        if head.method not in ("GET", "HEAD"):
            return not_allowed(head, "GET, HEAD")
        return self._metadata(name, version, label) if tail else self._status(name, version, label)

    def _status(self, name: str, version: str, label: str) -> Reply:
        shown = []
        for state in models.states(self._plane, name, version, label):
            code, message = models.status(state)
            status = {"error_code": code, "error_message": message}
            shown.append({"version": str(state.version), "state": str(state.stage), "status": status})
        return json_response({"model_version_status": shown})

    def _metadata(self, name: str, version: str, label: str) -> Reply:
        target = models.target(self._plane, name, version, label)
        interface = (target.only or self._plane.find(name, version)).interface  # a canary's turn is not for this
        spec = {"name": name, "signature_name": "", "version": str(interface.version)}
        return json_response({"model_spec": spec, "metadata": models.signature_json(interface)})


def _split(segments: tuple[str, ...]) -> tuple[str, str, str, str, str] | None:
    """Name, version, label, verb and `metadata` of a path below `/v1/models`; None where it is none of those."""
    *path, last = segments[2:] or ("",)
    verb = ""
    if last == "metadata" and path:
        tail = last
    else:
        tail = ""
        last, _, verb = last.rpartition(":") if ":" in last else (last, "", "")
        path = [*path, last]
    match path:
        case [name] if name:
            return name, "", "", verb, tail
        case [name, "versions", version]:
            return name, version, "", verb, tail
        case [name, "labels", label]:
            return name, "", label, verb, tail
        case _:
            return None
