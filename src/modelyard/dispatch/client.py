"""A small synchronous client of a service: one real inference for a readiness probe, predictions for people.

The load generator has its own; this one is made for clear errors, not for speed.
"""

from __future__ import annotations

import http.client
import math
from collections.abc import Sequence
from types import TracebackType
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

from modelyard.dispatch import v2
from modelyard.domain.errors import (
    BackendFailed,
    Conflict,
    InvalidInput,
    ModelyardError,
    NotFound,
    Rejected,
    Unavailable,
    Unsupported,
)
from modelyard.domain.tensors import Signature, Tensor, Tensors

_LS: Final = "`yard services ls` shows what runs and where"
_BY_STATUS: Final[dict[int, type[ModelyardError]]] = {
    401: Rejected,
    403: Rejected,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    429: Unavailable,
    501: Unsupported,
    503: Unavailable,
    504: Unavailable,
}


class _Refusal(msgspec.Struct):
    error: str = ""


class InferenceClient:
    """Calls one endpoint over the Open Inference Protocol (V2, HTTP), on one kept connection.

    Not thread-safe: one client per thread. Use as a context manager, or `close` it.
    """

    def __init__(self, endpoint_url: str, timeout_s: float = 30.0) -> None:
        """`endpoint_url`: e.g. `http://127.0.0.1:8000`. Raises InvalidInput."""
        parts = urlsplit(endpoint_url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidInput(f"'{endpoint_url}' is not an endpoint", why=str(error)) from error
        if parts.scheme not in ("http", "https") or not host:
            raise InvalidInput(f"'{endpoint_url}' is not an endpoint", hint="write e.g. http://127.0.0.1:8000")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._url = endpoint_url
        self._prefix = parts.path.rstrip("/")
        self._connection = kind(host, port, timeout=timeout_s)

    def infer(
        self,
        model: str,
        tensors: Tensors,
        version: int | None = None,
        *,
        outputs: Sequence[str] | None = None,
        binary: bool = True,
    ) -> dict[str, Tensor]:
        """Send `tensors` to a model; its outputs by name (`BYTES` as object arrays of bytes).

        Raises InvalidInput, NotFound, Unavailable (with `retry_after_s` if the service says when), BackendFailed.
        """
        body, head_length = v2.encode_request(tensors, binary=binary, outputs=outputs)
        headers = {"Content-Type": "application/json"}
        if head_length is not None:
            headers = {"Content-Type": "application/octet-stream", v2.HEADER_LENGTH: str(head_length)}
        answer, answered = self._call("POST", _path(model, version) + "/infer", body, headers)
        length = answered.get(v2.HEADER_LENGTH)
        if length is not None and not length.isdigit():
            raise BackendFailed("the service's answer breaks the protocol", why=f"{v2.HEADER_LENGTH}: {length}")
        return v2.decode_response(answer, int(length) if length else None)

    def metadata(self, model: str, version: int | None = None) -> Signature:
        """The signature of a model as the service states it. Raises NotFound, Unavailable, BackendFailed."""
        answer, _ = self._call("GET", _path(model, version))
        try:
            return v2.signature_of(msgspec.json.decode(answer, type=v2.ModelMetadata))
        except msgspec.DecodeError as error:
            raise BackendFailed(f"{self._url} states no signature of '{model}'", why=str(error)) from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> InferenceClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[bytes, http.client.HTTPMessage]:
        kept = self._connection.sock is not None
        try:
            try:
                response = self._exchange(method, path, body, headers)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.close()
                if not kept:
                    raise
                # The service closed the idle connection, or its replica was replaced: inference may be sent again.
                response = self._exchange(method, path, body, headers)
            content = response.read()
        except TimeoutError as error:
            self.close()
            waited = f"{self._connection.timeout:g} s"
            raise Unavailable(f"{self._url} did not answer within {waited}", hint="give it more time") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unavailable(f"cannot reach {self._url}", why=str(error) or repr(error), hint=_LS) from error
        if response.status != http.client.OK:
            raise _error(response.status, content, response.headers)
        return content, response.headers

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str] | None
    ) -> http.client.HTTPResponse:
        self._connection.request(method, self._prefix + path, body, headers or {})
        return self._connection.getresponse()


def infer(
    endpoint_url: str, model: str, tensors: Tensors, version: int | None = None, timeout_s: float = 30.0
) -> dict[str, Tensor]:
    """One inference on a connection of its own: see `InferenceClient.infer`."""
    with InferenceClient(endpoint_url, timeout_s) as client:
        return client.infer(model, tensors, version)


def metadata(endpoint_url: str, model: str, version: int | None = None, timeout_s: float = 30.0) -> Signature:
    """A model's signature: see `InferenceClient.metadata`."""
    with InferenceClient(endpoint_url, timeout_s) as client:
        return client.metadata(model, version)


def _path(model: str, version: int | None) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{version}"


def _error(status: int, content: bytes, headers: http.client.HTTPMessage) -> ModelyardError:
    """The error that a status and its text mean."""
    try:
        text = msgspec.json.decode(content, type=_Refusal).error
    except msgspec.DecodeError:
        text = content[:500].decode(errors="replace").strip()
    what = text or f"the service answered with status {status}"
    # Triton, and servers that copy its texts, report an unknown model as a bad request.
    unknown_model = status == http.client.BAD_REQUEST and what.startswith("Request for unknown model")
    kind = NotFound if unknown_model else _BY_STATUS.get(status)
    if kind is Unavailable:
        return Unavailable(
            what, hint="try again later, or add replicas", retry_after_s=_seconds(headers.get("Retry-After"))
        )
    if kind is NotFound:
        return NotFound(what, hint=_LS)
    if kind is not None:
        return kind(what)
    if 400 <= status < 500:
        return InvalidInput(what)
    return BackendFailed(what, hint="`yard services logs NAME` may say why")


def _seconds(text: str | None) -> float | None:
    """The seconds of a Retry-After header; its other form, a date, is not used by inference servers."""
    try:
        seconds = float(text) if text else None
    except ValueError:
        return None
    return seconds if seconds is not None and math.isfinite(seconds) and seconds >= 0 else None
