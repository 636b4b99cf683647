"""What went wrong, as Modelyard's errors: from HTTP statuses and Triton's texts, and from the network."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from modelyard.client.responses import Response
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

LS: Final = "`yard services ls` shows what runs and where"


class Unreached(Unavailable):
    """No answer came: refused, or the connection was lost before the first byte of one.

    `sent`: the request may have reached the service. `permanent`: trying again at once is pointless.
    """

    def __init__(
        self,
        what: str,
        *,
        why: str = "",
        hint: str = "",
        retry_after_s: float | None = None,
        sent: bool = False,
        permanent: bool = False,
    ) -> None:
        super().__init__(what, why=why, hint=hint, retry_after_s=retry_after_s)
        self.sent = sent
        self.permanent = permanent


class Refused(Unavailable):
    """The service said: not now (429 or 503). `retry_after_s` if it said when."""


class Late(Unavailable):
    """No answer came in time. `url`: of the service."""

    def __init__(
        self, what: str, *, why: str = "", hint: str = "", retry_after_s: float | None = None, url: str = ""
    ) -> None:
        super().__init__(what, why=why, hint=hint, retry_after_s=retry_after_s)
        self.url = url


_BY_STATUS: Final[dict[int, type[ModelyardError]]] = {
    401: Rejected,
    403: Rejected,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    429: Refused,
    501: Unsupported,
    503: Refused,
    504: Unavailable,
}


class _Refusal(msgspec.Struct):
    error: str = ""


def error_of(response: Response) -> ModelyardError:
    """The error that a status other than 200 and its text mean."""
    status = response.head.status
    what = _text(response) or f"the service answered with status {status}"
    if 300 <= status < 400:
        return InvalidInput(
            f"the service redirects to {response.head.location or 'another address'}", hint="call it there"
        )
    # Triton, and servers that copy its texts, report an unknown model as a bad request.
    unknown_model = status == 400 and what.startswith("Request for unknown model")
    kind = NotFound if unknown_model else _BY_STATUS.get(status)
    if kind is not None and issubclass(kind, Unavailable):
        after = seconds(response.head.retry_after)
        return kind(what, hint="try again later, or add replicas", retry_after_s=after)
    if kind is NotFound:
        return NotFound(what, hint=LS)
    if kind is not None:
        return kind(what)
    if 400 <= status < 500:
        return InvalidInput(what)
    return BackendFailed(what, hint="`yard services logs NAME` may say why")


def _text(response: Response) -> str:
    try:
        return msgspec.json.decode(response.body, type=_Refusal).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return bytes(response.body[:500]).decode(errors="replace").strip()


def seconds(text: str | None) -> float | None:
    """The seconds of a Retry-After header; its other form, a date, is not used by inference servers."""
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def unreachable(url: str, error: OSError) -> ModelyardError:
    """No connection could be made. What never reached the service may be sent again, where that can help."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return Rejected(
            f"{url} is not trusted", why=error.verify_message or str(error), hint="Tls(ca_file=...) names whom to trust"
        )
    passing = isinstance(error, ConnectionError | FileNotFoundError)  # a Unix socket that is not there yet
    return Unreached(f"cannot reach {url}", why=_why(error), hint=LS, permanent=not passing)


def lost(url: str, error: OSError | None) -> Unreached:
    """The connection ended after a request, before the first byte of an answer."""
    why = _why(error) if error is not None else "it closed the connection"
    return Unreached(f"{url} gave no answer", why=why, hint="`yard services logs NAME` may say why", sent=True)


def cut(url: str, error: OSError | None = None) -> Unavailable:
    """The connection ended in the middle of an answer."""
    why = _why(error) if error is not None else "it closed the connection"
    return Unavailable(
        f"{url} broke off in the middle of its answer", why=why, hint="`yard services logs NAME` may say why"
    )


def late(url: str, waited_s: float, attempts: int = 1) -> Late:
    """No answer in time; `attempts`: how many had that time together."""
    tried = f", in {attempts} attempts" if attempts > 1 else ""
    return Late(f"{url} did not answer within {waited_s:.3g} s{tried}", hint="give it more time (timeout_s)", url=url)


def _why(error: OSError) -> str:
    return error.strerror or str(error) or repr(error)
