"""Ports, identities, cgroups, environments and errors of the process engine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modelyard.dispatch.engines.diversion import divert
from modelyard.dispatch.engines.identity import ProcessIdentity
from modelyard.dispatch.engines.memory import memory_limit
from modelyard.dispatch.engines.network import callable_host, reserve, resolve
from modelyard.dispatch.engines.replica import THREAD_VARIABLES, replica_environment
from modelyard.dispatch.engines.state import Problem, read_json, write_json
from modelyard.domain.errors import BackendFailed, Conflict, InvalidInput, ModelyardError, NotFound, Unavailable


def test_a_reserved_port_is_exclusive_to_strangers_and_open_to_replicas() -> None:
    with reserve("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(Conflict):
            reserve("127.0.0.1", port)
        listeners = []
        for _ in range(2):
            replica = socket.create_server(("127.0.0.1", port), reuse_port=True)
            listeners.append(replica)
        with socket.create_connection(("127.0.0.1", port)):
            pass  # reaches a listener, never the reservation
        for replica in listeners:
            replica.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_a_port_is_free_again_although_connections_linger() -> None:
    with reserve("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with socket.create_server(("127.0.0.1", port), reuse_port=True) as server:
            client = socket.create_connection(("127.0.0.1", port))
            accepted, _ = server.accept()
            accepted.close()  # this side goes to TIME_WAIT
            client.close()
    reserve("127.0.0.1", port).close()


def test_hosts() -> None:
    assert resolve("127.0.0.1") == "127.0.0.1"
    assert [callable_host(h) for h in ("0.0.0.0", "10.0.0.1", "::1")] == ["127.0.0.1", "10.0.0.1", "[::1]"]
    with pytest.raises(InvalidInput):
        resolve("no.such.host.invalid")


def test_an_identity_is_of_one_process_only() -> None:
    ours = ProcessIdentity.of(os.getpid())
    assert ours is not None
    assert ours.alive
    assert not replace(ours, started_ticks=ours.started_ticks - 1).alive
    assert not replace(ours, boot="another").alive


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(child.pid)
    assert identity is not None
    assert identity.alive
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped
    assert not identity.alive
    assert ProcessIdentity.of(child.pid) is None
    child.communicate()


def test_without_a_usable_cgroup_memory_is_polled(tmp_path: Path) -> None:
    limit = memory_limit(2**40, str(tmp_path / "not" / "there"), "x")
    assert limit is not None
    assert (limit.enforcement, limit.applied_bytes()) == ("polling", 2**40)
    assert limit.exceeded(os.getpid()) is None
    assert memory_limit(None, str(tmp_path), "x") is None
    tight = memory_limit(2**20, None, "x")
    assert tight is not None
    assert "of 1 MiB" in str(tight.exceeded(os.getpid()))


def test_a_replicas_environment_has_bounds_and_no_secrets() -> None:
    base = {"PATH": "/bin", "OMP_NUM_THREADS": "64", "MODELYARD_DATABASE_URL": "postgresql://u:p@h", "LC_ALL": "C"}
    environment = replica_environment(base, "i", 2)
    assert {environment[name] for name in THREAD_VARIABLES} == {"2"}
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert replica_environment({"OMP_WAIT_POLICY": "ACTIVE"}, "one", 2)["OMP_WAIT_POLICY"] == "ACTIVE"
    assert (environment["PATH"], environment["LC_ALL"]) == ("/bin", "C")
    assert "MODELYARD_DATABASE_URL" not in environment


@pytest.mark.parametrize("kind", [BackendFailed, Conflict, InvalidInput, NotFound, Unavailable])
def test_errors_keep_their_kind_on_the_way_from_the_supervisor(kind: type[ModelyardError]) -> None:
    error = Problem.of(kind("what", why="why", hint="hint")).error()
    assert (type(error), error.what, error.why, error.hint) == (kind, "what", "why", "hint")


def test_state_is_replaced_whole_and_damage_is_named(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    assert read_json(file, Problem) is None
    write_json(file, Problem("Conflict", "a"))
    write_json(file, Problem("Conflict", "b"))
    assert read_json(file, Problem) == Problem("Conflict", "b")
    assert list(tmp_path.iterdir()) == [file]
    file.write_text('{"kind":')
    with pytest.raises(BackendFailed, match=r"state\.json is damaged"):
        read_json(file, Problem)


def test_a_diverted_listener_gets_no_new_connection_and_loses_none() -> None:
    serve = (
        "import socket, sys\n"
        "server = socket.create_server(('127.0.0.1', int(sys.argv[1])), reuse_port=True)\n"
        "while True:\n"
        "    print('up', flush=True)\n"
        "    input()\n"
        "    caller, _ = server.accept()\n"
        "    caller.sendall(b'old')\n"
        "    caller.close()\n"
    )
    with reserve("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        old = subprocess.Popen(
            [sys.executable, "-c", serve, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert old.stdin is not None
        assert old.stdout is not None
        old.stdout.readline()
        waiting = socket.create_connection(("127.0.0.1", port), timeout=10)  # in its queue, not accepted yet
        with socket.create_server(("127.0.0.1", port), reuse_port=True) as new:
            assert divert(old.pid, (port,)) == 1
            assert divert(old.pid, (port + 1,)) == 0
            for _ in range(2):  # one for the waiting connection; another would show one that slipped in
                old.stdin.write("\n")
            old.stdin.flush()
            assert waiting.recv(10) == b"old"
            callers = [socket.socket() for _ in range(16)]  # by hash half of them would go to the old one
            for caller in callers:
                caller.setblocking(False)
                assert caller.connect_ex(("127.0.0.1", port)) != 0
            old.kill()
            old.communicate()
            new.settimeout(10)
            for _ in callers:
                new.accept()[0].close()  # all arrive, some at their second SYN
            for caller in callers:
                caller.close()
        waiting.close()
    assert divert(old.pid, (port,)) == 0


def test_an_address_that_is_not_this_machines_is_a_wrong_input_that_says_what_to_use() -> None:
    with pytest.raises(InvalidInput, match="no network interface of this machine") as refused:
        reserve("192.0.2.1", 0)  # RFC 5737: for documentation, nobody's
    assert "0.0.0.0" in refused.value.hint
