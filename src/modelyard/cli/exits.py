"""Exit codes, and how an error is told to the user."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

from modelyard.domain.errors import (
    BackendFailed,
    Conflict,
    InvalidInput,
    ModelyardError,
    NotFound,
    Rejected,
    Unavailable,
    Unsupported,
)

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
REJECTED: Final = 4
UNAVAILABLE: Final = 5
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
TERMINATED: Final = 143

MEANING: Final[dict[int, str]] = {
    OK: "done",
    FAILURE: "something underneath failed, or a bug in Modelyard",
    USAGE: "the command line, a manifest or another input is wrong",
    NOT_FOUND: "a named model, version, alias, tag, artifact, measurement, study, service or file does not exist",
    REJECTED: "a gate said no: nothing proven equal, a target rejected, the SLO missed, an untrusted file refused",
    UNAVAILABLE: "not possible here and now: overloaded, not ready, not installed, a name or port is taken",
    INTERRUPTED: "Ctrl-C; what was finished is kept",
    BROKEN_PIPE: "the reader of stdout went away (`| head`)",
    TERMINATED: "SIGTERM; what was finished is kept",
}
"""Every exit code of `yard` and what it says. docs/cli.md states the same table (a test compares)."""

BY_ERROR: Final[dict[type[ModelyardError], int]] = {
    ModelyardError: FAILURE,
    BackendFailed: FAILURE,
    InvalidInput: USAGE,
    NotFound: NOT_FOUND,
    Rejected: REJECTED,
    Unavailable: UNAVAILABLE,
    Unsupported: UNAVAILABLE,
    Conflict: UNAVAILABLE,
}
"""The CLI's one table from error leaf to exit code."""


def exit_code(error: ModelyardError) -> int:
    """The exit code of `error`; a subclass without a row of its own takes its nearest ancestor's."""
    return next(BY_ERROR[kind] for kind in type(error).__mro__ if kind in BY_ERROR)


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error as it is shown: what happened, why, what to try next, and the exit code."""

    type: str
    what: str
    why: str
    hint: str
    exit_code: int

    @classmethod
    def of(cls, error: ModelyardError) -> Complaint:
        return cls(type(error).__name__, error.what, error.why, error.hint, exit_code(error))

    def lines(self) -> list[str]:
        """The complaint in words: one line each for what, why and hint; those not known are left out."""
        # being stopped by the user is no error
        rows = [self.what if self.exit_code in (INTERRUPTED, TERMINATED) else f"error: {self.what}"]
        rows += [f"  why: {line}" if i == 0 else f"       {line}" for i, line in enumerate(self.why.splitlines())]
        rows += [f"  try: {line}" if i == 0 else f"       {line}" for i, line in enumerate(self.hint.splitlines())]
        return rows


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C: clean up, keep what is done."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came while a command worked. `kept` says what was kept, if the command can go on from there."""

    def __init__(self, kept: str, *, terminated: bool) -> None:
        super().__init__(kept)
        self.kept = kept
        self.terminated = terminated


class ReaderGone(Exception):
    """Whoever read stdout closed it."""


def of_os_error(error: OSError) -> ModelyardError | None:
    """The failures of a disk that need no bug report, as a known error; None for any other."""
    where = str(error.filename or "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        full = str(error.filename2 or where)  # a failed copy names its source first
        return BackendFailed(
            f"the disk is full{' at ' + full if full else ''}",
            hint="make room ('yard gc' removes what nothing refers to) or set MODELYARD_HOME to another disk",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return BackendFailed(
            f"no permission for {where or 'a file'}",
            why=error.strerror or "",
            hint="check the owner of that path, or set MODELYARD_HOME to a directory of yours",
        )
    return None
