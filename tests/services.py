"""Real servers for tests: PostgreSQL from its Debian package, S3 from moto. One of each per test session.

Where a server's program is missing, a test that needs it fails in CI (`CI=true`) and is skipped elsewhere.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_START_TIMEOUT_S = 60.0
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The socket directory of a running PostgreSQL server without TCP; user `postgres`, no password."""
    pytest.importorskip("psycopg")
    binaries = _postgres_binaries()
    directory = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has at most 107 bytes
    account = _unprivileged(directory)
    data = directory / "data"
    command = [str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-E", "UTF8", "--locale=C", "-A", "trust"]
    made = subprocess.run([*command, "--no-sync"], capture_output=True, text=True, check=False, **account)
    assert made.returncode == 0, made.stderr
    options = [f"unix_socket_directories={directory}", "listen_addresses=", "fsync=off", "max_connections=60"]
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(binaries / "postgres"), "-D", str(data), *(part for o in options for part in ("-c", o))],
            stdout=log,
            stderr=subprocess.STDOUT,
            **account,
        )
    try:
        _await_postgres(server, directory)
        yield str(directory)
    finally:
        server.send_signal(signal.SIGINT)  # fast shutdown: does not wait for clients
        server.wait(30)
        shutil.rmtree(directory)


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """URL of a new, empty database."""
    import psycopg

    name = f"test_{next(_numbers)}"
    with psycopg.connect(host=postgres_server, user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    return f"postgresql://postgres@/{name}?host={postgres_server}"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a running S3 server."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_url(s3_server: str) -> str:
    """URL of a new, empty bucket with a prefix, with the endpoint and keys in its query."""
    import boto3

    bucket = f"test-{next(_numbers)}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **keys).create_bucket(Bucket=bucket)
    return f"s3://{bucket}/team/blobs?endpoint_url={s3_server}&key=test&secret=test"


def _postgres_binaries() -> Path:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    on_path = shutil.which("initdb")
    candidates = [*reversed(installed), *([Path(on_path)] if on_path else [])]
    for candidate in candidates:
        if (candidate.parent / "postgres").exists():
            return candidate.parent
    return _missing("no PostgreSQL server is installed: apt-get install postgresql")


def _missing(reason: str) -> Path:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _unprivileged(directory: Path) -> dict[str, object]:
    """How to run a child that refuses to be root: as `postgres` or `nobody`, who then owns the directory."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    os.chown(directory, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": str(directory)}


def _await_postgres(server: subprocess.Popen[bytes], directory: Path) -> None:
    import psycopg

    def ready() -> bool:
        try:
            psycopg.connect(host=str(directory), user="postgres", dbname="postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            assert server.poll() is None, (directory / "log").read_text()
            return False
        return True

    _poll(ready)


def _poll(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not ready():
        assert time.monotonic() < deadline, "the server did not start in time"
        time.sleep(0.05)
