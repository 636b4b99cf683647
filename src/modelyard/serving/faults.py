"""The one table from Modelyard's errors to HTTP statuses and gRPC codes (Triton's map), and the error's text."""

from __future__ import annotations

import re
from copy import copy
from math import ceil
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


class TooLarge(InvalidInput):
    """The request's body exceeds the replica's limit."""


class HeadTooLarge(InvalidInput):
    """The request's head exceeds the replica's limit."""


class Expired(Unavailable):
    """The request's own deadline passed before the model ran it."""


STATUS: dict[type[ModelyardError], tuple[int, str]] = {
    HeadTooLarge: (431, "RESOURCE_EXHAUSTED"),
    TooLarge: (413, "RESOURCE_EXHAUSTED"),
    Expired: (503, "DEADLINE_EXCEEDED"),
    InvalidInput: (400, "INVALID_ARGUMENT"),
    NotFound: (404, "NOT_FOUND"),
    Conflict: (409, "ALREADY_EXISTS"),
    Unsupported: (501, "UNIMPLEMENTED"),
    BackendFailed: (500, "INTERNAL"),
    Unavailable: (503, "UNAVAILABLE"),
    Rejected: (403, "PERMISSION_DENIED"),
    ModelyardError: (500, "INTERNAL"),
}
"""HTTP status and gRPC code by leaf. An Unavailable that names a time to come back is overload: 429."""


def status_of(error: ModelyardError) -> tuple[int, str]:
    """HTTP status and gRPC code name of an error."""
    if type(error) is Unavailable and error.retry_after_s is not None:
        return 429, "RESOURCE_EXHAUSTED"
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return STATUS[ModelyardError]


def text_of(error: ModelyardError) -> str:
    """What a client reads: what, why and the hint in one line."""
    return f"{error} ({error.hint})" if error.hint else str(error)


_PATH: Final = re.compile(r"(?<![\w.:/])/(?:[^\s'\"`:,;()<>\[\]]|[ ](?=[^\s/]*/))+")
"""An absolute path; a blank belongs to it where a slash follows in the next word."""


def without_paths(text: str) -> str:
    """A text that clients may read: of the server's paths only the last part."""
    return _PATH.sub(lambda found: ".../" + found[0].rstrip("/").rpartition("/")[2], text)


def for_clients(error: ModelyardError) -> ModelyardError:
    """The error without the server's paths; its cause is the error itself, which the log should have."""
    told = copy(error)
    told.what, told.why, told.hint = (without_paths(text) for text in (error.what, error.why, error.hint))
    told.args = (told.what,)
    told.__cause__ = error
    return told


def retry_after_header(error: ModelyardError) -> str | None:
    """The Retry-After value (whole seconds, at least 1), where the error says when to come back."""
    after = getattr(error, "retry_after_s", None)
    return None if after is None else str(max(1, ceil(after)))
