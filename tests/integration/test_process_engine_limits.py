"""The process engine's limits, in force: what a replica gets of memory and of the cores, and what is said of it."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from modelyard.dispatch import Limits
from modelyard.dispatch.engines.cgroups import Parents, find_parents
from modelyard.dispatch.engines.process import ProcessEngine
from modelyard.domain.errors import InvalidInput, Unsupported
from modelyard.domain.services import ReplicaState
from tests.engine_harness import engine, eventually, post, probe, processes_of, spec


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "services"
    yield path
    left = engine(path)
    for status in left.services():
        left.stop(status.name)
    assert processes_of(path) == []


@pytest.fixture
def yard(state_dir: Path) -> ProcessEngine:
    return engine(state_dir)


@pytest.fixture(scope="module")
def group() -> Iterator[str]:
    """A group of our own in the hierarchies of memory and of cpu, as an operator would make it."""
    name = f"/modelyard-test-{uuid.uuid4().hex[:8]}"
    made = directories(find_parents(name))
    try:
        for directory in made:
            directory.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    if not any((d / f).exists() for d in made for f in ("cpu.max", "cpu.cfs_quota_us")):
        pytest.skip("the cgroup made here has no CPU control")
    try:
        yield name
    finally:
        for directory in made:
            directory.rmdir()


def directories(parents: Parents) -> list[Path]:
    return sorted({Path(p) for p in (parents.memory, parents.cpu) if p})


def left_in(group: str) -> list[Path]:
    return [p for d in directories(find_parents(group)) for p in d.iterdir() if p.is_dir()]


def pid_of(yard: ProcessEngine) -> int | None:
    [replica] = yard.replicas("digits")
    return replica.pid


def test_a_replica_under_half_a_core_gets_half_a_core(state_dir: Path, group: str) -> None:
    yard = engine(state_dir, cgroup=group)
    endpoint = yard.start("digits", replace(spec(), cpu_limit=0.5), 1, probe)
    burnt = post(endpoint, "/burn")  # two processes, which could take two cores
    share = float(str(burnt["cpu_s"])) / float(str(burnt["wall_s"]))
    assert 0.1 < share < 0.6, burnt  # a busy machine gives less, and never more
    [applied] = yard.status("digits").limits
    assert applied.cpu_limit == 0.5
    assert applied.cpu_enforcement.startswith("cgroup-v")
    assert applied.throttling is not None
    assert applied.throttling.throttled > 0
    assert applied.throttling.stopped_s > 0
    yard.stop("digits")
    assert left_in(group) == []


def test_both_limits_hold_one_replica_and_every_life_of_it(state_dir: Path, group: str) -> None:
    yard = engine(state_dir, cgroup=group)
    limits = Limits(memory_bytes=200 * 2**20, cpu_limit=0.25)
    endpoint = yard.start("digits", spec(), 1, probe, limits=limits)
    pid = pid_of(yard)
    [applied] = yard.status("digits").limits
    assert (applied.memory_bytes, applied.cpu_limit) == (200 * 2**20, 0.25)
    assert applied.memory_enforcement == applied.cpu_enforcement
    with contextlib.suppress(OSError):
        post(endpoint, "/hog")

    def replaced() -> bool:
        [replica] = yard.replicas("digits")
        return replica.state is ReplicaState.READY and replica.pid not in (None, pid)

    eventually(replaced, f"a replacement of {pid}")
    [replica] = yard.replicas("digits")
    assert "killed by the kernel at 200 MiB" in replica.detail
    [applied] = yard.status("digits").limits
    assert (applied.memory_bytes, applied.cpu_limit) == (200 * 2**20, 0.25)
    assert len(left_in(group)) == len(directories(find_parents(group)))
    yard.stop("digits")
    assert left_in(group) == []


def test_a_roll_and_a_scale_hold_new_replicas_too(state_dir: Path, group: str) -> None:
    yard = engine(state_dir, cgroup=group)
    yard.start("digits", replace(spec(), cpu_limit=0.5), 1, probe)
    yard.roll("digits", replace(spec(2), cpu_limit=0.75), 2, probe)
    assert [applied.cpu_limit for applied in yard.status("digits").limits] == [0.75, 0.75]
    yard.roll("digits", spec(3), None, probe)
    assert [(a.cpu_limit, a.cpu_enforcement) for a in yard.status("digits").limits] == [(None, "none")] * 2


def test_the_groups_of_a_killed_supervisor_go_with_its_service(state_dir: Path, group: str) -> None:
    yard = engine(state_dir, cgroup=group)
    yard.start("digits", spec(), 1, probe, limits=Limits(cpu_limit=1.5))
    supervisor, *_ = yard.status("digits").pids
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: processes_of(state_dir) == [], "the replicas end with it")
    assert left_in(group) != []
    yard.stop("digits")
    assert left_in(group) == []


def test_a_limit_that_cannot_be_enforced_stops_a_start_and_a_roll_before_they_begin(state_dir: Path) -> None:
    nowhere = engine(state_dir, cgroup=f"/modelyard-no-such-{uuid.uuid4().hex}")
    with pytest.raises(Unsupported, match=r"cannot be held to 0\.5 cores") as refused:
        nowhere.start("digits", spec(), 1, probe, limits=Limits(cpu_limit=0.5))
    assert "MODELYARD_CGROUP" in refused.value.hint
    assert nowhere.services() == []
    nowhere.start("digits", spec(), 1, probe)
    pid = pid_of(nowhere)
    with pytest.raises(Unsupported):
        nowhere.roll("digits", replace(spec(2), cpu_limit=0.5), None, probe)
    assert pid_of(nowhere) == pid


def test_without_a_cgroup_whole_cores_are_by_affinity(state_dir: Path) -> None:
    yard = engine(state_dir, cgroup=f"/modelyard-no-such-{uuid.uuid4().hex}")
    yard.start("digits", replace(spec(), cpu_limit=1), 2, probe)
    one, two = yard.status("digits").limits
    assert (one.cpu_limit, one.cpu_enforcement, one.throttling) == (1, "affinity", None)
    if len(os.sched_getaffinity(0)) > 1:
        assert set(one.cores).isdisjoint(two.cores)
    for replica, applied in zip(yard.replicas("digits"), (one, two), strict=True):
        assert os.sched_getaffinity(replica.pid or 0) == set(applied.cores)


def test_a_group_outside_the_hierarchy_is_refused(state_dir: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a cgroup"):
        engine(state_dir, cgroup="/../etc")
