"""What is noted of cores that stood still."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from modelyard.profile.stalls import StallWatch, union_s


def test_standstills_of_several_cores_at_once_count_once():
    assert union_s(np.array([(0.0, 1.0), (0.5, 2.0), (0.6, 0.7), (5.0, 5.5)])) == pytest.approx(2.5)
    assert union_s(np.empty((0, 2))) == 0.0


def test_only_what_lies_within_the_block_counts(tmp_path: Path):
    file = tmp_path / "stalls"
    file.write_bytes(b"".join(struct.pack("<dd", *s) for s in ((1.0, 2.0), (2.5, 3.5), (9.0, 9.5))) + b"torn")
    watch = StallWatch(file)
    assert watch.stalled_s(1.5, 3.0) == pytest.approx(1.0)
    assert watch.stalled_s(4.0, 8.0) == 0.0


def test_nothing_noted_is_no_standstill(tmp_path: Path):
    assert StallWatch(tmp_path / "absent").stalled_s(0.0, 1.0) == 0.0


def test_the_watch_ends_with_its_context_and_leaves_nothing(tmp_path: Path):
    with StallWatch(tmp_path / "stalls") as watch:
        process = watch._process
        assert process.poll() is None or not watch.available
    assert process.returncode is not None
    assert list(tmp_path.iterdir()) == []
