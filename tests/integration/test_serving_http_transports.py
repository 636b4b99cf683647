"""HTTP over TLS and Unix sockets, and compressed both ways, by real clients against a real replica."""

from __future__ import annotations

import datetime
import gzip
import http.client
import ipaddress
import json
import signal
import socket
import ssl
import stat
import zlib

import numpy as np
import pytest
import tritonclient.http as triton_http
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from modelyard.domain.errors import Conflict, InvalidInput
from modelyard.domain.services import Tls
from modelyard.serving.http.listeners import bind_unix
from modelyard.serving.http.tls import ServerTls
from tests.serving_harness import replica, scripted, until

PATH = "/v2/models/m/infer"
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}).encode()


class Authority:
    """Certificates for 127.0.0.1, self-signed."""

    def __init__(self, directory, name):
        self.certificate, self.key = directory / f"{name}.pem", directory / f"{name}.key"
        self.name = name
        self.issue()

    def issue(self):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        )
        self.certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        self.key.write_bytes(key.private_bytes(pem, form, plain))

    def tls(self, client_ca=""):
        return Tls(str(self.certificate), str(self.key), str(client_ca))

    def context(self, **options):
        context = ssl.create_default_context(cafile=str(self.certificate))
        for name, value in options.items():
            setattr(context, name, value)
        return context


def infer(connection):
    connection.request("POST", PATH, BODY)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())["outputs"][0]["data"]


def test_requests_over_tls_and_a_renewed_certificate_without_a_restart(tmp_path):
    authority = Authority(tmp_path, "server")
    with replica(tmp_path / "r", scripted("scale"), tls=authority.tls(), grpc_port=None) as server:

        def connect(context):
            return http.client.HTTPSConnection("127.0.0.1", server.http_port, timeout=15, context=context)

        old = authority.context()
        kept = connect(old)
        assert infer(kept) == (200, [2, 4, 6, 8])
        assert kept.sock.version() in ("TLSv1.2", "TLSv1.3")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises(ssl.SSLError):
            connect(authority.context(maximum_version=ssl.TLSVersion.TLSv1_1)).connect()
        alpn = authority.context()
        alpn.set_alpn_protocols(["h2", "http/1.1"])
        asked = connect(alpn)
        asked.connect()
        assert asked.sock.selected_alpn_protocol() == "http/1.1"
        asked.close()

        good = authority.key.read_bytes()
        authority.key.write_text("no key")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "cannot use the TLS files" in server.log, "the broken key is told")
        assert infer(connect(old)) == (200, [2, 4, 6, 8])
        authority.key.write_bytes(good)

        authority.issue()
        server.process.send_signal(signal.SIGHUP)

        def renewed():
            try:
                return infer(connect(authority.context()))
            except ssl.SSLError:
                return None

        assert until(renewed, "the new certificate is served") == (200, [2, 4, 6, 8])
        assert infer(kept) == (200, [2, 4, 6, 8])


def test_over_tls_a_refusal_is_read_whole_and_large_bodies_pass(tmp_path):
    authority = Authority(tmp_path, "server")
    with replica(tmp_path / "r", scripted("echo"), tls=authority.tls(), grpc_port=None) as server:
        with socket.create_connection(("127.0.0.1", server.http_port), timeout=15) as plain:
            wrapped = authority.context().wrap_socket(plain, server_hostname="127.0.0.1")
            wrapped.sendall(b"NONSENSE\r\n\r\n")
            received = b"".join(iter(lambda: wrapped.recv(65536), b""))
            assert received.startswith(b"HTTP/1.1 400 ")
            assert received.endswith(b"}")
        connection = http.client.HTTPSConnection("127.0.0.1", server.http_port, timeout=30, context=authority.context())
        data = np.arange(2_000_000, dtype=np.float32).tobytes()
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": "x", "datatype": "FP32", "shape": [500_000, 4],
                        "parameters": {"binary_data_size": len(data)},
                    }
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()  # fmt: skip
        connection.request("POST", PATH, head + data, {"Inference-Header-Content-Length": str(len(head))})
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200
        assert body[int(answer.headers["Inference-Header-Content-Length"]) :] == data


def test_clients_without_a_certificate_are_refused_where_one_is_asked_for(tmp_path):
    authority, client = Authority(tmp_path, "server"), Authority(tmp_path, "client")
    tls = authority.tls(client.certificate)
    with replica(tmp_path / "r", scripted("scale"), tls=tls, grpc_port=None) as server:

        def connect(context):
            return http.client.HTTPSConnection("127.0.0.1", server.http_port, timeout=15, context=context)

        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            infer(connect(authority.context()))
        trusted = authority.context()
        trusted.load_cert_chain(client.certificate, client.key)
        assert infer(connect(trusted)) == (200, [2, 4, 6, 8])


def test_unusable_tls_files_are_refused_with_their_names(tmp_path):
    one, other = Authority(tmp_path, "one"), Authority(tmp_path, "other")
    for tls in (
        Tls(str(one.certificate), str(other.key)),
        Tls(str(tmp_path / "missing.pem"), str(one.key)),
        Tls(str(one.certificate), str(one.certificate)),
    ):
        with pytest.raises(InvalidInput, match=r"\.pem"):
            ServerTls(tls)


def test_an_encrypted_key_is_refused_without_a_prompt(tmp_path):
    one = Authority(tmp_path, "one")
    key = serialization.load_pem_private_key(one.key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    one.key.write_bytes(key.private_bytes(pem, form, encryption))
    with pytest.raises(InvalidInput, match="encrypted"):
        ServerTls(one.tls())


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=15)
        self._path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def test_a_unix_socket_beside_the_port(tmp_path):
    path = tmp_path / "m.sock"
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(path))
    left.close()  # its file stays, as after a crash
    with replica(tmp_path / "r", scripted("scale"), unix_socket=str(path)) as server:
        assert infer(UnixConnection(path)) == (200, [2, 4, 6, 8])
        assert server.infer([1, 2, 3, 4]).status == 200
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with replica(tmp_path / "second", scripted("scale"), wait=False, unix_socket=str(path)) as second:
            assert second.process.wait(20) == 5
            assert "another process" in second.log
        assert infer(UnixConnection(path)) == (200, [2, 4, 6, 8])
    assert not path.exists()


def test_a_unix_socket_never_replaces_a_file_and_needs_a_possible_path(tmp_path):
    file = tmp_path / "data"
    file.write_text("precious")
    with pytest.raises(Conflict, match="no socket"):
        bind_unix(file)
    assert file.read_text() == "precious"
    with pytest.raises(InvalidInput, match="too long"):
        bind_unix(tmp_path / ("x" * 200))
    with pytest.raises(InvalidInput):
        bind_unix(tmp_path / "missing" / "s")


def test_a_unix_socket_that_was_replaced_is_left_to_its_owner(tmp_path):
    path = tmp_path / "s"
    first = bind_unix(path)
    path.unlink()
    second = bind_unix(path)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_a_unix_socket_takes_its_place_only_when_told_and_then_at_once(tmp_path):
    path = tmp_path / "s"
    first = bind_unix(path, take_over=True)  # nobody is there: it stands at its path
    first.socket.listen()
    second = bind_unix(path, take_over=True)
    before = path.stat().st_ino
    second.socket.listen()
    second.take_place()
    assert path.stat().st_ino != before
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
        second.socket.setblocking(True)
        second.socket.accept()[0].close()
    first.close()
    assert path.is_socket()  # the first's end does not take the second's file
    third = bind_unix(path, take_over=True)
    third.close()  # never took its place, and leaves nothing beside it
    assert list(tmp_path.iterdir()) == [path]
    second.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_compresses_both_ways(tmp_path_factory, algorithm, binary):
    data = np.arange(40_000, dtype=np.float32).reshape(10_000, 4)
    with (
        replica(tmp_path_factory.mktemp("zip"), scripted("echo", batch=16_384), grpc_port=None) as server,
        triton_http.InferenceServerClient(server.address, connection_timeout=30, network_timeout=30) as client,
    ):
        item = triton_http.InferInput("x", [10_000, 4], "FP32")
        item.set_data_from_numpy(data, binary_data=binary)
        wanted = [triton_http.InferRequestedOutput("y", binary_data=binary)]
        result = client.infer(
            "m",
            [item],
            outputs=wanted,
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        assert (result.as_numpy("y") == data).all()


def test_a_compressed_answer_on_the_wire(tmp_path):
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [5000, 4], "data": [1.5] * 20_000}]})
    with replica(tmp_path, scripted("scale", batch=8192), grpc_port=None) as server:
        plain = server.request("POST", PATH, body.encode())
        packed = server.request(
            "POST", PATH, gzip.compress(body.encode()), Content_Encoding="gzip", Accept_Encoding="gzip"
        )
        assert packed.headers["Content-Encoding"] == "gzip"
        assert len(packed.body) < len(plain.body) / 10
        assert zlib.decompress(packed.body, 31) == plain.body
