"""What one may choose about connections, trust and time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.domain.errors import InvalidInput

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom an `https://` client trusts, and who it says it is.

    `ca_file`: PEM certificates trusted instead of the system's. `certificate` and `key`: this client's own, PEM.
    `verify=False` trusts anybody: for experiments only.
    """

    ca_file: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """The context of these choices. Raises InvalidInput where a file cannot be read or is no certificate."""
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except OSError as error:  # SSLError is one
            files = ", ".join(str(f) for f in (self.ca_file, self.certificate, self.key) if f is not None)
            raise InvalidInput(f"the TLS files cannot be used: {files}", why=str(error)) from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """How connections are made and kept, and what is taken from them.

    `read_timeout_s` is the longest silence of a service that is to answer (None: only the call's deadline counts).
    `max_connections` bounds open ones; further calls wait for their turn within their deadline. An idle one is not
    used again after `idle_timeout_s`. `max_response_bytes` bounds an answer, also after decompression.
    `compress_requests` sends bodies above 1 KiB as gzip, `compress_responses` asks for gzip: both cost far more time
    than they save on a fast network.
    """

    connect_timeout_s: float = 5.0
    read_timeout_s: float | None = None
    max_connections: int = 16
    idle_timeout_s: float = 60.0
    max_response_bytes: int = 256 * 1024 * 1024
    compress_requests: bool = False
    compress_responses: bool = False

    def __post_init__(self) -> None:
        for name in ("connect_timeout_s", "idle_timeout_s", "max_connections", "max_response_bytes"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{name} must be above 0")
        if self.read_timeout_s is not None and not self.read_timeout_s > 0:
            raise InvalidInput("read_timeout_s must be above 0, or None")


@dataclass(frozen=True, slots=True)
class Timing:
    """Time and chance, as a test may replace them.

    Seconds of a monotonic clock; a random number in [0, 1); how to wait, in a thread (`sleep`) or a task (`pause`).
    """

    clock: Callable[[], float] = field(default=time.monotonic)
    random: Callable[[], float] = field(default=random.random)
    sleep: Callable[[float], None] = field(default=time.sleep)
    pause: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep)
