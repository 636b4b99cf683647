"""Fixtures: a scripted server, and each client in turn."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.unit.client.scripted import DRIVERS, Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(params=list(DRIVERS))
def driver(request: pytest.FixtureRequest) -> Iterator[Any]:
    driver = DRIVERS[request.param]()
    yield driver
    driver.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An authority, and certificates of a server (127.0.0.1) and a client that it signed."""
    folder = tmp_path_factory.mktemp("tls")
    files: dict[str, Path] = {}
    authority = _key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    _write(files, folder / "ca", _certificate(name, authority, name, authority, []), authority)
    for who in ("server", "client"):
        key = _key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)])
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))] if who == "server" else []
        _write(files, folder / who, _certificate(subject, key, name, authority, names), key)
    return files


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    names: list[x509.IPAddress],
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=key is signer, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _write(files: dict[str, Path], path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    files[path.name] = path.with_suffix(".pem")
    files[path.name].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[f"{path.name}-key"] = path.with_suffix(".key")
    files[f"{path.name}-key"].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
