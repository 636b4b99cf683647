"""Settings come from the environment once, and bad ones name their variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelyard.config import Settings
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
