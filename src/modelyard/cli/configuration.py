"""The settings with where each comes from, for `yard config show`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelyard.config import Settings

_PASSWORD = re.compile(r"(://[^/@:]*:)[^@/]*(?=@)")


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting: its name, its value as text (no passwords), the variable that sets it, where it came from."""

    name: str
    value: str
    variable: str
    origin: str


def rows(settings: Settings, *, home_given: bool, environ: Mapping[str, str] | None = None) -> list[SettingRow]:
    """Every setting in its documented order. `environ` defaults to the process'."""
    import os

    env = os.environ if environ is None else environ
    found = []
    for field in fields(settings):
        variable = f"MODELYARD_{field.name.upper()}"
        origin = "environment" if env.get(variable) else "default"
        if field.name == "home" and home_given:
            origin = "--home"
        value = _PASSWORD.sub(r"\1***", str(getattr(settings, field.name)))
        found.append(SettingRow(field.name, value, variable, origin))
    return found
