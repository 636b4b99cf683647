"""Raw samples survive the file, and a broken file is said to be one."""

from __future__ import annotations

import numpy as np
import pytest

from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.profile.samples import Samples
from tests.unit.profile.builders import queue_block


def test_samples_survive_the_file_block_by_block(tmp_path):
    rng = np.random.default_rng(0)
    parts = [queue_block(100, rng.exponential(0.001, 50), rng, number=n) for n in (0, 1, 4)]
    Samples.join(parts).save(tmp_path / "samples.npz")
    loaded = Samples.load(tmp_path / "samples.npz")
    assert len(loaded) == 150
    for part, back in zip(parts, loaded.blocks(), strict=True):
        for name in ("block", "scheduled_s", "dispatched_s", "sent_s", "completed_s", "status"):
            assert np.array_equal(getattr(part, name), getattr(back, name))


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        Samples.load(tmp_path / "none.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"text"])
def test_a_file_that_is_no_samples_is_invalid(tmp_path, content):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(InvalidInput):
        Samples.load(path)


def test_missing_columns_are_invalid(tmp_path):
    np.savez(tmp_path / "partial.npz", block=np.zeros(2, np.int32))
    with pytest.raises(InvalidInput):
        Samples.load(tmp_path / "partial.npz")
