"""The REST paths of the Open Inference Protocol and of Triton's extensions."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import msgspec

from modelyard.domain.errors import InvalidInput, NotFound, Unsupported
from modelyard.serving.http.head import Head
from modelyard.serving.http.ports import Body, Inference, Reply
from modelyard.serving.http.router import json_response, not_allowed, response
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.oip import control
from modelyard.serving.oip.metadata import model_config, model_metadata, server_metadata
from modelyard.serving.oip.rest import RestCodec
from modelyard.serving.oip.statistics import statistics

Answer: TypeAlias = Reply | Coroutine[Any, Any, Reply]


class IndexRequest(msgspec.Struct):
    """Body of a repository index."""

    ready: bool = False


class ControlRequest(msgspec.Struct):
    """Body of a load or unload."""

    parameters: dict[str, str | bool | int] = {}


class RegionRequest(msgspec.Struct):
    """Body of a registration of system shared memory."""

    key: str
    byte_size: int
    offset: int = 0


class OipRoutes:
    """Everything below `/v2`, and the names that Kubernetes' own components use for health."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._codec = RestCodec(plane.regions)

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

    def respond(self, head: Head, body: Body) -> Answer | None:
        """Everything but inference."""
        plane = self._plane
        match head.segments:
            case ("v2",):
                return _get(head, lambda: json_response(server_metadata(plane)))
            case ("v2", "health", "live") | ("livez",):
                return _get(head, lambda: json_response({"live": True}))
            case ("v2", "health", "ready") | ("readyz",):
                return _get(head, lambda: _state(plane.ready, {"ready": plane.ready}))
            case ("v2", "models", "stats"):
                return _get(head, lambda: json_response(statistics(plane)))
            case ("v2", "models", name, *rest):
                return self._model(head, body, name, rest)
            case ("v2", "repository", *rest):
                return self._repository(head, body, rest)
            case ("v2", "trace", "setting"):
                return self._trace(head, body, "")
            case ("v2", "logging"):
                return self._logging(head, body)
            case ("v2", "systemsharedmemory", *rest):
                return self._system_memory(head, body, rest)
            case ("v2", "cudasharedmemory", *rest):
                return _cuda_memory(head, rest)
            case _:
                return None

    def _model(self, head: Head, body: Body, name: str, rest: list[str]) -> Reply:
        plane = self._plane
        version = ""
        if rest and rest[0] == "versions" and len(rest) > 1:
            version, rest = rest[1], rest[2:]
        match rest:
            case []:
                return _get(head, lambda: json_response(model_metadata(plane, name, version)))
            case ["ready"]:
                return _get(head, lambda: _model_state(name, plane.is_ready(name, version)))
            case ["config"]:
                return _get(head, lambda: json_response(model_config(plane, name, version)))
            case ["stats"]:
                return _get(head, lambda: json_response(statistics(plane, name, version)))
            case ["trace", "setting"] if not version:
                return self._trace(head, body, name)
            case ["infer"] | ["labels", _, "infer"]:
                return not_allowed(head, "POST")
            case _:
                raise NotFound("Not Found", why="no such path of a model: /" + "/".join(rest)[:200])

    def _repository(self, head: Head, body: Body, rest: list[str]) -> Answer:
        plane = self._plane
        if len(rest) > 1 and rest[0] != "models":
            rest = rest[1:]  # the repository's name: there is one, whatever a client calls it
        match rest:
            case ["index"]:
                return _post(
                    head,
                    lambda: json_response(control.index(plane, ready_only=_read(IndexRequest, body).ready)),
                )
            case ["models", name, "load"]:
                return _post(head, lambda: _done(control.load(plane, name, _read(ControlRequest, body).parameters)))
            case ["models", name, "unload"]:
                return _post(head, lambda: _done(control.unload(plane, name, _read(ControlRequest, body).parameters)))
            case _:
                raise NotFound("Not Found", why="no such path of the repository: /" + "/".join(rest)[:200])

    def _trace(self, head: Head, body: Body, model: str) -> Reply:
        tracer = self._plane.tracer
        if model:
            self._plane.find(model)
        if head.method == "POST":
            return json_response(tracer.update(_read(dict[str, Any], body), model))
        return _get(head, lambda: json_response(tracer.settings(model)), "GET, HEAD, POST")

    def _logging(self, head: Head, body: Body) -> Reply:
        logs = self._plane.logs
        if head.method == "POST":
            return json_response(logs.update(_read(dict[str, Any], body)))
        return _get(head, lambda: json_response(logs.settings), "GET, HEAD, POST")

    def _system_memory(self, head: Head, body: Body, rest: list[str]) -> Answer:
        regions = self._plane.regions

        def register(name: str) -> Reply:
            given = _read(RegionRequest, body)
            regions.register(name, given.key, given.offset, given.byte_size)
            return response(200)

        def unregister(name: str) -> Reply:
            regions.unregister(name)
            return response(200)

        match rest:
            case ["status"]:
                return _get(head, lambda: json_response(regions.status()))
            case ["region", name, "status"]:
                return _get(head, lambda: json_response(regions.status(name)))
            case ["region", name, "register"]:
                return _post(head, lambda: register(name))
            case ["region", name, "unregister"]:
                return _post(head, lambda: unregister(name))
            case ["unregister"]:
                return _post(head, lambda: unregister(""))
            case _:
                raise NotFound("Not Found", why="no such path of shared memory: /" + "/".join(rest)[:200])


def _cuda_memory(head: Head, rest: list[str]) -> Answer:
    match rest:
        case ["status"]:
            return _get(head, lambda: json_response([]))
        case ["region", name, "status"]:
            raise NotFound(f"Unable to find cuda shared memory region: '{name}'")
        case ["unregister"] | ["region", _, "unregister"]:
            return _post(head, lambda: response(200))
        case ["region", name, "register"]:
            raise no_cuda(name)
        case _:
            raise NotFound("Not Found", why="no such path of shared memory: /" + "/".join(rest)[:200])


def no_cuda(region: str) -> Unsupported:
    """The answer to a registration of CUDA shared memory."""
    return Unsupported(
        f"failed to register CUDA shared memory region: '{region}', GPUs not supported",
        hint="use system shared memory, or send tensors in the message",
    )


def _read(kind: Any, body: Body) -> Any:
    """A body's JSON; an empty body is an empty object. Raises InvalidInput."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"failed to parse the request JSON buffer: {error}") from None


async def _done(work: Coroutine[Any, Any, None]) -> Reply:
    await work
    return response(200)


def _get(head: Head, make: Callable[[], Reply], allowed: str = "GET, HEAD") -> Reply:
    return make() if head.method in ("GET", "HEAD") else not_allowed(head, allowed)


def _post(head: Head, make: Callable[[], Answer]) -> Answer:
    return make() if head.method == "POST" else not_allowed(head, "POST")


def _state(ready: bool, body: dict[str, object]) -> Reply:
    """Kubernetes and Triton's clients read the status, KServe's the body."""
    shown = json_response(body)
    return shown if ready else Reply(503, shown.rest)


def _model_state(name: str, ready: bool) -> Reply:
    return _state(ready, {"name": name, "ready": ready})
