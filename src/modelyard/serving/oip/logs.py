"""Triton's log settings, with their effect on this process's log.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_logging.md
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec

from modelyard.domain.errors import InvalidInput

LogValue: TypeAlias = bool | int | str
_SWITCHES: Final = {"log_info": logging.INFO, "log_warning": logging.WARNING, "log_error": logging.ERROR}


class LogSettings(msgspec.Struct, frozen=True):
    """What is logged. `log_verbose_level` above 0 adds debug lines; lines are JSON with ISO 8601 times."""

    log_file: str = ""
    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = 0
    log_format: str = "default"


class Logs:
    """The log settings of a process. Before the first update they are what the process was started with."""

    def __init__(self, root: logging.Logger | None = None) -> None:
        self._root = root if root is not None else logging.getLogger()
        self._settings: LogSettings | None = None

    @property
    def settings(self) -> LogSettings:
        """The present settings."""
        if self._settings is not None:
            return self._settings
        on = self._root.isEnabledFor
        return LogSettings(
            log_info=on(logging.INFO),
            log_warning=on(logging.WARNING),
            log_error=on(logging.ERROR),
            log_verbose_level=int(on(logging.DEBUG)),
        )

    def update(self, wanted: Mapping[str, object]) -> LogSettings:
        """Change settings, all or none, and return them all. Raises InvalidInput with Triton's texts."""
        before = self.settings
        changed: dict[str, LogValue] = {}
        for name, value in wanted.items():
            changed[name] = self._checked(before, name, value)
        after = msgspec.structs.replace(before, **changed)
        if self._settings is None:
            for handler in self._root.handlers:
                handler.addFilter(self._passes)
        self._settings = after
        self._root.setLevel(_level(after))
        return after

    @staticmethod
    def _checked(before: LogSettings, name: str, value: object) -> LogValue:
        if name == "log_file":
            if value == before.log_file:
                return before.log_file
            raise InvalidInput(
                "log file location can not be updated through network protocol", hint="the log goes to stderr"
            )
        if name == "log_format":
            if value == before.log_format:
                return before.log_format
            raise InvalidInput("log_format can not be updated", why="lines are JSON, with ISO 8601 times")
        if name in _SWITCHES:
            if isinstance(value, bool):
                return value
            raise InvalidInput(f"{name} must be true or false")
        if name == "log_verbose_level":
            if type(value) is int and value >= 0:
                return value
            raise InvalidInput("log_verbose_level must be a non-negative integer")
        raise InvalidInput(f"unknown log setting: '{name[:100]}'")

    def _passes(self, record: logging.LogRecord) -> bool:
        """Whether a line is wanted: the logger's level alone cannot leave out warnings and keep information."""
        now = self.settings
        if record.levelno >= logging.ERROR:
            return now.log_error
        if record.levelno >= logging.WARNING:
            return now.log_warning
        return now.log_info if record.levelno >= logging.INFO else now.log_verbose_level > 0


def _level(settings: LogSettings) -> int:
    """The lowest level that passes, so that what nobody wants is not even made."""
    if settings.log_verbose_level:
        return logging.DEBUG
    wanted = [level for name, level in _SWITCHES.items() if getattr(settings, name)]
    return min(wanted, default=logging.CRITICAL)
