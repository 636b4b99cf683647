"""Logs are bounded while they are written, and read by tail and offset."""

from __future__ import annotations

import os
from pathlib import Path

from modelyard.dispatch.engines import logs


def test_a_bounded_log_keeps_its_newest_bytes_and_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "replica-0.log"
    writer = logs.open_log(path)
    os.write(writer, b"".join(b"%03d\n" % n for n in range(100)))
    logs.bound(path, 200)
    os.write(writer, b"100\n")
    os.close(writer)
    assert path.read_bytes() == b"100\n"
    assert logs.older(path).read_bytes() == b"".join(b"%03d\n" % n for n in range(75, 100))
    assert logs.read_lines(path, 3) == (["098", "099", "100"], 4)


def test_a_small_log_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("a\n")
    logs.bound(path, 100)
    assert path.read_text() == "a\n"
    logs.bound(tmp_path / "none", 100)


def test_last_lines_begin_where_this_life_began(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old\n")
    since = logs.size(path)
    with path.open("a") as file:
        file.write("new 1\nnew 2\nnew 3")
    assert logs.last_lines(path, 10, since) == "new 1\nnew 2\nnew 3"
    assert logs.last_lines(path, 2, since) == "new 2\nnew 3"
    path.write_text("x\n")  # cut meanwhile
    assert logs.last_lines(path, 10, since) == "x"
    assert logs.last_lines(tmp_path / "none", 10) == ""


def test_following_yields_complete_lines_of_old_and_new_logs(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("read already\nhalf")
    _, offset = logs.read_lines(first, None)
    rounds = iter([True, True, False])

    def alive() -> bool:
        going_on = next(rounds)
        with first.open("a") as file:
            file.write(" a line\nhalf")
        second.write_text("appeared\n")
        return going_on

    def prefixes() -> dict[Path, str]:
        return {path: f"{path.name}: " for path in (first, second) if path.exists()}

    seen = list(logs.follow_lines({first: offset}, prefixes, alive, interval_s=0))
    assert seen == ["a: half a line", "b: appeared", "a: half a line", "a: half a line"]


def test_several_logs_are_merged_by_time_and_cut_together(tmp_path: Path) -> None:
    first, second, third = tmp_path / "supervisor", tmp_path / "replica-0", tmp_path / "replica-1"
    first.write_text("2026-11-22T07:00:00.000Z INFO up\n2026-11-22T07:00:09.000Z INFO ending\n")
    second.write_text(
        'a framework speaks first\n{"time": "2026-11-22T07:00:02.000Z", "message": "ready"}\nTraceback\n  at line 1\n'
    )
    third.write_text("no time at all\n")
    os.utime(third, (0, 0))
    of = {first: "s | ", second: "0 | ", third: "1 | "}
    lines, offsets = logs.read_merged(of, None)
    assert [line[:12] for line in lines] == [
        "1 | no time ",
        "s | 2026-11-",
        "0 | a framew",
        '0 | {"time":',
        "0 | Tracebac",
        "0 |   at lin",
        "s | 2026-11-",
    ]
    assert offsets == {path: path.stat().st_size for path in of}
    assert logs.read_merged(of, 2)[0] == ["0 |   at line 1", "s | 2026-11-22T07:00:09.000Z INFO ending"]
    assert logs.read_merged(of, 0)[0] == []


def test_no_tail_is_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("a\nb\n")
    assert logs.read_lines(path, 0) == ([], 4)
    assert logs.read_lines(path, None) == (["a", "b"], 4)
