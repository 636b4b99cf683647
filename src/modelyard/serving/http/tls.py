"""TLS of a server socket: TLS 1.2 and later, certificates that can be renewed while the replica runs."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from modelyard.domain.errors import InvalidInput
from modelyard.domain.services import Tls


class ServerTls:
    """The TLS context of a replica's listeners."""

    def __init__(self, tls: Tls, protocols: Sequence[str] = ("http/1.1",)) -> None:
        """Raises InvalidInput where a file is missing, is no PEM, or key and certificate do not match."""
        self._tls = tls
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(list(protocols))
        self.context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        self.reload()

    def reload(self) -> None:
        """Read the files again; connections made from now on use them. Raises InvalidInput and keeps the old ones."""
        tls = self._tls
        probe = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # a half-loaded pair must not reach the live context
        for context in (probe, self.context):
            try:
                context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
                if tls.client_ca:
                    context.load_verify_locations(tls.client_ca)
                    context.verify_mode = ssl.CERT_REQUIRED
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                files = ", ".join(f for f in (tls.certificate, tls.key, tls.client_ca) if f)
                raise InvalidInput(
                    f"cannot use the TLS files {files}",
                    why=str(error),
                    hint="give PEM files: certificate chain, its unencrypted private key, and the clients' CA if any",
                ) from error


def _no_password() -> str:
    """Instead of OpenSSL's prompt on the terminal."""
    raise ValueError("the key is encrypted")
