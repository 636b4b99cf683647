"""The process engine under faults: killed, hung, greedy and crash-looping replicas, a killed supervisor, damage."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from modelyard.dispatch import Limits
from modelyard.dispatch.engines.process import ProcessEngine
from modelyard.domain.errors import Conflict
from modelyard.domain.services import Endpoint, Replica, ReplicaState, ServiceState
from tests.engine_harness import SOON, engine, eventually, post, probe, processes_of, spec


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "services"
    yield path
    left = engine(path)
    for status in left.services():
        left.stop(status.name)
    assert processes_of(path) == []
    assert not path.exists() or list(path.iterdir()) == []


@pytest.fixture
def yard(state_dir: Path) -> ProcessEngine:
    return engine(state_dir)


def only(yard: ProcessEngine) -> Replica:
    [replica] = yard.replicas("digits")
    return replica


def replaced(yard: ProcessEngine, pid: int | None) -> Replica:
    """Wait until the only replica is ready again with another pid."""

    def done() -> bool:
        return only(yard).state is ReplicaState.READY and only(yard).pid not in (pid, None)

    eventually(done, f"a replacement of {pid}")
    return only(yard)


def order(endpoint: Endpoint, path: str) -> None:
    """Give an order that the replica may not survive to answer."""
    with contextlib.suppress(OSError):
        post(endpoint, path)


def test_a_killed_replica_is_replaced_on_the_same_endpoint(yard: ProcessEngine) -> None:
    endpoint = yard.start("digits", spec(), 2, probe)
    victim = yard.replicas("digits")[0]
    assert victim.pid
    os.kill(victim.pid, signal.SIGKILL)

    def back() -> bool:
        first = yard.replicas("digits")[0]
        return first.state is ReplicaState.READY and first.pid != victim.pid

    eventually(back, "a replacement")
    first, second = yard.replicas("digits")
    assert (first.restarts, second.restarts) == (1, 0)
    assert "SIGKILL" in first.detail
    assert yard.state("digits") is ServiceState.READY
    assert {post(endpoint)["pid"] for _ in range(60)} == {first.pid, second.pid}


def test_many_kills_never_make_the_service_give_up(yard: ProcessEngine) -> None:
    endpoint = yard.start("digits", spec(), 1, probe)
    for restarts in range(1, 6):  # more than give_up_after
        pid = only(yard).pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        assert replaced(yard, pid).restarts == restarts
    post(endpoint)


def test_the_port_stays_ours_while_no_replica_runs(yard: ProcessEngine, tmp_path: Path) -> None:
    crash = tmp_path / "crash"
    endpoint = yard.start("digits", spec(crash_if=str(crash)), 1, probe)
    crash.touch()
    order(endpoint, "/exit")
    eventually(lambda: only(yard).state is ReplicaState.FAILED, "given up")
    for port in (endpoint.http_port, endpoint.grpc_port or 0):
        with socket.socket() as thief, pytest.raises(OSError, match="in use"):
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(("127.0.0.1", port))


def test_a_crash_loop_ends_as_failed_with_reason_and_log(yard: ProcessEngine, tmp_path: Path) -> None:
    crash = tmp_path / "crash"
    endpoint = yard.start("digits", spec(crash_if=str(crash)), 1, probe)
    crash.touch()
    order(endpoint, "/exit")
    eventually(lambda: yard.state("digits") is ServiceState.FAILED, "given up")
    replica = only(yard)
    assert replica.state is ReplicaState.FAILED
    assert "exited with code 3" in replica.detail
    assert "boom: the weights are missing" in replica.detail
    assert "exited with code 3" in yard.status("digits").detail
    crash.unlink()
    yard.roll("digits", spec(2), probe=probe)  # the way out, on the same endpoint
    assert post(endpoint)["version"] == 2
    assert yard.state("digits") is ServiceState.READY


@pytest.mark.parametrize("how", ["still heart", "SIGSTOP"])
def test_a_hung_replica_is_replaced(state_dir: Path, how: str) -> None:
    yard = engine(state_dir, policy=replace(SOON, hang_timeout_s=1.0))
    endpoint = yard.start("digits", spec(), 1, probe)
    pid = only(yard).pid
    assert pid
    if how == "SIGSTOP":
        os.kill(pid, signal.SIGSTOP)
    else:
        order(endpoint, "/hang")
    assert "no heartbeat" in replaced(yard, pid).detail
    assert not psutil.pid_exists(pid)
    post(endpoint)


def test_a_replica_beyond_its_memory_limit_is_killed_and_restarted(yard: ProcessEngine) -> None:
    endpoint = yard.start("digits", spec(), 1, probe, limits=Limits(memory_bytes=200 * 2**20))
    pid = only(yard).pid
    order(endpoint, "/hog")
    after = replaced(yard, pid)
    assert "memory limit" in after.detail
    assert "200 MiB" in after.detail
    post(endpoint)


def test_a_replica_that_keeps_exceeding_its_memory_limit_is_given_up(state_dir: Path) -> None:
    yard = engine(state_dir, policy=replace(SOON, memory_restarts=1))
    endpoint = yard.start("digits", spec(), 1, probe, limits=Limits(memory_bytes=200 * 2**20))
    pid = only(yard).pid
    order(endpoint, "/hog")
    replaced(yard, pid)
    order(endpoint, "/hog")
    eventually(lambda: only(yard).state is ReplicaState.FAILED, "given up")
    assert "memory limit" in only(yard).detail


def test_replicas_die_with_a_killed_supervisor_and_the_status_says_so(yard: ProcessEngine, state_dir: Path) -> None:
    endpoint = yard.start("digits", spec(), 2, probe)
    supervisor = yard.status("digits").pids[0]
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: processes_of(state_dir) == [], "replicas gone")
    status = yard.status("digits")
    assert status.state is ServiceState.FAILED
    assert "supervisor is gone" in status.detail
    assert status.pids == ()
    assert [r.state for r in status.replicas] == [ReplicaState.STOPPED] * 2
    with pytest.raises(OSError):
        post(endpoint)
    with pytest.raises(Conflict, match="does not run"):
        yard.scale("digits", 3)
    with pytest.raises(Conflict, match="exists already"):
        yard.start("digits", spec(), 1, probe)
    assert yard.gc(dry_run=True) == ["digits"]
    assert yard.services() != []
    assert yard.gc() == ["digits"]
    assert yard.services() == []


def test_stop_sweeps_what_a_killed_supervisor_left(yard: ProcessEngine, state_dir: Path) -> None:
    yard.start("digits", spec(behave="child"), 1, probe)
    os.kill(yard.status("digits").pids[0], signal.SIGKILL)
    eventually(lambda: len(processes_of(state_dir)) == 1, "only the replica's own child left")
    assert len(yard.status("digits").pids) == 1  # seen, not hidden
    yard.stop("digits")
    assert processes_of(state_dir) == []


def test_a_supervisor_told_to_end_leaves_a_stopped_service(yard: ProcessEngine, state_dir: Path) -> None:
    yard.start("digits", spec(), 1, probe)
    os.kill(yard.status("digits").pids[0], signal.SIGTERM)  # as at a machine's shutdown
    eventually(lambda: processes_of(state_dir) == [], "gone")
    assert yard.state("digits") is ServiceState.STOPPED
    assert yard.gc() == ["digits"]


def test_gc_takes_a_stopped_service_whose_supervisor_is_just_ending(yard: ProcessEngine, state_dir: Path) -> None:
    yard.start("digits", spec(), 1, probe)
    state = state_dir / "digits" / "state.json"
    state.write_text(state.read_text().replace('"state":"ready"', '"state":"stopped"', 1))  # said, and not yet gone
    assert yard.gc() == ["digits"]
    assert processes_of(state_dir) == []


def test_gc_leaves_what_runs(yard: ProcessEngine) -> None:
    endpoint = yard.start("digits", spec(), 1, probe)
    assert yard.gc() == []
    post(endpoint)


def test_a_reused_pid_is_not_taken_for_the_service(yard: ProcessEngine, state_dir: Path) -> None:
    yard.start("digits", spec(), 1, probe)
    status = yard.status("digits")
    os.kill(status.pids[0], signal.SIGKILL)
    eventually(lambda: processes_of(state_dir) == [], "gone")
    state = state_dir / "digits" / "state.json"
    ours = os.getpid()
    state.write_text(state.read_text().replace(f'"pid":{status.pids[0]}', f'"pid":{ours}'))
    assert yard.state("digits") is ServiceState.FAILED
    yard.stop("digits")  # and does not signal us


@pytest.mark.parametrize("damage", ["plan.json", "state.json"])
def test_damaged_state_is_said_and_can_be_stopped(yard: ProcessEngine, state_dir: Path, damage: str) -> None:
    yard.start("digits", spec(), 1, probe)
    (state_dir / "digits" / damage).write_text("{")
    status = yard.status("digits")
    assert status.state is ServiceState.FAILED
    assert "damaged" in status.detail
    assert yard.stop("digits")
    assert processes_of(state_dir) == []


def test_a_service_whose_directory_is_removed_ends(yard: ProcessEngine, state_dir: Path) -> None:
    yard.start("digits", spec(), 1, probe)
    shutil.rmtree(state_dir / "digits")
    eventually(lambda: processes_of(state_dir) == [], "gone")
    assert yard.services() == []


def test_logs_are_bounded(state_dir: Path) -> None:
    limit = 300_000
    yard = engine(state_dir, policy=replace(SOON, log_bytes=limit))
    endpoint = yard.start("digits", spec(), 1, probe)
    log = state_dir / "digits" / "replica-0.log"
    for _ in range(4):
        for _ in range(2):
            post(endpoint, "/log")  # 100 kB
        eventually(lambda: log.stat().st_size <= limit // 2, "cut")
    kept = sum(path.stat().st_size for path in log.parent.glob("replica-0.log*"))
    assert kept <= limit
    assert list(yard.logs("digits", replica=0))[-1].startswith("line 0999")
