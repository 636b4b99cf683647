"""Model control over the protocol: what the repository holds, loading with changed settings, unloading.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
Triton lets clients load and unload only where it was started so; here that is where the replica has a repository.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from modelyard.domain.errors import InvalidInput, NotFound, Unavailable, Unsupported
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.oip.metadata import config_of, model_config

DEFAULT_CACHE_BYTES: Final = 64 * 1024 * 1024
"""What `response_cache: {enable: true}` gives a model that has no cache of its own yet."""
_NOTHING: Final = object()


class IndexEntry(msgspec.Struct, omit_defaults=True):
    """One version of a model in the repository. `state`: READY, UNAVAILABLE, LOADING, UNLOADING."""

    name: str
    version: str
    state: str = ""
    reason: str = ""


@dataclass(slots=True)
class Load:
    """What a load request asks for: versions beside what the policy says, and settings that differ for this load."""

    versions: tuple[int, ...] | None = None
    override: dict[str, Any] = field(default_factory=dict)


def index(plane: DataPlane, *, ready_only: bool) -> list[IndexEntry]:
    """Every version that the repository holds."""
    return [IndexEntry(s.name, str(s.version), str(s.state), s.reason) for s in plane.index(ready_only)]


async def load(plane: DataPlane, name: str, parameters: Mapping[str, object]) -> None:
    """Load a model, or load it again, and return when it serves.

    Parameter `config` is the JSON of a ModelConfig whose settings hold for this load. Raises InvalidInput for one that
    cannot be changed or is wrong, Unsupported for files in the request, NotFound, Unavailable, or what loading raised.
    """
    _require_control(plane)
    wish = Load()
    for key, value in parameters.items():
        if key == "config":
            wish = _read(plane, name, value)
        elif key.startswith("file:"):
            raise Unsupported(
                f"failed to load '{name}', models in the request are not supported",
                hint="put the model into the repository; clients never supply files",
            )
        else:
            raise InvalidInput(f"failed to load '{name}', unrecognized load parameter '{key[:100]}'")
    await plane.load(name, wish.versions, wish.override or None)


async def unload(plane: DataPlane, name: str, parameters: Mapping[str, object]) -> None:
    """Take a model out of service. Raises NotFound, Unavailable, InvalidInput."""
    _require_control(plane)
    for key, value in parameters.items():
        if key != "unload_dependents" or not isinstance(value, bool):
            raise InvalidInput(f"failed to unload '{name}', unrecognized unload parameter '{key[:100]}'")
    await plane.unload(name)


def _require_control(plane: DataPlane) -> None:
    if plane.repository.directory is None:
        raise Unavailable(
            "explicit model load / unload is not allowed",
            why="this replica serves a fixed set of models",
            hint="start it with a model repository",
        )


def _read(plane: DataPlane, name: str, text: object) -> Load:
    """Our settings out of a ModelConfig's. What it has besides must be as it is."""
    try:
        config = msgspec.json.decode(text) if isinstance(text, str | bytes) else None
    except msgspec.DecodeError as error:
        raise InvalidInput(f"failed to load '{name}', 'config' is not JSON", why=str(error)) from None
    if not isinstance(config, dict):
        raise InvalidInput(f"failed to load '{name}', 'config' must be the JSON text of a ModelConfig")
    wish, present = Load(), _present(plane, name)
    for key, value in config.items():
        changed = _changes(value, present.get(key))
        if changed is _NOTHING:
            continue
        reader = READERS.get(key)
        if reader is None:
            raise InvalidInput(
                f"failed to load '{name}', '{key[:100]}' cannot be changed by a load request",
                hint=f"these can: {', '.join(READERS)}",
            )
        try:
            reader(wish, changed)
        except _WrongNumber as error:
            raise InvalidInput(f"failed to load '{name}', '{key}' of 'config' is wrong", why=str(error)) from None
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InvalidInput(
                f"failed to load '{name}', '{key}' of 'config' asks for what cannot be changed",
                why=f"it differs by {msgspec.json.encode(changed).decode()[:200]}",
            ) from None
    return wish


def _changes(wanted: Any, present: Any) -> Any:
    """What is wanted and not so at present: clients send a whole ModelConfig to change one of its settings."""
    if wanted == present:
        return _NOTHING
    if isinstance(wanted, dict) and isinstance(present, dict):
        found = {key: _changes(value, present.get(key)) for key, value in wanted.items()}
        return {key: value for key, value in found.items() if value is not _NOTHING} or _NOTHING
    if isinstance(wanted, list) and isinstance(present, list) and len(wanted) == len(present) == 1:
        only = _changes(wanted[0], present[0])
        return only if only is _NOTHING else [only]
    return wanted


def _present(plane: DataPlane, name: str) -> dict[str, Any]:
    """The configuration in force, or of a model that does not serve what the repository says of its latest version."""
    try:
        config = model_config(plane, name)
    except (NotFound, Unavailable):
        model = plane.repository.models.get(name)
        if model is None or not model.found.versions:
            return {"name": name}
        latest = model.found.versions[max(model.found.versions)]
        config = config_of(latest, latest.artifact.signature, [latest.version])
    found: dict[str, Any] = msgspec.to_builtins(config)
    return found


def _group(wish: Load, key: str) -> dict[str, Any]:
    group: dict[str, Any] = wish.override.setdefault(key, {})
    return group


def _max_batch_size(wish: Load, value: Any) -> None:
    _group(wish, "batching")["max_size"] = max(_whole("max_batch_size", value), 1)


def _dynamic_batching(wish: Load, value: Any) -> None:
    for key, given in value.items():
        if key == "max_queue_delay_microseconds":
            _group(wish, "batching")["max_delay_us"] = _whole(key, given)
        elif key == "priority_levels":
            _group(wish, "queue")["priorities"] = max(_whole(key, given), 1)
        elif key == "default_priority_level":
            _group(wish, "queue")["default_priority"] = _whole(key, given) or None
        elif key == "default_queue_policy":
            _queue_policy(wish, given)
        else:
            raise ValueError(key)


def _queue_policy(wish: Load, value: Any) -> None:
    queue = _group(wish, "queue")
    for key, given in value.items():
        if key == "max_queue_size":
            queue["max_requests"] = _whole(key, given, least=1)
        elif key == "default_timeout_microseconds":
            queue["max_wait_s"] = _whole(key, given, least=1) * 1e-6
        else:
            raise ValueError(key)


def _instance_group(wish: Load, value: Any) -> None:
    (group,) = value
    wish.override["instances"] = _whole("count", group["count"], least=1)
    if len(group) > 1:
        raise ValueError


def _response_cache(wish: Load, value: Any) -> None:
    if not isinstance(value["enable"], bool):
        raise TypeError
    wish.override["cache_bytes"] = DEFAULT_CACHE_BYTES if value["enable"] else 0


def _version_policy(wish: Load, value: Any) -> None:
    (only,) = value
    wish.versions = tuple(_whole("versions", v, least=1) for v in value[only]["versions"])
    if only != "specific":
        raise ValueError


def _parameters(wish: Load, value: Any) -> None:
    for key, given in value.items():
        text = given["string_value"]
        if key in ("threads", "cache_bytes"):
            wish.override[key] = int(text)
        elif key == "weight":
            wish.override[key] = float(text)
        elif key == "coalesce":
            wish.override[key] = {"true": True, "false": False}[text]
        elif key == "max_cost":
            _group(wish, "batching")[key] = int(text)
        elif key == "slo_ms":
            _group(wish, "queue")[key] = float(text)
        else:
            raise ValueError(key)


class _WrongNumber(Exception):
    """A number of a ModelConfig that cannot be; says which and what it may be."""


def _whole(key: str, value: object, *, least: int = 0) -> int:
    if type(value) is not int or value < least:
        given = msgspec.json.encode(value).decode()[:40]
        raise _WrongNumber(f"'{key}' is {given}, and must be a whole number from {least} on")
    return value


READERS: Final[dict[str, Callable[[Load, Any], None]]] = {
    "max_batch_size": _max_batch_size,
    "dynamic_batching": _dynamic_batching,
    "instance_group": _instance_group,
    "response_cache": _response_cache,
    "version_policy": _version_policy,
    "parameters": _parameters,
}
