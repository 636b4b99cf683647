"""Settings come from the environment once, and bad ones name their variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelyard.config import Settings, unknown_variables
from modelyard.domain.errors import InvalidInput


def test_home_moves_everything(tmp_path: Path) -> None:
    settings = Settings.read({"MODELYARD_HOME": str(tmp_path)})
    assert settings.database_url == f"sqlite:///{tmp_path}/hub.db"
    assert settings.blobs_url == str(tmp_path / "blobs")
    assert settings.cache_dir.is_relative_to(tmp_path)


def test_an_explicit_home_wins(tmp_path: Path) -> None:
    assert Settings.read({"MODELYARD_HOME": "/elsewhere"}, home=tmp_path).home == tmp_path


def test_a_price_without_a_source_names_the_setting(tmp_path: Path) -> None:
    settings = Settings.read({"MODELYARD_PRICE_PER_CORE_HOUR": "0.1"}, home=tmp_path)
    assert settings.price_per_core_hour == 0.1
    assert settings.price_source == "MODELYARD_PRICE_PER_CORE_HOUR"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODELYARD_PRICE_PER_CORE_HOUR", "free"),
        ("MODELYARD_PRICE_PER_CORE_HOUR", "-1"),
        ("MODELYARD_CONVERT_TIMEOUT_S", "inf"),
        ("MODELYARD_TRUST", "maybe"),
    ],
)
def test_a_bad_value_names_its_variable(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        Settings.read({name: value}, home=tmp_path)


def test_prepare_makes_the_home(tmp_path: Path) -> None:
    settings = Settings.read({}, home=tmp_path / "a" / "b")
    settings.prepare()
    settings.prepare()
    assert settings.home.is_dir()


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_cannot_be_the_home(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot be the data directory") as caught:
        Settings.read({}, home=tmp_path / "file" / below).prepare()
    assert "MODELYARD_HOME" in caught.value.hint


def test_a_variable_that_nothing_reads_is_found_with_what_was_meant() -> None:
    environ = {"MODELYARD_HOEM": "/x", "MODELYARD_COLOUR": "1", "MODELYARD_DEBUG": "1", "MODELYARD_HOME": "/y", "A": ""}
    assert unknown_variables(environ) == {"MODELYARD_HOEM": "MODELYARD_HOME", "MODELYARD_COLOUR": ""}
