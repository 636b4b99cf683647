"""The file of `yard deploy --serving FILE`: its schema, and from text to domain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from modelyard.domain.configuration import (
    MOST_COST,
    MOST_DELAY_US,
    MOST_PRIORITIES,
    MOST_REQUESTS,
    MOST_ROWS,
    MOST_SECONDS,
)
from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.domain.services import (
    LEAST_WEIGHT,
    MOST_BODY_BYTES,
    MOST_DRAIN_S,
    MOST_INSTANCES,
    MOST_WEIGHT,
    BatchingSettings,
    CallerIdentity,
    GrpcFront,
    Isolation,
    ModelSettings,
    QueueSettings,
    ReplicaSettings,
    Serving,
    Tls,
    Tracing,
)
from modelyard.domain.sizes import MOST_BYTES, parse_size
from modelyard.manifest import yaml_text
from modelyard.manifest.problems import KeyPath, Problems

_MAX_SOCKET_BYTES: Final = 95
"""A Unix socket's address has 108 bytes (unix(7)); the one beside it while a replica is replaced needs a few more."""


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_size(value)
    except InvalidInput as error:
        raise ValueError(f"{error}; {error.hint}") from None


def _even(value: int) -> int:
    if value < 1024:
        raise ValueError("expected at least 1KiB")
    return value


Count: TypeAlias = Annotated[int, Field(ge=1)]
Text: TypeAlias = Annotated[str, Field(min_length=1)]
Size: TypeAlias = Annotated[int, Field(ge=0, le=MOST_BYTES), BeforeValidator(_size, json_schema_input_type=int | str)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class QueueSection(_Section):
    """Bounds of a model's queue, its priorities, and the latency target it must keep (0: none)."""

    max_requests: Annotated[int, Field(ge=1, le=MOST_REQUESTS)] | None = None
    max_wait_s: Annotated[float, Field(gt=0, le=MOST_SECONDS)] | None = None
    priorities: Annotated[int, Field(ge=1, le=MOST_PRIORITIES)] | None = None
    default_priority: Count | None = None
    slo_ms: Annotated[float, Field(ge=0, le=MOST_SECONDS * 1e3)] | None = None


class BatchingSection(_Section):
    """Dynamic batching."""

    max_size: Annotated[int, Field(ge=1, le=MOST_ROWS)] | None = None
    max_delay_us: Annotated[int, Field(ge=0, le=MOST_DELAY_US)] | None = None
    max_cost: Annotated[int, Field(ge=1, le=MOST_COST)] | None = None


class ModelSection(_Section):
    """How each version of the model runs in a replica."""

    instances: Annotated[int, Field(ge=1, le=MOST_INSTANCES)] = 1
    isolation: Literal["auto", "thread", "process"] = "auto"
    weight: Annotated[float, Field(ge=LEAST_WEIGHT, le=MOST_WEIGHT)] = 1.0
    cache: Size = 0
    coalesce: bool = False
    classes: list[Text] = []
    memory_limit: Annotated[Size, AfterValidator(_even)] | None = None
    queue: QueueSection = QueueSection()
    batching: BatchingSection = BatchingSection()


class TlsSection(_Section):
    """TLS of the HTTP and the gRPC port; `caller_*` is what yard itself shows where `client_ca` asks for it."""

    certificate: Text
    key: Text
    client_ca: Text | None = None
    caller_certificate: Text | None = None
    caller_key: Text | None = None


class TracingSection(_Section):
    """Which share of the requests is traced, and where spans go."""

    rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    file: Text | None = None
    otlp_endpoint: Text | None = None


class ReplicaSection(_Section):
    """How a replica meets its clients."""

    tls: TlsSection | None = None
    unix_socket: Text | None = None
    tracing: TracingSection = TracingSection()
    triton_metrics: bool = False
    max_body: Annotated[Size, Field(le=MOST_BODY_BYTES), AfterValidator(_even)] = 64 * 1024 * 1024
    drain_timeout_s: Annotated[float, Field(ge=0, le=MOST_DRAIN_S)] = 20.0
    grpc_front: Literal["fast", "aio"] = "fast"
    max_running: Annotated[int, Field(ge=1, le=MOST_INSTANCES)] | None = None
    repository: Text | None = None
    exit_on_error: bool = True
    shared_memory: bool | None = None


class ServingFile(_Section):
    """The whole file."""

    model: ModelSection = ModelSection()
    replica: ReplicaSection = ReplicaSection()


def load_serving(path: Path) -> Serving:
    """Read a service's settings. Relative paths in it are relative to its folder.

    Raises NotFound where there is no such file, InvalidInput with every problem found, by key and line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", hint="docs/deploying.md describes it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read", why=str(error), hint="give a YAML file in UTF-8") from error
    return parse_serving(text, path.absolute().parent, str(path))


def parse_serving(text: str, base: Path, source_name: str) -> Serving:
    """As `load_serving`, from text; relative paths are relative to `base`, errors are told for `source_name`."""
    problems = Problems(source_name, check=f"yard deploy REF --serving {source_name}")
    value = yaml_text.read(text, problems).value
    if not isinstance(value, dict):
        problems.raise_if_any()
        raise InvalidInput(
            f"{source_name} is {'empty' if value is None else 'no mapping of keys to values'}",
            hint="start with 'model:' or 'replica:'; docs/deploying.md describes the file",
        )
    serving = _Reading(base, problems, source_name).serving(_validated(value, problems))
    problems.raise_if_any()
    return serving


def _validated(value: Mapping[str, object], problems: Problems) -> ServingFile:
    """The sections; what is wrong in them is noted and left out, so that the rest can be looked at too."""
    given = {k: v for k, v in value.items() if v is not None}
    try:
        return ServingFile.model_validate(given)
    except ValidationError as error:
        problems.add_validation((), ServingFile, error)
        rest = _without(given, [detail["loc"] for detail in error.errors(include_url=False)])
    try:
        return ServingFile.model_validate(rest)
    except ValidationError:  # a section whose keys need each other
        problems.raise_if_any()
        raise


def _without(section: Mapping[str, object], places: list[KeyPath]) -> dict[str, object]:
    """A section without what is at these places; where a required key is missing, without all that it belongs to."""
    kept = dict(section)
    for key in {place[0] for place in places}:
        below = [place[1:] for place in places if place[0] == key]
        inner = kept.get(str(key))
        known = isinstance(inner, dict) and all(place and place[0] in inner for place in below)
        if isinstance(inner, dict) and known:
            kept[str(key)] = _without(inner, below)
        else:
            kept.pop(str(key), None)
    return kept


class _Reading:
    """From the checked sections to the domain's values; notes paths that lead nowhere."""

    def __init__(self, base: Path, problems: Problems, source_name: str) -> None:
        self._base = base
        self._problems = problems
        self._name = source_name

    def serving(self, found: ServingFile) -> Serving:
        return Serving(self._model(found.model), self._replica(found.replica), str(self._base / Path(self._name).name))

    def _model(self, section: ModelSection) -> ModelSettings:
        queue = QueueSettings(**dict(section.queue))
        if queue.default_priority and queue.priorities and queue.default_priority > queue.priorities:
            at = ("model", "queue", "default_priority")
            self._problems.add(at, f"expected 1 (first) to {queue.priorities}, the number of priorities")
        return ModelSettings(
            instances=section.instances,
            isolation=Isolation(section.isolation),
            weight=section.weight,
            cache_bytes=section.cache,
            coalesce=section.coalesce,
            classes=tuple(section.classes),
            memory_limit_bytes=section.memory_limit,
            queue=queue,
            batching=BatchingSettings(**dict(section.batching)),
        )

    def _replica(self, section: ReplicaSection) -> ReplicaSettings:
        tls, caller = self._tls(section.tls) if section.tls else (None, None)
        repository = self._place(("replica", "repository"), section.repository)
        if repository and not Path(repository).is_dir():
            self._problems.add(("replica", "repository"), f"there is no folder {repository}")
        return ReplicaSettings(
            tls=tls,
            caller=caller,
            unix_socket=self._socket(section.unix_socket),
            tracing=self._tracing(section.tracing),
            triton_metrics=section.triton_metrics,
            max_body_bytes=section.max_body,
            drain_timeout_s=section.drain_timeout_s,
            grpc_front=GrpcFront(section.grpc_front),
            max_running=section.max_running,
            repository=repository or None,
            exit_on_error=section.exit_on_error,
            shared_memory=section.shared_memory,
        )

    def _tls(self, section: TlsSection) -> tuple[Tls, CallerIdentity | None]:
        at = ("replica", "tls")
        files = {key: self._file((*at, key), getattr(section, key)) for key in TlsSection.model_fields}
        shown = files["caller_certificate"], files["caller_key"]
        if bool(shown[0]) != bool(shown[1]):
            self._problems.add(at, "caller_certificate and caller_key belong together: give both")
        elif files["client_ca"] and not shown[0]:
            self._problems.add(
                (*at, "client_ca"),
                "clients must show a certificate, and so must yard, when it checks that the service answers: add "
                "caller_certificate and caller_key, of that CA",
            )
        caller = CallerIdentity(*shown) if all(shown) else None
        return Tls(files["certificate"], files["key"], files["client_ca"]), caller

    def _tracing(self, section: TracingSection) -> Tracing:
        at = ("replica", "tracing")
        file = self._place((*at, "file"), section.file)
        if file and not Path(file).parent.is_dir():
            self._problems.add((*at, "file"), f"there is no folder {Path(file).parent}")
        try:
            return Tracing(section.rate, file, section.otlp_endpoint or "")
        except InvalidInput as error:
            self._problems.add((*at, "otlp_endpoint"), f"{error.why}: {error.hint}")
            return Tracing(section.rate, file)

    def _socket(self, text: str | None) -> str | None:
        at = ("replica", "unix_socket")
        path = self._place(at, text)
        if len(path.encode()) > _MAX_SOCKET_BYTES:
            self._problems.add(at, f"expected at most {_MAX_SOCKET_BYTES} bytes, got {path}")
        elif path and not Path(path).parent.is_dir():
            self._problems.add(at, f"there is no folder {Path(path).parent}")
        return path or None

    def _file(self, at: KeyPath, text: str | None) -> str:
        path = self._place(at, text)
        if path and not Path(path).is_file():
            self._problems.add(at, f"there is no file {path}")
        return path

    def _place(self, at: KeyPath, text: str | None) -> str:
        if text is None:
            return ""
        if "\0" in text:
            self._problems.add(at, "expected a path")
            return ""
        return str(self._base / text)
