"""The process engine with real processes: what a user asks of it, and what is left afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from modelyard.dispatch import Limits
from modelyard.dispatch.engines.process import ProcessEngine
from modelyard.domain.errors import BackendFailed, Conflict, InvalidInput, NotFound
from modelyard.domain.services import Endpoint, ReplicaState, ServiceState
from tests.engine_harness import STANDIN, engine, eventually, post, probe, processes_of, spec

ROOT = Path(__file__).parents[2]


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


def start_elsewhere(state_dir: Path, *calls: str) -> subprocess.Popen[str]:
    """Another process, like a `yard` command, that makes `calls` on an engine of its own."""
    script = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from tests.engine_harness import engine, probe, spec
        yard = engine(Path({str(state_dir)!r}))
        print("begin", flush=True)
    """
    code = textwrap.dedent(script) + "\n".join(calls)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def test_replicas_share_one_endpoint_which_answers_on_return(yard: ProcessEngine) -> None:
    endpoint = yard.start("digits", spec(), 2, probe)
    replicas = yard.replicas("digits")
    assert [r.state for r in replicas] == [ReplicaState.READY] * 2
    assert {post(endpoint)["pid"] for _ in range(60)} == {r.pid for r in replicas}
    assert yard.state("digits") is ServiceState.READY
    assert yard.status("digits").endpoint == endpoint


def test_a_service_survives_its_starter_and_another_process_sees_and_stops_it(
    state_dir: Path, yard: ProcessEngine
) -> None:
    # communicate() returns at the end of the pipes: nothing of the service holds them open.
    output, errors = start_elsewhere(state_dir, "print(yard.start('digits', spec(), 1, probe).url)").communicate(
        timeout=60
    )
    url = output.split()[-1]
    assert url.startswith("http://"), errors
    [status] = yard.services()
    assert (status.name, status.state) == ("digits", ServiceState.READY)
    assert status.endpoint is not None
    assert status.endpoint.url == url
    assert post(status.endpoint)["version"] == 1
    assert yard.stop("digits")
    assert processes_of(state_dir) == []


def test_the_terminals_signals_do_not_reach_a_service(yard: ProcessEngine) -> None:
    endpoint = yard.start("digits", spec(), 1, probe)
    before = yard.status("digits").pids
    assert all(os.getsid(pid) != os.getsid(0) for pid in before)
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(before[0], number)
    eventually(lambda: sum("signal ignored" in line for line in yard.logs("digits")) == 2, "both signals noted")
    post(endpoint)
    assert yard.status("digits").pids == before


def test_stop_leaves_nothing_and_is_idempotent(yard: ProcessEngine, state_dir: Path) -> None:
    yard.start("digits", spec(behave="child"), 2, probe)
    assert len(processes_of(state_dir)) == 5  # the supervisor, two replicas, a child of each
    assert yard.stop("digits") is True
    assert processes_of(state_dir) == []
    assert yard.stop("digits") is False
    with pytest.raises(NotFound):
        yard.status("digits")


def test_a_replica_that_does_not_drain_is_killed(yard: ProcessEngine, state_dir: Path) -> None:
    yard.start("digits", spec(behave="reluctant", drain_s=0.1), 1, probe)
    yard.stop("digits")
    assert processes_of(state_dir) == []


def test_a_replica_that_crashes_at_start_fails_the_start_with_its_log(yard: ProcessEngine, state_dir: Path) -> None:
    with pytest.raises(BackendFailed, match="exited with code 3") as caught:
        yard.start("digits", spec(behave="crash"), 2, probe)
    assert "boom: the weights are missing" in caught.value.why
    assert processes_of(state_dir) == []
    assert yard.services() == []


def test_a_replica_that_does_not_get_ready_fails_the_start(yard: ProcessEngine, state_dir: Path) -> None:
    with pytest.raises(BackendFailed, match=r"not ready within 0\.3 s"):
        yard.start("digits", spec(behave="never"), 1, probe, limits=Limits(start_timeout_s=0.3))
    assert processes_of(state_dir) == []


def test_a_service_that_fails_the_probe_is_taken_down(yard: ProcessEngine, state_dir: Path) -> None:
    with pytest.raises(BackendFailed, match="real inference") as caught:
        yard.start("digits", spec(behave="wrong"), 1, probe)
    assert "500" in caught.value.why
    assert "stand-in" in caught.value.why  # the replica's log
    assert processes_of(state_dir) == []
    assert yard.services() == []


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_starter_that_is_ended_leaves_nothing(state_dir: Path, end: signal.Signals) -> None:
    starter = start_elsewhere(state_dir, "yard.start('digits', spec(behave='never'), 2, probe)")
    assert starter.stdout is not None
    assert starter.stdout.readline() == "begin\n"
    eventually(lambda: len(processes_of(state_dir)) == 3, "supervisor and two replicas")
    starter.send_signal(end)
    _, errors = starter.communicate(timeout=60)
    if end is signal.SIGINT:
        assert "KeyboardInterrupt" in errors
        assert processes_of(state_dir) == []  # already when the command returns
    eventually(lambda: processes_of(state_dir) == [], "all gone")
    eventually(lambda: list(state_dir.iterdir()) == [], "the directory gone")


def test_a_service_ends_with_its_owner(state_dir: Path) -> None:
    owner = start_elsewhere(
        state_dir,
        "import os, time",
        "yard.start('trial', spec(), 1, probe, owner_pid=os.getpid())",
        "print('up', flush=True)",
        "time.sleep(600)",
    )
    assert owner.stdout is not None
    assert [owner.stdout.readline(), owner.stdout.readline()] == ["begin\n", "up\n"]
    assert len(processes_of(state_dir)) == 2
    owner.kill()
    owner.communicate()
    eventually(lambda: processes_of(state_dir) == [] and list(state_dir.iterdir()) == [], "gone with its owner")


def test_many_concurrent_starts_get_distinct_ports(state_dir: Path, yard: ProcessEngine) -> None:
    calls = "for i in {}: yard.start(f's{{i}}', spec(), 1, probe)"
    starters = [start_elsewhere(state_dir, calls.format(numbers)) for numbers in ([0, 1, 2], [3, 4, 5])]
    for starter in starters:
        _, errors = starter.communicate(timeout=120)
        assert starter.returncode == 0, errors
    statuses = yard.services()
    assert [s.name for s in statuses] == [f"s{i}" for i in range(6)]
    ports = [p for s in statuses if s.endpoint for p in (s.endpoint.http_port, s.endpoint.grpc_port)]
    assert len(set(ports)) == 12
    assert len({post(s.endpoint)["pid"] for s in statuses if s.endpoint}) == 6


def test_of_two_starts_of_one_name_one_wins(state_dir: Path) -> None:
    starters = [start_elsewhere(state_dir, "yard.start('digits', spec(), 1, probe)") for _ in range(2)]
    errors = [starter.communicate(timeout=120)[1] for starter in starters]
    assert sorted(s.returncode for s in starters) == [0, 1]
    assert sum("exists already" in e for e in errors) == 1
    assert len(processes_of(state_dir)) == 2


def test_a_port_in_use_is_a_conflict(yard: ProcessEngine, state_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=f"port {port}.* in use") as caught:
            yard.start("digits", spec(port=port), 1, probe)
    assert str(port) in caught.value.hint
    assert processes_of(state_dir) == []
    assert yard.start("digits", spec(port=port), 1, probe).http_port == port
    with pytest.raises(Conflict, match="in use"):  # although both would use SO_REUSEPORT
        yard.start("other", spec(port=port), 1, probe)


def test_a_running_name_is_a_conflict(yard: ProcessEngine) -> None:
    endpoint = yard.start("digits", spec(), 1, probe)
    with pytest.raises(Conflict, match="exists already"):
        yard.start("digits", spec(2), 1, probe)
    assert post(endpoint)["version"] == 1


@pytest.mark.parametrize("n", [0, -1])
def test_a_service_needs_a_replica(yard: ProcessEngine, n: int) -> None:
    with pytest.raises(InvalidInput):
        yard.start("digits", spec(), n, probe)


def test_scale_up_and_down(yard: ProcessEngine, state_dir: Path) -> None:
    endpoint = yard.start("digits", spec(), 1, probe)
    yard.scale("digits", 3)
    assert len({post(endpoint)["pid"] for _ in range(100)}) == 3
    yard.scale("digits", 1)
    assert [r.index for r in yard.replicas("digits")] == [0]
    assert len(processes_of(state_dir)) == 2
    post(endpoint)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_replicas_that_fill_the_machine_have_cores_of_their_own(yard: ProcessEngine) -> None:
    every = sorted(os.sched_getaffinity(0))
    yard.start("digits", spec(), 1, probe)
    assert _affinities(yard) == [every]
    yard.scale("digits", len(every))
    assert _affinities(yard) == [[core] for core in every]
    assert [r.cores for r in yard.status("digits").limits] == [(core,) for core in every]
    victim = yard.replicas("digits")[1]
    assert victim.pid
    os.kill(victim.pid, signal.SIGKILL)
    eventually(lambda: yard.replicas("digits")[1].restarts == 1, "restart")
    eventually(lambda: yard.state("digits") is ServiceState.READY, "be ready")
    eventually(lambda: _affinities(yard) == [[core] for core in every], "be bound again")
    yard.roll("digits", spec(2), None, probe)
    assert _affinities(yard) == [[core] for core in every]
    yard.scale("digits", 1)
    assert _affinities(yard) == [every]


def _affinities(yard: ProcessEngine) -> list[list[int]]:
    """Of each replica, over all its threads."""
    found = []
    for replica in yard.replicas("digits"):
        tasks = [int(task.name) for task in Path(f"/proc/{replica.pid}/task").iterdir()]
        found.append(sorted(set().union(*(os.sched_getaffinity(task) for task in tasks))))
    return found


def test_a_failed_scale_keeps_what_there_was(yard: ProcessEngine, tmp_path: Path, state_dir: Path) -> None:
    crash = tmp_path / "crash"
    endpoint = yard.start("digits", spec(crash_if=str(crash)), 1, probe)
    before = yard.status("digits").pids
    crash.touch()
    with pytest.raises(BackendFailed, match="replica 1 did not start"):
        yard.scale("digits", 2)
    assert yard.status("digits").pids == before
    assert yard.state("digits") is ServiceState.READY
    assert len(processes_of(state_dir)) == 2
    post(endpoint)


def test_roll_replaces_every_replica_on_the_same_endpoint(yard: ProcessEngine) -> None:
    endpoint = yard.start("digits", spec(1), 2, probe)
    before = set(yard.status("digits").pids[1:])
    probed: list[Endpoint] = []
    yard.roll("digits", spec(2), 3, probed.append)
    after = set(yard.status("digits").pids[1:])
    assert len(after) == 3
    assert not before & after
    assert yard.status("digits").endpoint == endpoint
    assert {post(endpoint)["version"] for _ in range(20)} == {2}
    [trial] = probed
    assert trial.http_port != endpoint.http_port  # tried where no client meets it


@pytest.mark.parametrize("behave", ["crash", "wrong"])
def test_a_failed_roll_keeps_the_old_spec(yard: ProcessEngine, state_dir: Path, behave: str) -> None:
    endpoint = yard.start("digits", spec(1), 2, probe)
    before = yard.status("digits").pids
    with pytest.raises(BackendFailed):
        yard.roll("digits", spec(2, behave=behave), probe=probe)
    eventually(lambda: len(processes_of(state_dir)) == 3, "the trial gone")
    assert yard.status("digits").pids == before
    assert {post(endpoint)["version"] for _ in range(20)} == {1}
    yard.roll("digits", spec(3), probe=probe)  # and the next one works
    assert {post(endpoint)["version"] for _ in range(20)} == {3}


def test_an_interrupted_roll_keeps_the_old_spec(yard: ProcessEngine, state_dir: Path) -> None:
    def interrupt(endpoint: Endpoint) -> None:
        raise KeyboardInterrupt

    endpoint = yard.start("digits", spec(1), 1, probe)
    before = yard.status("digits").pids
    with pytest.raises(KeyboardInterrupt):
        yard.roll("digits", spec(2), probe=interrupt)
    eventually(lambda: len(processes_of(state_dir)) == 2, "the trial gone")
    assert yard.status("digits").pids == before
    assert post(endpoint)["version"] == 1


def test_an_interrupted_probe_leaves_nothing(yard: ProcessEngine, state_dir: Path) -> None:
    def interrupt(endpoint: Endpoint) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        yard.start("digits", spec(1), 1, interrupt)
    assert processes_of(state_dir) == []
    assert yard.services() == []


def test_one_operation_at_a_time(yard: ProcessEngine) -> None:
    refused: list[Conflict] = []

    def meanwhile(endpoint: Endpoint) -> None:
        with pytest.raises(Conflict, match="under way") as caught:
            yard.scale("digits", 2)
        refused.append(caught.value)

    yard.start("digits", spec(1), 1, probe)
    yard.roll("digits", spec(2), probe=meanwhile)
    assert len(refused) == 1
    assert len(yard.replicas("digits")) == 1


def test_a_service_stopped_while_it_rolls_or_starts_is_gone(yard: ProcessEngine, state_dir: Path) -> None:
    def stop(endpoint: Endpoint) -> None:
        assert yard.stop("digits")

    yard.start("digits", spec(1), 1, probe)
    with pytest.raises(BackendFailed, match="ended before"):
        yard.roll("digits", spec(2), probe=stop)
    assert processes_of(state_dir) == []
    with pytest.raises(BackendFailed, match="ended while"):
        yard.start("digits", spec(1), 1, stop)
    assert processes_of(state_dir) == []
    assert yard.services() == []


def test_logs_are_kept_by_replica_and_by_tail(yard: ProcessEngine) -> None:
    yard.start("digits", spec(), 2, probe)
    pids = [r.pid for r in yard.replicas("digits")]
    assert list(yard.logs("digits", replica=1)) == [f"stand-in {pids[1]} version 1"]
    everything = list(yard.logs("digits"))
    assert f"replica-0 | stand-in {pids[0]} version 1" in everything
    assert everything[0].startswith("supervisor | ")
    assert list(yard.logs("digits", tail=2)) == everything[-2:]
    with pytest.raises(NotFound):
        yard.logs("digits", replica=2)


def test_logs_follow_until_the_service_ends(yard: ProcessEngine) -> None:
    endpoint = yard.start("digits", spec(), 1, probe)
    lines = yard.logs("digits", replica=0, follow=True)
    assert next(lines).startswith("stand-in")
    post(endpoint, "/log")
    assert next(lines).startswith("line 0000")
    yard.stop("digits")
    assert sum(1 for _ in lines) <= 999  # ends


def test_a_deep_state_directory_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / "services"
    yard = engine(deep)
    try:
        yard.start("digits", spec(), 1, probe)
        yard.scale("digits", 2)  # over the control socket, whose path is longer than a sun_path
        assert len(yard.replicas("digits")) == 2
    finally:
        yard.stop("digits")
    assert processes_of(deep) == []


def test_limits_are_applied_and_read_back(
    yard: ProcessEngine, monkeypatch: pytest.MonkeyPatch, state_dir: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    core = min(os.sched_getaffinity(0))
    yard.start("digits", spec(threads=3), 1, probe, limits=Limits(cores=(core,), memory_bytes=2**30))
    [applied] = yard.status("digits").limits
    assert (applied.threads, applied.cores, applied.memory_bytes) == (3, (core,), 2**30)
    assert applied.memory_enforcement in ("polling", "cgroup-v2")
    [pid] = [r.pid for r in yard.replicas("digits")]
    environment = psutil.Process(pid).environ()
    assert {environment[v] for v in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {"3"}
    assert "AWS_SECRET_ACCESS_KEY" not in environment


def test_cores_that_cannot_be_used_are_refused(yard: ProcessEngine) -> None:
    with pytest.raises(InvalidInput, match="9999"):
        yard.start("digits", spec(), 1, probe, limits=Limits(cores=(9999,)))


def test_a_command_that_does_not_exist_is_one_clear_error(state_dir: Path) -> None:
    yard = ProcessEngine(state_dir, command=("/does/not/exist",))
    with pytest.raises(BackendFailed, match=r"could not be run.*/does/not/exist"):
        yard.start("digits", spec(), 1, probe)
    assert STANDIN.exists()
