"""Each call of the protocol as a value: what to send, and how to read the answer. No I/O."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final, Generic, TypeVar
from urllib.parse import quote

import msgspec

from modelyard.client import inference, messages
from modelyard.client.address import Address
from modelyard.client.failures import error_of
from modelyard.client.inference import HEADER_LENGTH, Inference, InferResult
from modelyard.client.options import TransportOptions
from modelyard.client.responses import Response, broken
from modelyard.client.tensors import Buffer
from modelyard.domain.errors import InvalidInput

T = TypeVar("T")

DEADLINE_HEADER: Final = "X-Request-Timeout-Ms"
_COMPRESSED_ABOVE: Final = 1024
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OWN_HEADERS: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "content-encoding", "expect", "te", "upgrade",
     HEADER_LENGTH.lower(), DEADLINE_HEADER.lower()}
)  # fmt: skip


class Call(msgspec.Struct, Generic[T]):
    """One call. `headers`: lines, each ending in CRLF. `resend`: doing it twice does no harm. `retry`: at all."""

    method: str
    path: str
    read: Callable[[Response], T]
    headers: str = ""
    body: Sequence[Buffer] = ()
    tells_deadline: bool = False
    resend: bool = True
    retry: bool = True


class Writer:
    """Writes calls to one service as HTTP/1.1 requests. Raises InvalidInput for headers that cannot be sent."""

    def __init__(self, address: Address, headers: Mapping[str, str] | None, options: TransportOptions) -> None:
        self._prefix = address.prefix
        accept = "Accept-Encoding: gzip\r\n" if options.compress_responses else ""
        self._common = f" HTTP/1.1\r\nHost: {address.host_header}\r\n{accept}{header_lines(headers)}"
        self._compress = options.compress_requests

    def write(self, call: Call[T], left_s: float) -> list[Buffer]:
        """The request in parts. `left_s`: seconds until the deadline, which an inference tells the service."""
        body, headers = call.body, call.headers
        if call.tells_deadline:
            headers = f"{headers}{DEADLINE_HEADER}: {max(1, int(left_s * 1000))}\r\n"
        if self._compress and sum(map(len, body)) > _COMPRESSED_ABOVE:
            packer = zlib.compressobj(1, wbits=31)
            body = [b"".join([*map(packer.compress, body), packer.flush()])]
            headers += "Content-Encoding: gzip\r\n"
        if call.method == "POST":
            headers = f"{headers}Content-Length: {sum(map(len, body))}\r\n"
        head = f"{call.method} {self._prefix}{call.path}{self._common}{headers}\r\n".encode("latin-1")
        return [head, *body]


def header_lines(headers: Mapping[str, str] | None) -> str:
    """Header lines of a mapping. Raises InvalidInput for names or values that could break a request."""
    lines: list[str] = []
    for name, value in (headers or {}).items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidInput(f"header {name!r} cannot be sent", why="a character is not allowed there")
        if name.lower() in _OWN_HEADERS:
            raise InvalidInput(f"header '{name}' is the client's own", hint="leave it out")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines)


# --- the calls


@lru_cache(1024)
def _path(model: str, version: int | str | None = None, label: str | None = None) -> str:
    if not model:
        raise InvalidInput("a model has a name")
    path = f"/v2/models/{quote(model, safe='')}"
    if label is not None:
        if version is not None:
            raise InvalidInput("a version and a label exclude each other")
        return f"{path}/labels/{quote(label, safe='')}"
    return path if version in (None, "") else f"{path}/versions/{quote(str(version), safe='')}"


def infer(
    model: str,
    version: int | str | None,
    label: str | None,
    asked: Inference,
    headers: Mapping[str, str] | None = None,
) -> Call[InferResult]:
    """An inference."""
    parts, json_length = inference.encode(asked)
    lines = header_lines(headers) if headers else ""
    if json_length is None:
        lines += "Content-Type: application/json\r\n"
    else:
        lines += f"Content-Type: application/octet-stream\r\n{HEADER_LENGTH}: {json_length}\r\n"
    return Call("POST", _path(model, version, label) + "/infer", _inferred, lines, parts, True)


def _inferred(response: Response) -> InferResult:
    if response.head.status != 200:
        raise error_of(response)
    return inference.decode(response)


def metadata(model: str, version: int | str | None) -> Call[messages.ModelMetadata]:
    """What a model takes and gives."""
    return Call("GET", _path(model, version), _reader(messages.ModelMetadata))


def server_metadata() -> Call[messages.ServerMetadata]:
    """What a service is."""
    return Call("GET", "/v2", _reader(messages.ServerMetadata))


def probe(path: str) -> Call[bool]:
    """A question of state: never tried again, as the present is asked for."""
    return Call("GET", path, _state, retry=False)


def model_ready(model: str, version: int | str | None) -> Call[bool]:
    """Whether a model can be called."""
    return probe(_path(model, version) + "/ready")


def statistics(model: str | None, version: int | str | None) -> Call[tuple[messages.ModelStatistics, ...]]:
    """Statistics of one model or all."""
    read = _reader(messages.StatisticsAnswer)
    path = "/v2/models" if model is None else _path(model, version)
    return Call("GET", f"{path}/stats", lambda response: read(response).model_stats)


def repository_index(*, ready_only: bool) -> Call[tuple[messages.RepositoryModel, ...]]:
    """The models of the repository."""
    body = msgspec.json.encode({"ready": True} if ready_only else {})
    read = _reader(tuple[messages.RepositoryModel, ...])
    return Call("POST", "/v2/repository/index", read, _JSON, [body])


def load(model: str, parameters: Mapping[str, str | int | bool] | None) -> Call[None]:
    """Load, or load anew. Not sent twice on its own: loading costs."""
    return _repository(model, "load", parameters or {})


def unload(model: str, *, dependents: bool) -> Call[None]:
    """Unload."""
    return _repository(model, "unload", {"unload_dependents": True} if dependents else {})


def _repository(model: str, verb: str, parameters: Mapping[str, str | int | bool]) -> Call[None]:
    if not model:
        raise InvalidInput("a model has a name")
    body = msgspec.json.encode({"parameters": parameters} if parameters else {})
    return Call("POST", f"/v2/repository/models/{quote(model, safe='')}/{verb}", _done, _JSON, [body], resend=False)


_JSON: Final = "Content-Type: application/json\r\n"


def _reader(kind: type[T]) -> Callable[[Response], T]:
    decode = msgspec.json.Decoder(kind, strict=False).decode

    def read(response: Response) -> T:
        if response.head.status != 200:
            raise error_of(response)
        try:
            return decode(response.body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise broken(str(error)) from error

    return read


def _state(response: Response) -> bool:
    """200 says yes; 503, and Triton's 400 or our 404 for an unknown model, say no. Raises what else it may be."""
    if response.head.status in (400, 404, 503):
        return False
    if response.head.status != 200:
        raise error_of(response)
    return True


def _done(response: Response) -> None:
    if response.head.status != 200:
        raise error_of(response)
