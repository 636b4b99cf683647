"""Logs of a service: bounded on disk, read by their tail, followed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%S"
"""How the logs of a service write UTC, followed by milliseconds and Z; in this form, order as text is order in time."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}")
_TIME_WITHIN: Final = 64


def open_log(path: Path) -> int:
    """A file descriptor that appends: a child writes to it directly, so no reader can ever block it."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def bound(path: Path, limit_bytes: int) -> None:
    """When the log exceeds half of `limit_bytes`, keep that half as `<name>.1` and begin anew.

    Copied and truncated, not renamed: the replica keeps its descriptor. A line written in between is lost.
    """
    try:
        if path.stat().st_size <= limit_bytes // 2:
            return
    except FileNotFoundError:
        return
    with path.open("rb") as source, older(path).open("wb") as target:
        source.seek(-(limit_bytes // 2), os.SEEK_END)
        shutil.copyfileobj(source, target)
    os.truncate(path, 0)


def older(path: Path) -> Path:
    """Where the older half of a log is."""
    return path.with_name(path.name + ".1")


def size(path: Path) -> int:
    """Bytes in the log now, 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def last_lines(path: Path, lines: int, since: int = 0) -> str:
    """The last lines written after offset `since` (the whole log where it was cut since then), 64 KiB at most."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            begin = since if since <= end else 0
            file.seek(max(begin, end - 65536))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.rstrip("\n").splitlines()[-lines:])


def read_lines(path: Path, tail: int | None) -> tuple[list[str], int]:
    """All lines of a log and its older half, or the last `tail`; and the offset up to which `path` was read.

    A last line that is not complete yet is left for `follow_lines`.
    """
    text = b""
    offset = 0
    for part in (older(path), path):
        try:
            content = part.read_bytes()
        except FileNotFoundError:
            continue
        if part == path:
            offset = content.rfind(b"\n") + 1
            content = content[:offset]
        text += content
    lines = text.decode(errors="replace").splitlines()
    return (lines if tail is None else lines[max(0, len(lines) - tail) :]), offset


def read_merged(logs: Mapping[Path, str], tail: int | None) -> tuple[list[str], dict[Path, int]]:
    """The lines of several logs in the order they were written, each behind its log's prefix; the last `tail` of all.

    Also the offset up to which each log was read. A line without a time of its own (a traceback, a framework's
    output) goes with the one before it.
    """
    found: list[tuple[str, str]] = []
    offsets = {}
    for path, prefix in logs.items():
        lines, offsets[path] = read_lines(path, None)  # all: what is cut off may tell the time of the rest
        found += zip(_times(lines, path), (prefix + line for line in lines), strict=True)
    merged = [line for _, line in sorted(found, key=lambda timed: timed[0])]
    return (merged if tail is None else merged[max(0, len(merged) - tail) :]), offsets


def _times(lines: Sequence[str], path: Path) -> list[str]:
    """When each line was written, never falling: as it says itself, else as a line near it does, else the file."""
    said = [found[0] if (found := _TIME.search(line, 0, _TIME_WITHIN)) else "" for line in lines]
    time_ = next(filter(None, said), "")
    if not time_ and lines:
        with contextlib.suppress(FileNotFoundError):
            time_ = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="milliseconds")
    times = []
    for own in said:
        time_ = max(time_, own)
        times.append(time_)
    return times


def follow_lines(
    offsets: dict[Path, int],
    logs: Callable[[], dict[Path, str]],
    alive: Callable[[], bool],
    interval_s: float = 0.2,
) -> Iterator[str]:
    """New complete lines as they come, until `alive` says no more.

    `logs` gives each log's prefix, and is asked again and again, as new ones may appear; `offsets`: where to go on.
    """
    while True:
        going_on = alive()  # asked before reading, so that the last lines are not missed
        for path, prefix in logs().items():
            content, offsets[path] = _complete_lines(path, offsets.get(path, 0))
            for line in content:
                yield prefix + line
        if not going_on:
            return
        time.sleep(interval_s)


def _complete_lines(path: Path, offset: int) -> tuple[list[str], int]:
    if size(path) < offset:  # cut since
        offset = 0
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read()
    except FileNotFoundError:
        return [], 0
    complete = content[: content.rfind(b"\n") + 1]
    return complete.decode(errors="replace").splitlines(), offset + len(complete)
