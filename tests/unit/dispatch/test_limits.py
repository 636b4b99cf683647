"""Limits of a replica: where their cgroups may be, what is chosen where there is none, what is read back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from modelyard.dispatch import Limits, Throttling
from modelyard.dispatch.engines.cgroups import Group, Parents, find_parents, remove_groups
from modelyard.dispatch.engines.cpu import Affinity, CpuQuota, cpu_limit, throttling
from modelyard.dispatch.engines.limits import ReplicaLimits, check_limits
from modelyard.dispatch.engines.placement import cores_of
from modelyard.domain.configuration import Configuration
from modelyard.domain.errors import InvalidInput, Unsupported
from modelyard.hub.records import from_json, to_json
from tests.builders import configuration
from tests.engine_harness import spec


def mounts(root: Path, *lines: str, own: str = "0::/app\n") -> Path:
    """A /proc/self in which hierarchies are mounted below `root`: `v1 NAME CONTROLLERS`, or `v2 NAME`."""
    text = "22 1 0:5 / /proc rw - proc proc rw\n"
    for line in lines:
        version, name, controllers = (*line.split(), "")[:3]
        kind = "cgroup2 cgroup2 rw" if version == "v2" else f"cgroup cgroup rw,{controllers}"
        text += f"30 22 0:30 / {root / name} rw,relatime shared:9 - {kind}\n"
    process = root / "self"
    process.mkdir()
    (process / "mountinfo").write_text(text)
    (process / "cgroup").write_text(own)
    return process


def test_the_named_group_is_found_in_each_v1_hierarchy(tmp_path: Path) -> None:
    process = mounts(tmp_path, "v1 cpu,cpuacct cpu,cpuacct", "v1 memory memory", "v2 unified")
    found = find_parents("/yard/a", process)
    assert found == Parents(str(tmp_path / "memory/yard/a"), str(tmp_path / "cpu,cpuacct/yard/a"))
    assert find_parents("yard/a", process) == found


def test_the_named_group_is_one_in_v2_and_none_without_hierarchies(tmp_path: Path) -> None:
    both = find_parents("/yard", mounts(tmp_path, "v2 sys"))
    assert both == Parents(str(tmp_path / "sys/yard"), str(tmp_path / "sys/yard"))
    (tmp_path / "none").mkdir()
    assert find_parents("/yard", mounts(tmp_path / "none")) == Parents()


@pytest.mark.parametrize("name", ["/", "", "../x", "/a/../../b"])
def test_a_name_that_leaves_the_hierarchy_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a cgroup"):
        find_parents(name, mounts(tmp_path, "v2 sys"))


def test_unasked_only_what_is_delegated_in_v2_is_taken(tmp_path: Path) -> None:
    group = tmp_path / "unified" / "user.slice" / "app"
    group.mkdir(parents=True)
    process = mounts(tmp_path, "v1 memory memory", "v2 unified", own="4:memory:/user.slice/app\n0::/user.slice/app\n")
    assert find_parents(None, process) == Parents()
    control = group / "cgroup.subtree_control"
    control.write_text("cpu pids\n")
    assert find_parents(None, process) == Parents(cpu=str(group))
    control.write_text("cpu memory pids\n")
    assert find_parents(None, process) == Parents(str(group), str(group))


def v1(tmp_path: Path, name: str = "x") -> Path:
    """A stand-in of a v1 group: plain files where the kernel would have its own."""
    (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("cores", "quota", "period"),
    [(0.5, 5000, 10_000), (2, 20_000, 10_000), (0.25, 5000, 20_000), (0.01, 5000, 500_000)],
)
def test_a_quota_is_cpu_time_in_short_periods_and_never_below_the_kernels_tick(
    cores: float, quota: int, period: int, tmp_path: Path
) -> None:
    limit = CpuQuota(str(v1(tmp_path)), "x", cores)
    assert (tmp_path / "x/cpu.cfs_quota_us").read_text() == str(quota)
    assert (tmp_path / "x/cpu.cfs_period_us").read_text() == str(period)
    assert (limit.enforcement, limit.applied_cores(1)) == ("cgroup-v1", cores)
    (tmp_path / "cgroup.controllers").write_text("cpu")
    limit = CpuQuota(str(tmp_path), "x", cores)
    assert (tmp_path / "x/cpu.max").read_text() == f"{quota} {period}"
    assert (limit.enforcement, limit.applied_cores(1)) == ("cgroup-v2", cores)


def test_what_is_read_back_is_the_kernels_word(tmp_path: Path) -> None:
    limit = CpuQuota(str(v1(tmp_path)), "x", 0.5)
    (tmp_path / "x/cpu.cfs_quota_us").write_text("2500\n")
    assert limit.applied_cores(1) == 0.25


@pytest.mark.parametrize("parent", [None, "missing"])
def test_without_a_cgroup_a_fraction_is_refused_and_the_setting_named(parent: str | None, tmp_path: Path) -> None:
    where = None if parent is None else str(tmp_path / parent)
    with pytest.raises(Unsupported, match=r"cannot be held to 0\.5 cores") as refused:
        cpu_limit(0.5, where, "x", [0, 1], 0)
    assert "MODELYARD_CGROUP" in refused.value.hint
    assert ("missing" if parent else "none is named") in refused.value.why


def test_without_a_cgroup_whole_cores_are_by_affinity_side_by_side() -> None:
    def taken(cores: float, turn: int) -> tuple[int, ...]:
        limit = cpu_limit(cores, None, "x", [2, 3, 5, 7], turn)
        assert isinstance(limit, Affinity)
        assert (limit.enforcement, limit.group) == ("affinity", "")
        return limit._cores

    assert [taken(1, turn) for turn in range(5)] == [(2,), (3,), (5,), (7,), (2,)]
    assert [taken(2, turn) for turn in range(3)] == [(2, 3), (5, 7), (2, 3)]
    assert taken(3, 1) == (2, 3, 7)
    assert taken(64, 3) == (2, 3, 5, 7)


def test_throttling_is_counted_in_both_versions_words(tmp_path: Path) -> None:
    assert throttling("") is None
    assert throttling(str(tmp_path)) is None
    stat = tmp_path / "cpu.stat"
    stat.write_text("nr_periods 200\nnr_throttled 50\nthrottled_time 1500000000\n")
    assert throttling(str(tmp_path)) == Throttling(200, 50, 1.5)
    stat.write_text("usage_usec 5\nnr_periods 200\nnr_throttled 50\nthrottled_usec 250000\n")
    assert throttling(str(tmp_path)) == Throttling(200, 50, 0.25)


def test_a_check_leaves_no_group_and_limits_come_first_from_the_caller(tmp_path: Path) -> None:
    parents = Parents(cpu=str(tmp_path))
    (tmp_path / "yard-1-0").mkdir()
    with pytest.raises(Unsupported, match=r"0\.5 cores"):  # no quota file can be made where the directory is gone
        check_limits(Limits(cpu_limit=0.5), spec(), Parents(cpu=str(tmp_path / "gone")), "yard-1-check")
    assert [path.name for path in tmp_path.iterdir()] == ["yard-1-0"]
    remove_groups(parents, "yard-1-*")
    assert list(tmp_path.iterdir()) == []
    one = ReplicaLimits(Limits(cpu_limit=1), spec(), Parents(), "x")
    applied = one.applied(os.getpid(), None)
    assert applied.cpu_enforcement == "affinity"
    assert ReplicaLimits(Limits(), spec(), Parents(), "x").applied(os.getpid(), 3).cpu_limit is None


def test_a_group_can_be_made_twice_for_both_limits_of_v2_share_one(tmp_path: Path) -> None:
    assert Group(str(tmp_path), "x").path == Group(str(tmp_path), "x").path


@pytest.mark.parametrize("cores", [0, -1, 0.001, 1e9, float("nan"), float("inf")])
def test_no_configuration_is_held_to_so_many_cores(cores: float) -> None:
    with pytest.raises(InvalidInput, match="cannot be held to"):
        replace(configuration(), cpu_limit=cores)


def test_a_stored_configuration_from_before_has_no_limit_on_cores() -> None:
    stored = to_json(configuration())
    assert '"cpu_limit":null' in stored
    assert from_json(stored.replace(',"cpu_limit":null', ""), Configuration) == configuration()


def test_replicas_are_bound_only_where_their_threads_are_as_many_as_the_cores() -> None:
    four = Limits(cores=(2, 3, 6, 7))
    assert [cores_of(k, 4, spec(), four) for k in range(4)] == [(2,), (3,), (6,), (7,)]
    wide = replace(four, threads=2)
    assert [cores_of(k, 2, spec(), wide) for k in range(2)] == [(2, 3), (6, 7)]
    assert cores_of(0, 3, spec(), four) == ()  # a core is left over: the kernel finds it
    assert cores_of(0, 1, spec(), replace(four, threads=4)) == ()
    assert cores_of(-1, 4, spec(), four) == ()  # a trial runs beside the others
    assert cores_of(0, 4, spec(), replace(four, cpu_limit=0.5)) == ()
    several = replace(spec(), models=tuple(replace(m, instances=2) for m in spec().models))
    assert cores_of(0, 4, several, four) == ()
