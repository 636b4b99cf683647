"""The values that come out of conversions, and their cache on disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from modelyard.domain.artifacts import Equivalence, FailureClass, LocalArtifact, Outcome, Target
from modelyard.domain.errors import BackendFailed

_REPEATABLE_FAILURES = frozenset(
    {
        FailureClass.UNSUPPORTED_OPERATOR,
        FailureClass.DATA_DEPENDENT_CONTROL_FLOW,
        FailureClass.DYNAMIC_SHAPE_LOST,
        FailureClass.INVALID_MODEL,
        FailureClass.CONVERTER_ERROR,
    }
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of one route, and its proof. `parent` is what it was made from (the source, or an intermediate).

    `artifact` is None where the conversion failed; a rejected one is kept as evidence. `isolation` names the layers of
    the sandbox that held. `reused`: read from the cache, not run now.
    """

    key: str
    parent: Target
    target: Target
    route: str
    outcome: Outcome
    detail: str
    duration_s: float
    peak_memory_bytes: int
    tool_versions: Mapping[str, str]
    options: Mapping[str, str] = field(default_factory=dict)
    failure: FailureClass | None = None
    hint: str = ""
    log: str = ""
    artifact: LocalArtifact | None = None
    equivalence: Equivalence | None = None
    isolation: tuple[str, ...] = ()
    reused: bool = False


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """All that was tried for a target, in order, intermediates included; the first proven route to it won."""

    target: Target
    attempts: tuple[Attempt, ...]

    @property
    def winner(self) -> Attempt | None:
        return next((a for a in self.attempts if a.target == self.target and a.outcome is Outcome.PROVEN), None)

    @property
    def artifact(self) -> LocalArtifact | None:
        """The proven artifact, or None."""
        return self.winner.artifact if self.winner else None

    @property
    def equivalence(self) -> Equivalence | None:
        """The proof of the winner, or that of the last attempt that got as far as being compared."""
        judged = [a.equivalence for a in self.attempts if a.target == self.target and a.equivalence]
        return self.winner.equivalence if self.winner else (judged[-1] if judged else None)

    @property
    def outcome(self) -> Outcome:
        """Proven if a route was; rejected if one got as far as a proof that failed; else failed."""
        outcomes = {a.outcome for a in self.attempts if a.target == self.target}
        return next((o for o in (Outcome.PROVEN, Outcome.REJECTED) if o in outcomes), Outcome.FAILED)

    @property
    def deciding(self) -> Attempt:
        """The attempt that says why the outcome is what it is."""
        own = [a for a in self.attempts if a.target == self.target and a.outcome is self.outcome]
        return own[0] if own else self.attempts[-1]


class AttemptCache:
    """Finished attempts in a directory, one folder per key: `attempt.json` and the artifact's `files/`.

    An attempt becomes visible by one rename, so a killed process leaves none half-made. What may end differently next
    time (crash, time, memory, a missing package) is not kept. Safe to use from several processes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        for stale in directory.glob("tmp-*-*"):
            if not Path(f"/proc/{stale.name.split('-')[1]}").exists():
                shutil.rmtree(stale, ignore_errors=True)

    def workspace(self) -> Path:
        """A new empty directory to work in; dead processes' ones are removed at the next start."""
        path = self._directory / f"tmp-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        path.mkdir()
        return path

    def find(self, key: str) -> Attempt | None:
        """The attempt of `key`, if it is there and its files are unchanged."""
        folder = self._directory / key
        try:
            kept = msgspec.json.decode((folder / "attempt.json").read_bytes(), type=_Kept)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        attempt = kept.attempt
        if attempt.artifact:
            files = folder / "files"
            if not files.is_dir() or digest_directory(files) != kept.digest:
                shutil.rmtree(folder, ignore_errors=True)
                return None
            attempt = replace(attempt, artifact=replace(attempt.artifact, directory=str(files)))
        return replace(attempt, reused=True)

    def keep(self, attempt: Attempt, workspace: Path) -> Attempt:
        """Move a finished attempt's `files` from `workspace` to their place; returns it with the final directory."""
        worth = attempt.outcome is not Outcome.FAILED or attempt.failure in _REPEATABLE_FAILURES
        folder = self._directory / attempt.key
        if not worth:
            shutil.rmtree(workspace, ignore_errors=True)
            return attempt
        for child in workspace.iterdir():  # cases, outputs, task files: large and of no more use
            if child.name != "files":
                shutil.rmtree(child) if child.is_dir() else child.unlink()
        files = workspace / "files"
        digest = digest_directory(files) if attempt.artifact else ""
        (workspace / "attempt.json").write_bytes(msgspec.json.encode(_Kept(attempt, digest)))
        try:
            workspace.rename(folder)
        except OSError:  # another process finished the same one first; ours is as good, and stays where it is
            folder = workspace
        if attempt.artifact is None:
            return attempt
        return replace(attempt, artifact=replace(attempt.artifact, directory=str(folder / "files")))


@dataclass(frozen=True, slots=True)
class _Kept:
    attempt: Attempt
    digest: str


def digest_directory(directory: Path) -> str:
    """SHA-256 over the paths and contents of all files below `directory`."""
    total = hashlib.sha256()
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        total.update(f"{path.relative_to(directory)}\0{digest_file(path)}\n".encode())
    return total.hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_files(directory: Path, entry: str) -> None:
    """Refuse an artifact that holds anything but plain files of its own, for they will be copied and served.

    Raises BackendFailed.
    """
    for path in directory.rglob("*"):
        if path.is_symlink() or not (path.is_dir() or (path.is_file() and path.stat().st_nlink == 1)):
            raise BackendFailed(
                f"the converter made '{path.name}', which is no plain file", hint="converters must write plain files"
            )
    inside = (directory / entry).resolve()
    if not inside.is_file() or directory.resolve() not in inside.parents:
        raise BackendFailed(f"the converter made no file '{entry}'", hint="see the conversion's log")
