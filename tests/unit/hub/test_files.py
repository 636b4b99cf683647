"""Which paths a version may have."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.domain.errors import InvalidInput
from modelyard.hub.files import check_paths, read_files


@pytest.mark.parametrize("path", ["model.pt2", "a/b/c.bin", ".hidden", "a b/ü.txt", "...", "a..b/c"])
def test_paths_inside_are_accepted(path: str) -> None:
    check_paths({path: Path()})


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "../x", "a/../b", "/x", "//x", "a//b", "./a", "a/", "a\\b", "a\nb", "a\0b", "x" * 1025, "a/./b"],
)
def test_paths_that_leave_or_are_not_normal_are_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be a path"):
        check_paths({path: Path()})


@given(st.text(st.sampled_from("ab./\\\0 ~"), max_size=12))
def test_whatever_is_accepted_stays_inside(path: str) -> None:
    try:
        check_paths({path: Path()})
    except InvalidInput:
        return
    joined = Path("/root/of/version") / path
    assert joined.resolve().is_relative_to("/root/of/version")
    assert PurePosixPath(path).as_posix() == path


def test_a_file_that_is_another_files_folder_is_refused() -> None:
    with pytest.raises(InvalidInput, match="folder of"):
        check_paths({"net": Path(), "net/model.py": Path()})


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not a regular file"):
        read_files({"x": tmp_path})
