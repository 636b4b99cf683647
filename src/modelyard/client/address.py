"""Where a service is: `http://host:port/prefix`, `https://...`, `http://[::1]:8000`, `unix:///path/to/socket`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from modelyard.domain.errors import InvalidInput

_PORTS: Final = {"http": 80, "https": 443}
_HINT: Final = "write e.g. http://127.0.0.1:8000, https://host, http://[::1]:8000 or unix:///run/service.sock"


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed endpoint: host and port, or the path of a Unix socket; `prefix` stands before every path."""

    url: str
    host: str
    port: int
    tls: bool
    socket_path: str
    prefix: str
    host_header: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises InvalidInput for what is no endpoint."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise InvalidInput(f"'{url}' is not an endpoint", why=str(error), hint=_HINT) from error
        if parts.username is not None:
            # the text is not repeated: it may hold a password
            raise InvalidInput(
                "the endpoint is not to hold a user or password", hint="use headers={'Authorization': ...}"
            )
        if parts.query or parts.fragment or any(c <= " " or c == "\x7f" for c in url):
            raise InvalidInput(f"'{url}' is not an endpoint", why="it has more than an address and a path", hint=_HINT)
        if parts.scheme == "unix":
            if host or port or not parts.path.startswith("/") or len(parts.path) < 2:
                raise InvalidInput(f"'{url}' is not a Unix socket", hint="write unix:///path/to/socket")
            return cls(url, "", 0, False, parts.path, "", "localhost")
        if parts.scheme not in _PORTS or not host:
            raise InvalidInput(f"'{url}' is not an endpoint", hint=_HINT)
        default = _PORTS[parts.scheme]
        shown = f"[{host}]" if ":" in host else _ascii(host, url)
        header = shown if port in (None, default) else f"{shown}:{port}"
        prefix = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~-._")
        return cls(url, host, default if port is None else port, parts.scheme == "https", "", prefix, header)


def _ascii(host: str, url: str) -> str:
    """The host as DNS and the Host header have it."""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise InvalidInput(f"'{url}' is not an endpoint", why=str(error), hint=_HINT) from error
