"""When a replica that ended is started again."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from modelyard.dispatch.engines.restart import End, EndKind, RestartBudget
from modelyard.dispatch.engines.state import RestartPolicy

POLICY = RestartPolicy(initial_s=1.0, factor=2.0, max_s=8.0, jitter=0.0, stable_s=20.0, give_up_after=4)
CRASH = End(EndKind.EXITED, "exited with code 1")
MEMORY = End(EndKind.MEMORY, "memory limit", ready_s=60.0)
KILLED = End(EndKind.KILLED, "ended by signal SIGKILL", ready_s=0.1)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def budget(clock: Clock | None = None, policy: RestartPolicy = POLICY, random: float = 0.0) -> RestartBudget:
    return RestartBudget(policy, clock or Clock(), lambda: random)


def test_waits_grow_and_then_it_gives_up() -> None:
    restarts = budget()
    assert [restarts.delay_s(CRASH) for _ in range(4)] == [1.0, 2.0, 4.0, None]


def test_a_stable_life_starts_the_count_anew() -> None:
    restarts = budget()
    for _ in range(3):
        restarts.delay_s(CRASH)
    assert restarts.delay_s(End(EndKind.EXITED, "later", ready_s=20.0)) == 1.0
    assert restarts.delay_s(CRASH) == 2.0


def test_a_short_ready_life_is_a_quick_failure() -> None:
    restarts = budget()
    delays = [restarts.delay_s(End(EndKind.HUNG, "hung", ready_s=1.0)) for _ in range(4)]
    assert delays[-1] is None


def test_someone_elses_kills_of_a_ready_replica_never_make_it_give_up_but_the_wait_is_bounded() -> None:
    restarts = budget()
    delays = [restarts.delay_s(KILLED) for _ in range(5000)]
    assert delays[:4] == [1.0, 2.0, 4.0, 8.0]
    assert set(delays[4:]) == {8.0}


def test_a_kill_before_ready_counts() -> None:
    restarts = budget()
    assert [restarts.delay_s(End(EndKind.KILLED, "killed")) for _ in range(4)][-1] is None


def test_memory_kills_are_limited_in_a_window_even_after_stable_lives() -> None:
    clock = Clock()
    restarts = budget(clock)
    for minute in range(5):
        clock.now = 60.0 * minute
        assert restarts.delay_s(MEMORY) is not None
    clock.now = 300.0
    assert restarts.delay_s(MEMORY) is None


def test_old_memory_kills_are_forgotten() -> None:
    clock = Clock()
    restarts = budget(clock)
    for hour in range(20):
        clock.now = 3600.0 * hour
        assert restarts.delay_s(MEMORY) is not None


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 200))
def test_jitter_lengthens_a_wait_by_at_most_its_share(random: float, ends: int) -> None:
    policy = RestartPolicy(jitter=0.5, initial_s=1.0, max_s=8.0)
    plain, jittered = budget(policy=policy), budget(policy=policy, random=random)
    for _ in itertools.repeat(None, ends):
        low, high = plain.delay_s(KILLED), jittered.delay_s(KILLED)
        assert low is not None
        assert high is not None
        assert low <= high <= 1.5 * low
