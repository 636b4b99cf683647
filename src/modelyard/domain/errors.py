"""The error family: one root, a few leaves.

An error says what happened, why, and what to try next. It carries no transport codes; each edge (CLI, HTTP, gRPC)
maps the leaves to its own codes in one table, and a test fails on an unmapped leaf.
Expected outcomes (a rejected equivalence, a missed SLO, a failed trial) are values, not errors.
"""

from __future__ import annotations


class ModelyardError(Exception):
    """Root of all errors that Modelyard raises on purpose.

    `what` happened in one sentence, `why` if known, `hint`: what to do or which command to try next.
    """

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        return self.what if not self.why else f"{self.what}: {self.why}"

    def __reduce__(self) -> tuple[object, ...]:
        # the third element restores what a leaf adds (retry_after_s)
        return (_rebuild, (type(self), self.what, self.why, self.hint), dict(self.__dict__))


def _rebuild(kind: type[ModelyardError], what: str, why: str, hint: str) -> ModelyardError:
    return kind(what, why=why, hint=hint)


class NotFound(ModelyardError):
    """A named thing (model, version, alias, artifact, service, file) does not exist."""


class Conflict(ModelyardError):
    """The request contradicts the present state: a name is taken, a port is in use, a version is referenced."""


class InvalidInput(ModelyardError):
    """What the caller gave (manifest, option, tensor, file) is wrong and will stay wrong when tried again."""


class Unsupported(ModelyardError):
    """A valid request that this installation cannot do: an unknown runtime, a missing extra, no such device."""


class BackendFailed(ModelyardError):
    """Something underneath (framework, database, blob store, child process) failed."""


class Unavailable(ModelyardError):
    """Not now: overloaded, draining, not ready, timed out. Trying again later may work."""

    def __init__(self, what: str, *, why: str = "", hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(what, why=why, hint=hint)
        self.retry_after_s = retry_after_s


class Rejected(ModelyardError):
    """A gate said no: nothing was proven equal, a check failed, an untrusted file was refused."""
