"""Silence of a replica is measured on the watcher's own clock."""

from __future__ import annotations

import os
from pathlib import Path

from modelyard.dispatch.engines.heartbeat import TICK_S, Heartbeat


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_silence_grows_until_the_next_beat(tmp_path: Path) -> None:
    file, clock = tmp_path / "beat", Clock()
    file.touch()
    heart = Heartbeat(file, clock)
    assert heart.silent_s() == 0
    for _ in range(6):
        clock.now += TICK_S
        silent_s = heart.silent_s()
    assert silent_s == 6 * TICK_S
    os.utime(file, ns=(1, 1))  # a beat is a change, even to a time long past: wall clocks jump
    assert heart.silent_s() == 0


def test_a_file_that_never_was_says_nothing(tmp_path: Path) -> None:
    assert Heartbeat(tmp_path / "beat", Clock()).silent_s() is None


def test_a_file_that_is_gone_is_silence(tmp_path: Path) -> None:
    file, clock = tmp_path / "beat", Clock()
    file.touch()
    heart = Heartbeat(file, clock)
    heart.silent_s()
    file.unlink()
    clock.now += TICK_S
    assert heart.silent_s() == TICK_S


def test_the_watchers_own_pause_is_not_the_replicas_silence(tmp_path: Path) -> None:
    file, clock = tmp_path / "beat", Clock()
    file.touch()
    heart = Heartbeat(file, clock)
    heart.silent_s()
    clock.now += 3600  # suspended, with the replica
    assert heart.silent_s() == 0
