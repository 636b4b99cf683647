"""Where a service may be."""

from __future__ import annotations

import pytest

from modelyard.client.address import Address
from modelyard.domain.errors import InvalidInput


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "prefix", "header"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1", 8000, False, "", "127.0.0.1:8000"),
        ("http://host", "host", 80, False, "", "host"),
        ("https://host:443/", "host", 443, True, "", "host"),
        ("https://host:8443/models/a/", "host", 8443, True, "/models/a", "host:8443"),
        ("http://[::1]:8000", "::1", 8000, False, "", "[::1]:8000"),
        ("http://bücher.example/ü", "bücher.example", 80, False, "/%C3%BC", "xn--bcher-kva.example"),
    ],
)
def test_a_url_is_an_address(url: str, host: str, port: int, tls: bool, prefix: str, header: str) -> None:
    found = Address.parse(url)
    assert (found.host, found.port, found.tls, found.prefix, found.host_header) == (host, port, tls, prefix, header)


def test_a_unix_socket_is_an_address() -> None:
    found = Address.parse("unix:///run/service.sock")
    assert (found.socket_path, found.prefix, found.tls) == ("/run/service.sock", "", False)


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:80", "ftp://h", "http://h:port", "http://", "http://h:99999", "http://h?x=1", "http://h#x", "",
     "http://h/a b", "http://h\r\nX: y", "http://[::1", "unix://relative", "unix:///", "http://" + "ü" * 70],
)  # fmt: skip
def test_what_is_no_address_is_invalid(url: str) -> None:
    with pytest.raises(InvalidInput):
        Address.parse(url)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidInput) as caught:
        Address.parse("http://user:secret@host")
    assert "secret" not in f"{caught.value} {caught.value.hint}"
